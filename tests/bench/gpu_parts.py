"""The parts of `gpu.py`: each measures one promise of the 7B path and returns its row."""

import itertools
import time
from dataclasses import replace

import numpy as np
import psutil
import torch
from gpu_inputs import training
from PIL import Image
from rollout import plain
from transformers import AutoImageProcessor, Trainer, TrainerCallback, TrainingArguments

from cocoift.core.images import pixel_values
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import Prompt
from cocoift.tuning import memory, train
from cocoift.tuning.batches import Collator, PlannedBatches
from cocoift.tuning.checkpoints import (
    add_adapter,
    as_trained,
    export,
    load_adapters,
    training_log,
    using,
)
from cocoift.tuning.loss import LossByForm, token_losses
from cocoift.tuning.model import (
    dense,
    image_tokens,
    load_config,
    load_model,
    load_processor,
    release,
)
from minicoco import CHAT

GB = 1e9


def held(device):
    """Return GB allocated now: of the GPU, else of this process."""
    if device == "cuda":
        return round(torch.cuda.memory_allocated() / GB, 3)
    return round(psutil.Process().memory_info().rss / GB, 3)


def peak(device):
    if device == "cpu":
        return {"peak_gb": None, "reserved_gb": None}
    return {
        "peak_gb": round(torch.cuda.max_memory_allocated() / GB, 2),
        "reserved_gb": round(torch.cuda.max_memory_reserved() / GB, 2),
    }


def load(out, shape, device):
    """Bytes of the base in four bits, against the estimate."""
    before = held(device)
    started = time.perf_counter()
    model = load_model(out / "checkpoint", four_bit=True, device=device)
    seconds = time.perf_counter() - started
    expected = memory.estimate(
        model.config, rank=shape.rank, batch_tokens=0, supervised_tokens=0, device=device
    ).weights
    real = sum(p.nbytes for p in itertools.chain(model.parameters(), model.buffers()))
    return {"load_s": round(seconds, 1), "held_gb": round(held(device) - before, 3),
            "tensors_gb": round(real / GB, 3), "estimate_gb": round(expected / GB, 3)}  # fmt: skip


def rate(adapter):
    """Return the tokens per second of a training after its first step."""
    log = [row for row in training_log(adapter)["log"] if "loss" in row]
    first, last = log[0], log[-1]
    return round((last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"]), 1)


def trained(out, shape, device, prefix, **changes):
    """Train on both mixtures in this process; return what each took."""
    row = {}
    for mixture in ("mix", "merged"):
        run = training(out, shape, device, mixture=mixture, name=f"{prefix}-{mixture}", **changes)
        data = train.training_set(run, load_processor(run.checkpoint))
        needed = train.needed_memory(run, data, train.planned(data, run))
        row[f"{mixture}_free_gb"] = round(memory.available(device) / GB, 1)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        train.train(run, show_progress=False)
        row[f"{mixture}_tokens_per_s"] = rate(run.adapter)
        row[f"{mixture}_estimate_gb"] = round(needed.total / GB, 2)
        row |= {f"{mixture}_{name}": value for name, value in peak(device).items()}
    return row


def train_both(out, shape, device):
    """Both mixtures in one process, three steps each."""
    return trained(out, shape, device, "both")


def train_24gb(out, shape, device):
    """The same on a card that is said to have 24 GB."""
    if device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, 24e9 / whole))
    return {"pretended_gb": 24} | trained(out, shape, device, "small")


