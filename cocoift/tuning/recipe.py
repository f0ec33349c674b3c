"""What to train: the recipe, and one training with everything its adapter depends on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import structs

from cocoift.core.files import digest, sha256
from cocoift.core.schema import Count, Settings
from cocoift.tuning.chat import Attend, ChatFormat, Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Raise it when the training code changes its results: older adapters then count as absent.
_VERSION = 4


class TuningRecipe(Settings, frozen=True):
    """How to tune; the defaults are LLaVA-1.5's LoRA recipe, in four bits.

    Source: `scripts/v1_5/finetune_lora.sh` in haotian-liu/LLaVA.  `records_per_step` is the
    global batch, counted in records of the merged mixture; `batch_tokens` is what one device
    holds at once, padding included: gradients are accumulated over as many batches as that takes.
    `loss_on` trains on every answer of a record or on its last one alone; `attend` is what a turn
    sees: the record up to it, or the image and itself alone.  `save_steps` is the number of steps
    between checkpoints.
    """

    rank: int = 128
    alpha: int = 256
    dropout: float = 0.05
    learning_rate: float = 2e-4
    projector_learning_rate: float = 2e-5
    optimiser: str = "adamw_torch"
    warmup: float = 0.03
    weight_decay: float = 0.0
    epochs: Count = 1
    records_per_step: Count = 128
    batch_tokens: Count = 8192
    loss_on: Literal["all", "last"] = "all"
    attend: Attend = "record"
    four_bit: bool = True
    gradient_checkpointing: bool = True
    save_steps: Count = 50
    workers: int = 4

    def steps(self, records: int) -> int:
        """Return the optimiser steps for a merged mixture of this many records, rounded down.

        No record is lost: an epoch is divided into that many steps, however many records each
        takes.
        """
        return max(1, records * self.epochs // self.records_per_step)


class AlignmentRecipe(Settings, frozen=True):
    """How a base learns to see before any tuning: LLaVA's stage one.

    The defaults are LLaVA-1.5's (`scripts/v1_5/pretrain.sh` in haotian-liu/LLaVA), except
    for the chat, which is that of the tuning: the projector trains alone, at `learning_rate`.  With
    a `rank` the language model learns too, by LoRA at `language_learning_rate`: a small one cannot
    read images otherwise.  The other fields mean what they do in `TuningRecipe`.
    """

    learning_rate: float = 1e-3
    rank: int = 0
    alpha: int = 32
    language_learning_rate: float = 2e-3
    records_per_step: Count = 256
    epochs: Count = 1
    warmup: float = 0.03
    batch_tokens: Count = 8192
    gradient_checkpointing: bool = True
    save_steps: Count = 50
    workers: int = 4

    def tuning(self) -> TuningRecipe:
        """Return the recipe as that of a tuning, in full precision and without dropout."""
        values = structs.asdict(self)
        values["projector_learning_rate"] = values.pop("learning_rate")
        values["learning_rate"] = values.pop("language_learning_rate")
        return TuningRecipe(dropout=0.0, four_bit=False, **values)


class Assembly(Settings, frozen=True):
    """A base that notebook 00 puts together and aligns: its parts, and what stage one learns from.

    `language` and `vision` are folders or names on the model hub; without `vision` the tower is
    the tiny LLaVA's, and the projector starts from the words that name a patch.
    `language_package` is a package for pip that carries the language model as GGUF, for machines
    that reach no hub.  Stage one trains on the turns of `sources` about `images` images (none:
    all that may train), or on `conversations`: a file in LLaVA's format below `raw_dir`, beside a
    folder `images`, as LLaVA-Pretrain comes.  `shipped` is the folder of what stage one with these
    settings left, to be used in place of training.
    """

    language: str
    vision: str | None = None
    language_package: str | None = None
    sources: list[str] = msgspec.field(default_factory=lambda: ["coco_captions"])
    conversations: str | None = None
    images: int | None = None
    recipe: AlignmentRecipe = AlignmentRecipe()
    shipped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: everything its adapter depends on, and where it goes.

    `mixture` is a LLaVA JSON file with its Parquet twin, `images` the names of those that train,
    `forms` maps a source to its answer format, for the loss by format.
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
    chat: ChatFormat
    device: Literal["cpu", "cuda"]
    forms: Mapping[str, str] = field(default_factory=dict)

    def encoding(self, tokenizer: "PreTrainedTokenizerBase") -> Encoding:
        """Return how this training's records become token ids."""
        return Encoding(
            tokenizer, self.chat, self.image_tokens, self.context_tokens, self.recipe.attend
        )

    def key(self) -> str:
        """Return a digest of everything that determines the adapter: file contents and settings."""
        settings = structs.asdict(self.recipe) | {"version": _VERSION, "steps": self.steps}
        for name in ("workers", "save_steps"):  # these do not change the result
            del settings[name]
        settings |= {"seed": self.seed, "chat": asdict(self.chat), "device": self.device}
        settings |= {"image_tokens": self.image_tokens, "context_tokens": self.context_tokens}
        settings |= {"images": self.images, "mixture": sha256(self.mixture)}
        settings["checkpoint"] = weights_digest(self.checkpoint)
        return digest(settings)


def weights_digest(checkpoint: str) -> list[str] | str:
    """Return what identifies a checkpoint in keys: its weights' SHA-256, or a hub's name for it."""
    return [sha256(path) for path in sorted(Path(checkpoint).glob("*.safetensors"))] or checkpoint


def base_of(checkpoint: str, seed: int, root: Path) -> str:
    """Return the base checkpoint of a seed: `{seed}` filled in, a local folder below `root`.

    A name on the model hub (`owner/name`, no such folder) stays as it is.
    """
    named = checkpoint.replace("{seed}", str(seed))
    local = root / named
    return str(local) if local.exists() or named.count("/") != 1 else named
