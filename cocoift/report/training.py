"""What was trained and how it went: the tables of notebook 04, and stage one of a base."""

from collections.abc import Mapping, Sequence
from itertools import islice

import pandas as pd

from cocoift.core.resampling import ratio
from cocoift.evaluation.sanity import HeldOutRound, read_held_out
from cocoift.tuning.chat import Sample
from cocoift.tuning.data import TrainingSet
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
    "attend": "record",
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
    "attend": "what a turn sees before it",
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
        ("training records", "118,000 (one per image)", "665,298", f"{records:,} merged"),
    ]
    rows += [
        (_MEANING[name], "", theirs, _in_words(getattr(recipe, name)))
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


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    number = "," if isinstance(value, int) else "g" if isinstance(value, float) else ""
    return format(value, number)


def held_out_rounds(
    training: Training, wanted: Sequence[str], *, held_out: int
) -> list[HeldOutRound]:
    """Return one round per wanted answer format, each on another image that did not train."""
    rounds = read_held_out(training.mixture, forms=training.forms, held_out=held_out)
    found: list[HeldOutRound] = []
    for form in wanted:
        used = {question.image for question in found}
        fitting = (asked for asked in rounds if asked.form == form and asked.image not in used)
        found += list(islice(fitting, 1))
    return found


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


def alignment_sentence(losses: pd.DataFrame, *, resamples: int = 2_000) -> str:
    """Return how much likelier held-out captions are with the right image than with another.

    `losses` are those of `tuning.loss.picture_losses`.  If the 95 % interval reaches 0, the
    sentence says that the base does not see.
    """
    if len(losses) < 2:
        return "Whether the base sees was not measured: that takes two held-out images."
    difference = losses.other - losses.shown
    gain, low, high = ratio(losses.image, difference, losses.shown.notna(), resamples=resamples)
    found = (
        f"About {len(losses)} held-out images, stage one's answers are {gain:.2f} "
        f"[{low:.2f}, {high:.2f}] nats per token likelier with the right image than with "
        "another one."
    )
    if low > 0:
        return found
    return f"**The base does not see, so nothing that follows measures what it should.** {found}"
