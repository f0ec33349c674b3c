"""What `gpu.py` works on: checkpoints of random weights in the published shapes, and records."""

import random
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from cocoift.core.schema import IMAGE_MARKER, Message, Record
from cocoift.merge.export import write_mixture
from cocoift.tuning.assembly import make_processor
from cocoift.tuning.checkpoints import save_checkpoint
from cocoift.tuning.model import image_tokens, load_config, load_processor
from cocoift.tuning.recipe import Training, TuningRecipe
from minicoco import CHAT

ROOT = Path(__file__).resolve().parents[2]
# Any tokenizer does for random weights; this one ships with the project.
TINY = ROOT / "data/mini_llava"
WORDS = ("small", "red", "cup", "at", "the", "top", "left", "and", "blue", "birds", "in", "park")
_CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
         "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip
_SMALL_CLIP = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
               "num_attention_heads": 2, "image_size": 64, "patch_size": 16}  # fmt: skip


def _llama(width, intermediate, layers, heads):
    return {"hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """A size to measure at: the model's layers, and how much it reads and writes.

    A merged record has `rounds` rounds of `words` words, a step `records` of them.
    """

    text: dict
    vision: dict = field(default_factory=lambda: _CLIP)
    vocabulary: int = 32_064  # llava-hf/llava-1.5-7b-hf's
    context: int = 2_048
    rounds: int = 30
    words: int = 32
    records: int = 32
    batch_tokens: int = 8_192
    new_tokens: int = 48
    batches: tuple[int, ...] = (1, 8, 32, 64)
    rank: int = 128


SHAPES = {
    "7b": Shape(_llama(4096, 11_008, 32, 32)),
    "13b": Shape(_llama(5120, 13_824, 40, 40)),
    "tiny": Shape(
        _llama(64, 128, 2, 2), _SMALL_CLIP, vocabulary=704, context=256, rounds=4, words=12,
        records=4, batch_tokens=600, new_tokens=4, batches=(1, 3), rank=4,
    ),
}  # fmt: skip


def write_checkpoint(folder, shape, device):
    """Write a LLaVA of random weights under the names of the published ones; bfloat16 on a GPU."""
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**shape.vision),
        text_config=LlamaConfig(
            **shape.text, vocab_size=shape.vocabulary, max_position_embeddings=4_096
        ),
        image_token_index=3,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    config.image_seq_length = image_tokens(config)
    torch.manual_seed(0)
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(
            config, dtype=torch.bfloat16 if device == "cuda" else torch.float32
        )
    side = shape.vision["image_size"]
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    tokenizer = load_processor(TINY).tokenizer
    processor = make_processor(config, pictures=pictures, tokenizer=tokenizer, chat=CHAT)
    return save_checkpoint(model, processor, folder)


def write_records(folder, shape, steps):
    """Write the mixtures of so many steps and their pictures; five rounds to a record of `mix`."""
    rng = random.Random(0)
    merged, mix = [], []
    pictures = folder / "train2017"
    pictures.mkdir(parents=True)
    for number in range(1, shape.records * steps + 1):
        name = f"train2017/{number:012d}.jpg"
        colour = tuple(rng.randrange(256) for _ in range(3))
        Image.new("RGB", (64, 48), colour).save(folder / name)
        texts = [
            (f"Where is it? {rng.choice(WORDS)}", " ".join(rng.choices(WORDS, k=shape.words)))
            for _ in range(shape.rounds)
        ]
        merged.append(_record(f"{number:012d}", name, texts))
        for at in range(0, len(texts), 5):
            mix.append(_record(f"{number:012d}-{at}", name, texts[at : at + 5]))
    write_mixture(merged, folder, name="merged")
    write_mixture(mix, folder, name="mix")
    return folder


def _record(name, image, texts):
    marks = [f"{IMAGE_MARKER}\n", *[""] * (len(texts) - 1)]
    messages = [
        message
        for mark, (question, answer) in zip(marks, texts, strict=True)
        for message in (Message("human", mark + question), Message("gpt", answer))
    ]
    return Record(name, image, messages, ["vqav2"] * len(texts))


def training(out, shape, device, *, mixture="merged", name=None, steps=3, **changes):
    """Return a training of the checkpoint in `out` on the records there."""
    count = shape.records * steps
    recipe = TuningRecipe(
        rank=shape.rank, alpha=2 * shape.rank, records_per_step=shape.records,
        batch_tokens=shape.batch_tokens, workers=2 if device == "cuda" else 0,
        gradient_checkpointing=device == "cuda", **changes,
    )  # fmt: skip
    return Training(
        mixture=out / "records" / f"{mixture}.json",
        images=tuple(f"train2017/{n:012d}.jpg" for n in range(1, count + 1)),
        image_root=out / "records",
        checkpoint=str(out / "checkpoint"),
        adapter=out / "adapters" / (name or mixture),
        steps=steps,
        seed=0,
        recipe=recipe,
        image_tokens=image_tokens(load_config(out / "checkpoint")),
        context_tokens=shape.context,
        chat=CHAT,
        device=device,
        forms={"vqav2": "phrase"},
    )
