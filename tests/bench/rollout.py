"""Answers per second of our rollouts beside one answer at a time, in one run, same answers.

    python tests/bench/rollout.py [PRESET.yaml] [--questions 240]

All ask the merged adapter of seed 0 the preset's first benchmark in multi-round, openings
included: our batches from dense weights and from four bits, and the plain way that evaluation
scripts take, transformers' `generate` from four bits, one prompt after the other, nothing kept
between them.  Notebooks 00, 02 and 04 must have run.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import torch
from tqdm.auto import tqdm

from cocoift.core.images import open_image, pixel_values, side_by_side
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import Prompt
from cocoift.study import Study, read_preset
from cocoift.tuning.chat import Encoding, prompt_ids
from cocoift.tuning.checkpoints import load_adapters
from cocoift.tuning.model import dense, image_tokens, load_model, load_processor

ROOT = Path(__file__).resolve().parents[2]


def plain(model, processor, asked, chat, new_tokens, least=0):
    """Answer one question after the other with transformers' `generate`."""
    tokenizer, answers = processor.tokenizer, []
    encoding = Encoding(tokenizer, chat, image_tokens(model.config))
    for prompt in tqdm(asked, desc="one at a time", leave=False):
        ids = torch.tensor([prompt_ids(prompt.messages, encoding)]).to(model.device)
        pixels = pixel_values([side_by_side(prompt.pictures)], processor.image_processor)
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=torch.from_numpy(pixels).to(model.device, model.dtype),
            max_new_tokens=new_tokens,
            min_new_tokens=least,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        answers.append(text.strip())
    return answers


def dialogs(answer, questions, opening, images):
    """Play the opening and ask every question, with whatever `answer` gives; return answers."""
    pictures = {q.images: tuple(open_image(images / n) for n in q.images) for q in questions}
    keys = list(pictures)
    first = [Message("human", f"{IMAGE_MARKER}\n{opening}")]
    replies = dict(
        zip(keys, answer([Prompt(str(k), pictures[k], first) for k in keys]), strict=True)
    )
    return answer(
        [
            Prompt(
                str(q.images),
                pictures[q.images],
                [*first, Message("gpt", replies[q.images]), Message("human", q.text)],
            )
            for q in questions
        ]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", default="mini")
    parser.add_argument("--questions", type=int, default=240)
    chosen = parser.parse_args()
    study = Study(ROOT, read_preset(chosen.preset))
    training = study.training("merged", 0)
    benchmark, *_ = study.benchmarks()
    protocols = study.protocols()
    (opening,) = protocols["multi_round"].opening
    questions = benchmark.questions[: chosen.questions]
    processor = load_processor(training.checkpoint)

    def loaded(make):
        base = load_model(
            training.checkpoint, four_bit=training.recipe.four_bit, device=training.device
        )
        return load_adapters(make(base), {"merged": training.adapter})

    chat, new_tokens = study.chat, study.preset.evaluation.new_tokens
    options = {
        "chat": chat,
        "new_tokens": new_tokens,
        "batch": study.preset.evaluation.answer_batch,
    }
    packed = loaded(lambda base: base)
    ways = {
        "dense weights": partial(generate, loaded(dense), processor, **options),
        "four bits": partial(generate, packed, processor, **options),
        "one at a time": partial(plain, packed, processor, chat=chat, new_tokens=new_tokens),
    }
    rates, answers = {}, {}
    for name, answer in ways.items():
        start = time.perf_counter()
        answers[name] = dialogs(answer, questions, opening, benchmark.images)
        rates[name] = len(questions) / (time.perf_counter() - start)
    for name, rate in rates.items():
        same = sum(a == b for a, b in zip(answers[name], answers["four bits"], strict=True))
        print(
            f"{name:14} {rate:8.1f} answers/s, {rate / rates['one at a time']:5.1f}x; "
            f"{same} of {len(questions)} answers are those of four bits"
        )


if __name__ == "__main__":
    main()
