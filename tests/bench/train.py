"""Tokens per second and peak memory of our training beside TRL's SFTTrainer, in one run.

    python -m pip install -r tests/bench/requirements.txt
    python tests/bench/train.py [PRESET.yaml] [--steps 60]

Both train the same base with the same LoRA, the same records of each mixture and as many of them
per optimiser step, on the same device; each in a process of its own, one after the other, twice.
The preset's notebooks 00 and 02 must have run.  Tokens are real ones: padding does not count.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from cocoift.study import Study, read_preset
from cocoift.tuning import train
from cocoift.tuning.checkpoints import add_adapter
from cocoift.tuning.model import load_model, load_processor

ROOT = Path(__file__).resolve().parents[2]
LOOPS = ("ours", "trl")


def training_of(preset, mixture, steps):
    """Return the preset's training, cut to `steps`, and the records it trains on per step."""
    whole = Study(ROOT, read_preset(preset)).training(mixture, 0)
    data = train.training_set(whole, load_processor(whole.checkpoint))
    per_step = round(len(data.samples) / whole.steps)
    images = dict.fromkeys(sample.image for sample in data.samples[: per_step * steps])
    return replace(whole, images=tuple(images), steps=steps), per_step


def ours(training, per_step, folder):
    adapter = train.train(replace(training, adapter=folder / "ours"), show_progress=False)
    log = [row for row in train.training_log(adapter)["log"] if "loss" in row]
    first, last = log[len(log) // 6], log[-1]
    return (last["tokens"] - first["tokens"]) / (last["seconds"] - first["seconds"])


def trl(training, per_step, folder):
    from datasets import Dataset, Features, Image, List, Value
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Clock(TrainerCallback):
        """Note tokens and time after every step."""

        def __init__(self):
            self.rows = []

        def on_step_end(self, args, state, control, **kwargs):
            self.rows.append((state.num_input_tokens_seen, time.perf_counter()))

    recipe, wanted = training.recipe, set(training.images)
    twin = training.mixture.with_name(f"{training.mixture.stem}_messages.parquet")
    rows = [
        row | {"images": [str(training.image_root / name) for name in row["images"]]}
        for row in pd.read_parquet(twin).to_dict("records")
        if row["images"][0] in wanted
    ]
    for row in rows:
        row["messages"] = [
            {"role": m["role"], "content": [dict(part) for part in m["content"]]}
            for m in row["messages"]
        ]
    content = List({"type": Value("string"), "text": Value("string")})
    features = Features(
        {"messages": List({"role": Value("string"), "content": content}), "images": List(Image())}
    )
    dataset = Dataset.from_list(rows, features=features)
    model = add_adapter(
        load_model(training.checkpoint, four_bit=recipe.four_bit, device=training.device),
        rank=recipe.rank,
        alpha=recipe.alpha,
        dropout=recipe.dropout,
    )
    device_batch = max(1, min(per_step, recipe.batch_tokens // training.context_tokens or 1))
    if training.device == "cpu":
        device_batch = per_step
    clock = Clock()
    config = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=training.steps,
        per_device_train_batch_size=device_batch,
        gradient_accumulation_steps=max(1, per_step // device_batch),
        learning_rate=recipe.learning_rate,
        max_length=None,
        assistant_only_loss=True,
        activation_checkpointing=recipe.gradient_checkpointing,
        include_num_input_tokens_seen="non_padding",
        use_cpu=training.device == "cpu",
        bf16=training.device == "cuda",
        dataloader_num_workers=recipe.workers,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    processor = load_processor(training.checkpoint)
    trainer = SFTTrainer(
        model, config, train_dataset=dataset, processing_class=processor, callbacks=[clock]
    )
    for parameter in trainer.model.parameters():
        if parameter.requires_grad and training.device == "cpu":
            parameter.data = parameter.data.float()  # TRL made it bfloat16, beside a float32 tower
    trainer.train()
    (tokens, start), (end_tokens, end) = clock.rows[len(clock.rows) // 6], clock.rows[-1]
    return (end_tokens - tokens) / (end - start)


def child(loop, preset, mixture, steps):
    torch.manual_seed(0)
    training, per_step = training_of(preset, mixture, steps)
    with tempfile.TemporaryDirectory() as folder:
        speed = globals()[loop](training, per_step, Path(folder))
    peak = (
        torch.cuda.max_memory_allocated()
        if training.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    print(json.dumps({"tokens_per_s": speed, "peak_gb": peak / 1e9, "device": training.device}))


def measured(loop, preset, mixture, steps):
    command = [sys.executable, __file__, str(preset), "--steps", str(steps)]
    command += ["--loop", loop, "--mixture", mixture]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(found.stderr)
    return json.loads(found.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    default = ROOT / "notebooks/presets/mini.yaml"
    parser.add_argument("preset", type=Path, nargs="?", default=default)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--mixture", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.loop:
        child(chosen.loop, chosen.preset, chosen.mixture, chosen.steps)
        return
    print(f"{'mixture':8} {'loop':5} {'tokens/s':>9} {'peak GB':>8}")
    for mixture in ("mix", "merged"):
        best = {}
        for loop in LOOPS * chosen.repeats:
            found = measured(loop, chosen.preset, mixture, chosen.steps)
            print(f"{mixture:8} {loop:5} {found['tokens_per_s']:9,.0f} {found['peak_gb']:8.2f}",
                  flush=True)  # fmt: skip
            best[loop] = max(best.get(loop, 0), found["tokens_per_s"])
        print(f"{mixture:8} ours / trl {best['ours'] / best['trl']:.2f}x on {found['device']}")


if __name__ == "__main__":
    main()
