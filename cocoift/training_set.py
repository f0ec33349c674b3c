"""The records of a mixture on their way into training: chosen, encoded, checked before step one."""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from cocoift.chat import Sample, TooLong, samples
from cocoift.files import DataError
from cocoift.images import bad_images
from cocoift.records import read_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainingSet:
    """The samples of one mixture and what happened to records that exceed the context."""

    records: int
    samples: list[Sample]
    too_long: list[TooLong]

    @property
    def lengths(self) -> list[int]:
        """Tokens per sample, image tokens included."""
        return [len(sample.input_ids) for sample in self.samples]

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry loss: answers and their `</s>`."""
        return sum(end - start for sample in self.samples for start, end in sample.spans)


@dataclass(frozen=True)
class ImageSplit:
    """Which images train and which are held out; names as in the records, sorted."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_images(
    mixture: Path, *, held_out: int, train: int | None = None, seed: int = 0
) -> ImageSplit:
    """Draw `held_out` images of a mixture, and up to `train` others (null: all of them).

    The draw goes by hashes of image names, so every mixture of the same images, on every
    machine, is split alike.  Raises `DataError` when the mixture is absent or has too few images.
    """
    names = {Path(name).name: name for name in _column(mixture, "image")}
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    if len(ranked) <= held_out:
        raise DataError(
            f"{mixture}: {len(ranked)} images, of which {held_out} would be held out; "
            "lower held_out_images or merge more images"
        )
    chosen = ranked[held_out : None if train is None else held_out + train]
    kept = (tuple(sorted(names[name] for name in part)) for part in (chosen, ranked[:held_out]))
    return ImageSplit(*kept)


def count_records(mixture: Path, images: Collection[str]) -> int:
    """Return how many records of a mixture are about these images."""
    wanted = set(images)
    return sum(name in wanted for name in _column(mixture, "image"))


def _column(mixture: Path, name: str) -> list[str]:
    try:
        return pq.read_table(mixture.with_suffix(".parquet"), columns=[name])[name].to_pylist()
    except (OSError, KeyError) as error:
        raise DataError(f"{mixture}: {error}; run notebook 02_merge first") from error


def read_training_set(
    mixture: Path,
    images: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    context_tokens: int,
    system: str,
) -> TrainingSet:
    """Encode the records of a mixture (LLaVA JSON) that are about `images`.

    Records that exceed `context_tokens` are split between rounds and reported (`chat.samples`).
    """
    wanted = set(images)
    records = [record for record in read_records(mixture) if record.image in wanted]
    made, too_long = samples(
        records,
        tokenizer=tokenizer,
        image_tokens=image_tokens,
        context_tokens=context_tokens,
        system=system,
    )
    return TrainingSet(len(records), made, too_long)


def check_pictures(names: Iterable[str], image_root: Path, *, shown: int = 5) -> int:
    """Open every picture once; return how many there are.

    Raises `DataError` that counts and names those that are missing, corrupt or too large:
    training must not find out in step 3,000.
    """
    distinct = list(dict.fromkeys(names))
    bad = bad_images(distinct, image_root)
    if bad:
        listed = "; ".join(picture.reason for picture in bad[:shown])
        more = f" and {len(bad) - shown} more" if len(bad) > shown else ""
        raise DataError(
            f"{len(bad)} of {len(distinct)} pictures below {image_root} cannot train: "
            f"{listed}{more}; fetch them again or take their records out of the mixture"
        )
    return len(distinct)
