"""What was trained and how it went: the tables of notebook 04."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
import torch
from peft import PeftModel
from transformers import LlavaProcessor

from cocoift.evaluation.sanity import HeldOutRound, read_held_out
from cocoift.tuning.batches import Plan
from cocoift.tuning.chat import Sample
from cocoift.tuning.checkpoints import using
from cocoift.tuning.data import TrainingSet
from cocoift.tuning.loss import mean_loss
from cocoift.tuning.recipe import Training, TuningRecipe

# Which mixture, which seed.
Run = tuple[str, int]

# LLaVA-1.5's values: scripts/v1_5/finetune_lora.sh in haotian-liu/LLaVA.
_LLAVA = {
    "rank": "128",
    "alpha": "256",
    "dropout": "0.05",
    "learning_rate": "2e-4",
    "projector_learning_rate": "2e-5",
    "optimiser": "AdamW",
    "warmup": "0.03",
    "weight_decay": "0",
    "epochs": "1",
    "records_per_step": "128",
    "batch_tokens": "16 records a GPU, of up to 2,048",
    "loss_on": "all",
    "four_bit": "no (bf16)",
    "gradient_checkpointing": "yes",
}
_MEANING = {
    "rank": "LoRA rank r",
    "alpha": "LoRA alpha",
    "dropout": "LoRA dropout",
    "learning_rate": "learning rate, LoRA (cosine)",
    "projector_learning_rate": "learning rate, projector",
    "optimiser": "optimiser",
    "warmup": "warm-up (share of steps)",
    "weight_decay": "weight decay",
    "epochs": "epochs",
    "records_per_step": "records per optimiser step",
    "batch_tokens": "tokens a device holds at once",
    "loss_on": "answers of a record that carry loss",
    "four_bit": "base in four bits (NF4, double quantisation)",
    "gradient_checkpointing": "gradient checkpointing",
}


def recipe_table(recipe: TuningRecipe, *, checkpoint: str, records: int) -> pd.DataFrame:
    """Return the recipe beside the paper's and LLaVA-1.5's: setting, paper, LLaVA-1.5, here.

    `records` is the size of the merged mixture.  What this study does not know of the paper's
    training stays blank.
    """
    rows = [
        ("base", "LLaVA-1.5", "Vicuna-1.5, stage-1 projector", checkpoint),
        ("training records", "118,000 (one an image)", "665,298", f"{records:,} merged"),
    ]
    rows += [
        (_MEANING[name], "", theirs, _told(getattr(recipe, name)))
        for name, theirs in _LLAVA.items()
    ]
    return pd.DataFrame(rows, columns=["setting", "paper", "LLaVA-1.5", "here"])


def example_sample(data: TrainingSet, *, sources: int = 3) -> Sample:
    """Return the shortest sample with rounds of `sources` sources, or of as many as there are."""

    def mixed(sample: Sample) -> int:
        return len(set(sample.sources))

    enough = min(sources, max(map(mixed, data.samples)))
    fitting = (sample for sample in data.samples if mixed(sample) >= enough)
    return min(fitting, key=lambda sample: len(sample.input_ids))


def _told(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def set_table(sets: Mapping[str, TrainingSet], plans: Mapping[str, Plan]) -> pd.DataFrame:
    """Return one row per mixture: what it trains on, and in which batches."""
    rows = []
    for name, data in sets.items():
        tokens, plan = sum(data.lengths), plans[name]
        rows.append(
            {
                "mixture": name,
                "records": data.records,
                "too long": len(data.too_long),
                "rounds dropped": sum(report.rounds_dropped for report in data.too_long),
                "samples": len(data.samples),
                "tokens": tokens,
                "supervised tokens": data.supervised_tokens,
                "supervised share": data.supervised_tokens / tokens,
                "steps": len(plan.batches) // plan.accumulation,
                "batches a step": plan.accumulation,
                "largest batch": plan.largest,
                "padding waste": plan.waste,
            }
        )
    return pd.DataFrame(rows)


def readable_sets(sets: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    """Return the set table for reading: one column per mixture, shares in percent."""
    shares = ("supervised share", "padding waste")
    shown = sets.set_index("mixture").rename(index=names).T
    texts = [
        [f"{value:.1%}" if row in shares else f"{value:,.0f}" for value in values]
        for row, values in zip(shown.index, shown.to_numpy(), strict=True)
    ]
    table = pd.DataFrame(texts, columns=shown.columns)
    table.insert(0, "", shown.index)
    return table


def loss_table(logs: Mapping[Run, Mapping]) -> pd.DataFrame:
    """Return one row per optimiser step: mixture, seed, step, loss, tokens, seconds.

    `tokens` (padding not counted) and `seconds` count from the start of the training; the loss
    is the mean over the step's supervised tokens, in nats.
    """
    rows = [
        (mixture, seed, row["step"], row["loss"], row["tokens"], row["seconds"])
        for (mixture, seed), notes in logs.items()
        for row in notes["log"]
        if "loss" in row
    ]
    return pd.DataFrame(rows, columns=["mixture", "seed", "step", "loss", "tokens", "seconds"])


def form_losses(logs: Mapping[Run, Mapping], *, last: float = 0.25) -> pd.DataFrame:
    """Return the loss by form over the `last` share of the steps: mixture, form, loss, tokens.

    Seeds are taken together; every supervised token weighs the same.
    """
    rows = []
    for (mixture, _), notes in logs.items():
        steps = [row for row in notes["log"] if "loss" in row]
        for row in steps[-max(1, round(len(steps) * last)) :]:
            for name, loss in row.items():
                if name.startswith("loss_"):
                    form = name.removeprefix("loss_")
                    tokens = row[f"tokens_{form}"]
                    rows.append((mixture, form, loss * tokens, tokens))
    sums = pd.DataFrame(rows, columns=["mixture", "form", "loss", "tokens"])
    table = sums.groupby(["mixture", "form"], as_index=False).sum()
    return table.assign(loss=table.loss / table.tokens)


def adapter_table(
    adapters: Mapping[Run, Path], logs: Mapping[Run, Mapping], *, root: Path
) -> pd.DataFrame:
    """Return one row per adapter: its folder below `root`, seconds of training, size in MB."""
    rows = []
    for (mixture, seed), folder in adapters.items():
        size = (folder / "adapter_model.safetensors").stat().st_size
        seconds = logs[mixture, seed]["seconds"]
        rows.append((mixture, seed, str(folder.relative_to(root)), seconds, size / 1e6))
    columns = ["mixture", "seed", "folder in work_dir", "seconds of training", "MB"]
    return pd.DataFrame(rows, columns=columns)


def held_out_rounds(
    training: Training, wanted: Sequence[str], *, held_out: int
) -> list[HeldOutRound]:
    """Return one round per wanted form of answer, each on another image that did not train."""
    rounds = read_held_out(training.mixture, forms=training.forms, held_out=held_out)
    found: list[HeldOutRound] = []
    for form in wanted:
        used = {one.image for one in found}
        fitting = (one for one in rounds if one.form == form and one.image not in used)
        found += list(islice(fitting, 1))
    return found


def batch_table(batch: Mapping[str, torch.Tensor]) -> pd.DataFrame:
    """Return name, shape and type of each tensor of a batch."""
    rows = [
        (name, " x ".join(map(str, tensor.shape)), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in batch.items()
    ]
    return pd.DataFrame(rows, columns=["tensor", "shape", "type"])


def validation_table(
    tuned: PeftModel,
    processor: LlavaProcessor,
    sets: Mapping[str, TrainingSet],
    *,
    training: Training,
) -> pd.DataFrame:
    """Return the loss of the base and each adapter on held-out samples of each mixture.

    Columns: model, laid_out (the mixture of the samples), loss (nats per supervised token),
    tokens.
    """
    rows = []
    for name in ("base", *sets):
        with using(tuned, None if name == "base" else name) as answering:
            for mixture, data in sets.items():
                loss = mean_loss(answering, processor, data, training=training)
                rows.append((name, mixture, loss, data.supervised_tokens))
    return pd.DataFrame(rows, columns=["model", "laid_out", "loss", "tokens"])


def readable_validation(table: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Return the validation losses with a row per model and a column per layout."""
    named = table.assign(model=table.model.map(labels), laid_out=table.laid_out.map(labels))
    wide = named.pivot_table(index="model", columns="laid_out", values="loss", sort=False)
    return wide.map("{:.3f}".format).rename_axis(columns=None).reset_index()


def validation_sentence(table: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Say which model predicts the held-out records of each layout best."""
    best = table.loc[table.groupby("laid_out", sort=False).loss.idxmin()]
    parts = []
    for row in best.itertuples():
        label = labels[row.model]
        model = f"the {label}" if row.model == "base" else f"the model tuned on the {label}"
        parts.append(
            f"laid out as the {labels[row.laid_out]}, by {model} ({row.loss:.3f} nats per token)"
        )
    return f"Held-out records are predicted best: {'; '.join(parts)}."