class Clock(TrainerCallback):
    """Note the time after every step."""

    def __init__(self):
        self.times = []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def plain_trainer(out, shape, device):
    """transformers' Trainer as it is, four records at once, on the same records and steps."""
    run = training(out, shape, device, mixture="merged", name="plain")
    processor = load_processor(run.checkpoint)
    samples = train.training_set(run, processor).samples
    batches = [samples[at : at + 4] for at in range(0, len(samples), 4)]
    ours = Collator(processor, run.image_root, run.forms)

    def collate(items):
        batch = ours(items)
        del batch["forms"]
        return batch

    clock = Clock()
    recipe = run.recipe
    arguments = TrainingArguments(
        output_dir=str(out / "plain"), max_steps=run.steps, per_device_train_batch_size=1,
        gradient_accumulation_steps=max(1, shape.records // 4), bf16=device == "cuda",
        use_cpu=device == "cpu", gradient_checkpointing=recipe.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False}, save_strategy="no",
        report_to="none", disable_tqdm=True, remove_unused_columns=False,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    model = add_adapter(
        load_model(run.checkpoint, four_bit=True, device=device),
        rank=recipe.rank, alpha=recipe.alpha, dropout=recipe.dropout,
    )  # fmt: skip
    if recipe.gradient_checkpointing:
        model.enable_input_require_grads()
    places = [[n * 4 + i for i in range(len(b))] for n, b in enumerate(batches)]
    Trainer(
        model=model, args=arguments, train_dataset=PlannedBatches(places, samples),
        data_collator=collate, callbacks=[clock],
    ).train()  # fmt: skip
    tokens = sum(len(sample.input_ids) for sample in samples[shape.records :])
    plain = tokens / (clock.times[-1] - clock.times[0])
    del model
    release()
    train.train(replace(run, adapter=out / "adapters/beside"), show_progress=False)
    ours_rate = rate(out / "adapters/beside")
    return {"plain_tokens_per_s": round(plain, 1), "ours_tokens_per_s": ours_rate,
            "ratio": round(ours_rate / plain, 2)} | peak(device)  # fmt: skip


def profile(out, shape, device):
    """One micro-batch forward and backward: time by kernel, attention's back end, dequantising."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiled

    run = training(out, shape, device)
    processor = load_processor(run.checkpoint)
    data = train.training_set(run, processor)
    numbers = train.planned(data, run).batches[0]
    batch = Collator(processor, run.image_root, run.forms)([[data.samples[n] for n in numbers]])
    model = add_adapter(load_model(run.checkpoint, four_bit=True, device=device), rank=shape.rank)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    labels, _ = batch.pop("labels"), batch.pop("forms")
    batch["pixel_values"] = batch["pixel_values"].to(model.dtype)

    def step():
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            token_losses(model, batch, labels)[0].mean().backward()

    step()
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profiled(activities=kinds) as found:
        step()
    spent = {
        event.key: getattr(event, f"self_{'device' if device == 'cuda' else 'cpu'}_time_total")
        for event in found.key_averages()
    }
    whole = sum(spent.values())
    largest = sorted(spent, key=spent.get, reverse=True)[:8]
    shares = {key[:60]: round(spent[key] / whole, 3) for key in largest}
    names = " ".join(spent)
    backend = next(
        (n for n in ("flash", "efficient", "cudnn") if f"_{n}_attention" in names), "math"
    )
    dequantising = sum(time for key, time in spent.items() if "equantize" in key) / whole
    return {"micro_batch_tokens": int(batch["attention_mask"].sum()), "attention": backend,
            "dequantising": round(dequantising, 3), "largest": shares}  # fmt: skip


def answering(out, shape, device):
    """Milliseconds a step of batched answering, adapter apart and merged, beside `generate`."""
    adapter = out / "adapters/both-merged"
    if not adapter.is_dir():
        train.train(training(out, shape, device, name="both-merged"), show_progress=False)
    checkpoint = out / "checkpoint"
    processor = load_processor(checkpoint)
    asked = [
        Prompt(str(n), (Image.new("RGB", (64, 48), (n, n, n)),),
               [Message("human", f"{IMAGE_MARKER}\nWhat is this, number {n}?")])
        for n in range(max(shape.batches))
    ]  # fmt: skip
    base = dense(load_model(checkpoint, four_bit=True, device=device))
    tuned = load_adapters(base, {"tuned": adapter})
    row, answers = {}, {}
    with using(tuned, "tuned") as model:
        row["generate_ms"] = _generate_ms(model, processor, asked[0], shape)
        for size in shape.batches:
            row[f"apart_{size}_ms"], answers[size] = _batched(model, processor, asked, size, shape)
    merged = tuned.merge_and_unload()
    for size in shape.batches:
        row[f"merged_{size}_ms"], _ = _batched(merged, processor, asked, size, shape)
    alone = answers[min(shape.batches)]
    for size, batched in answers.items():
        pairs = list(zip(batched, alone, strict=False))
        row[f"same_as_alone_{size}"] = round(sum(a == b for a, b in pairs) / len(pairs), 3)
    return row | peak(device)


def _batched(model, processor, asked, size, shape):
    """Return ms a step, and the answers to the first prompts."""
    count = size if size > 1 else min(8, len(asked))
    options = {"chat": CHAT, "new_tokens": shape.new_tokens, "batch": size}
    generate(model, processor, asked[:size], **options | {"new_tokens": 2})
    started = time.perf_counter()
    answers = generate(model, processor, asked[:count], **options)
    steps = shape.new_tokens * -(-count // size)
    return round((time.perf_counter() - started) / steps * 1_000, 2), answers


def _generate_ms(model, processor, prompt, shape):
    """Return ms a step of transformers' own `generate`, one prompt."""
    plain(model, processor, [prompt], CHAT, 2, least=2)
    started = time.perf_counter()
    plain(model, processor, [prompt], CHAT, shape.new_tokens, least=shape.new_tokens)
    return round((time.perf_counter() - started) / shape.new_tokens * 1_000, 2)


class Interrupted(Exception):
    """What stops a training on purpose."""


def resume(out, shape, device):
    """A training stopped after its second step and resumed, against one that ran through."""
    whole, cut = (
        training(out, shape, device, name=name, steps=4, save_steps=2) for name in ("whole", "cut")
    )
    train.train(whole, show_progress=False)
    saved = LossByForm._save_checkpoint

    def stopped(self, model, trial):
        saved(self, model, trial)
        raise Interrupted

    LossByForm._save_checkpoint = stopped
    try:
        train.train(cut, show_progress=False)
    except Interrupted:
        pass
    finally:
        LossByForm._save_checkpoint = saved
    release()
    train.train(cut, show_progress=False)
    losses = [
        [row["loss"] for row in training_log(run.adapter)["log"] if "loss" in row]
        for run in (whole, cut)
    ]
    apart = max(abs(a - b) for a, b in zip(*losses, strict=True))
    return {"steps": len(losses[1]), "largest_difference_of_losses": apart}


def exported(out, shape, device):
    """The logits of the exported checkpoint, against those of base and adapter."""
    run = training(out, shape, device, name="both-merged")
    train.train(run, show_progress=False)
    checkpoint, dtype = out / "checkpoint", torch.bfloat16 if device == "cuda" else torch.float32
    made = export(run.adapter, out / "exported", checkpoint=checkpoint, chat=CHAT, dtype=dtype)
    tokens, side = image_tokens(load_config(checkpoint)), shape.vision["image_size"]
    ids = torch.tensor([[1, *[3] * tokens, 40, 41, 42]], device=device)
    pixels = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))

    def logits(model):
        with torch.no_grad():
            given = pixels.to(device, next(model.parameters()).dtype)
            return model(input_ids=ids, pixel_values=given).logits.float()[0, -1]

    base = load_model(checkpoint, four_bit=False, device=device)
    with using(load_adapters(base, {"tuned": run.adapter}), "tuned") as model:
        theirs = logits(model)
    del base, model
    release()
    ours = logits(load_model(made, four_bit=False, device=device))
    return {"largest_difference_of_logits": round((ours - theirs).abs().max().item(), 5),
            "largest_logit": round(theirs.abs().max().item(), 3)}  # fmt: skip


def processor(out, shape, device):
    """The exported processor's pixels against those of training, on three shapes."""
    as_trained(load_processor(out / "checkpoint"), chat=CHAT).save_pretrained(out / "processor")
    served = AutoImageProcessor.from_pretrained(out / "processor", backend="pil")
    ours = load_processor(out / "checkpoint").image_processor
    rng, apart = np.random.default_rng(0), {}
    for width, height in ((400, 400), (640, 427), (300, 500)):
        picture = Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8))
        expected = pixel_values([picture], ours)
        found = np.asarray(served(images=picture)["pixel_values"])
        apart[f"{width}x{height}"] = round(float(np.abs(found - expected).max()), 4)
    return {"largest_difference_of_pixels": apart}


PARTS = {
    "load": load, "train": train_both, "train_24gb": train_24gb, "plain_trainer": plain_trainer,
    "profile": profile, "answering": answering, "resume": resume, "export": exported,
    "processor": processor,
}  # fmt: skip
