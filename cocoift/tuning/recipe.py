"""What to train: the recipe, and one training with everything its adapter depends on."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from cocoift.core.files import digest, sha256
from cocoift.sources import read_catalogue
from cocoift.tuning.data import count_records, split_images

# Adapters trained by code that trains differently count as absent; raise it with such a change.
_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class TuningRecipe:
    """How to tune; the defaults are LLaVA-1.5's LoRA recipe, in four bits.

    Source: `scripts/v1_5/finetune_lora.sh` in haotian-liu/LLaVA.  `records_per_step` is the
    global batch, counted in records of the merged mixture; `batch_tokens` is what one device
    holds at once, padding included: gradients are accumulated over as many batches as that takes.
    `save_steps` is what an interruption may cost at most.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    learning_rate: float = 2e-4
    projector_learning_rate: float = 2e-5
    optimiser: str = "adamw_torch"
    warmup: float = 0.03
    weight_decay: float = 0.0
    epochs: int = 1
    records_per_step: int = 128
    batch_tokens: int = 8192
    four_bit: bool = True
    gradient_checkpointing: bool = True
    save_steps: int = 50
    workers: int = 4

    def steps(self, records: int) -> int:
        """Return the optimiser steps for a merged mixture of so many records, rounded down.

        No record is lost by that: an epoch is divided into so many steps, whatever is in each.
        """
        return max(1, records * self.epochs // self.records_per_step)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: everything its adapter depends on, and where it goes.

    `mixture` is a LLaVA JSON file with its Parquet twin, `images` the names of those that train,
    `forms` maps a source to the form of its answers, for the loss by form.
    """

    mixture: Path
    images: tuple[str, ...]
    image_root: Path
    checkpoint: str
    adapter: Path
    steps: int
    seed: int
    recipe: TuningRecipe
    image_tokens: int
    context_tokens: int
    system: str
    device: Literal["cpu", "cuda"]
    forms: Mapping[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """Return a digest of all that determines the adapter: files by content, settings."""
        settings = asdict(self.recipe) | {"version": _VERSION, "steps": self.steps}
        for name in ("workers", "save_steps"):  # how it is run, not what comes out
            del settings[name]
        settings |= {"seed": self.seed, "system": self.system, "device": self.device}
        settings |= {"image_tokens": self.image_tokens, "context_tokens": self.context_tokens}
        settings |= {"images": self.images, "mixture": sha256(self.mixture)}
        settings["checkpoint"] = weights_digest(self.checkpoint)
        return digest(settings)


def weights_digest(checkpoint: str) -> list[str] | str:
    """Return what stands for a checkpoint in keys: its weights' SHA-256, or a hub's name for it."""
    return [sha256(path) for path in sorted(Path(checkpoint).glob("*.safetensors"))] or checkpoint


def base_of(checkpoint: str, seed: int, root: Path) -> str:
    """Return the base checkpoint of a seed: `{seed}` filled in, a local folder below `root`.

    A name on the model hub (`owner/name`, no such folder) stays as it is.
    """
    named = checkpoint.replace("{seed}", str(seed))
    local = root / named
    return str(local) if local.exists() or named.count("/") != 1 else named


def adapter_of(work: Path, mixture: str, seed: int) -> Path:
    """Return where the adapter of a mixture and seed lies below a preset's `work_dir`."""
    return work / "adapters" / f"{mixture}-{seed}"


def answer_forms(catalogue: Path) -> dict[str, str]:
    """Return the form of answer that each source asks for."""
    entries = read_catalogue(catalogue)
    return {name: entry.form for name, entry in entries.items() if entry.form}


def plan_training(
    mixture: str,
    seed: int,
    *,
    root: Path,
    catalogue: str,
    work_dir: str,
    image_dir: str,
    checkpoint: str,
    tuning: Mapping[str, Any],
    train_images: int | None,
    held_out_images: int,
    image_tokens: int,
    context_tokens: int,
    system_prompt: str,
    device: Literal["cpu", "cuda"],
) -> Training:
    """Return the training of one mixture (`merged`, `mix`) and seed, from a preset's parameters.

    Images and steps come from the merged mixture, so that both train on the same images, for the
    same number of steps.  Paths start at `root`.  Raises `DataError` when a mixture is absent.
    """
    merged = root / work_dir / "merged"
    split = split_images(merged / "merged.json", held_out=held_out_images, train=train_images)
    recipe = TuningRecipe(**tuning)
    return Training(
        mixture=merged / f"{mixture}.json",
        images=split.train,
        image_root=root / image_dir,
        checkpoint=base_of(checkpoint, seed, root),
        adapter=adapter_of(root / work_dir, mixture, seed),
        steps=recipe.steps(count_records(merged / "merged.json", split.train)),
        seed=seed,
        recipe=recipe,
        image_tokens=image_tokens,
        context_tokens=context_tokens,
        system=system_prompt,
        device=device,
        forms=answer_forms(root / catalogue),
    )


def planned_names() -> list[str]:
    """Return the parameters of a preset that `plan_training` takes."""
    fixed = {"mixture", "seed", "root"}
    return [name for name in inspect.signature(plan_training).parameters if name not in fixed]
