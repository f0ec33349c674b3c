"""Records that no merge can hold, text-only ones and those about other pictures, mixed into it."""

import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import DataError, write_bytes
from cocoift.core.schema import TEXT_ONLY, Record, coco_id_in, read_records
from cocoift.evaluation.variants import Variant, rank
from cocoift.sources.base import Drop
from cocoift.sources.dialogs import whole_records

Others = Literal["text-only", "non-COCO"]


def other_records(path: Path, kind: str, *, image_root: Path) -> list[Record]:
    """Return the records of a LLaVA-format file without a picture, or with one that is not COCO's.

    As they are upstream, but for those with an empty message or a picture that is not below
    `image_root`.  Raises `DataError` where none is left.
    """
    found = list(_others(path, kind, image_root))
    if not found:
        where = "" if kind == "text-only" else f" whose pictures are below {image_root}"
        raise DataError(
            f"{path}: no {kind} records{where}; take `others` out of ablations.run, or fetch them"
        )
    return found


def _others(path: Path, kind: str, image_root: Path) -> Iterator[Record]:
    for record in whole_records(path, source=kind):
        if isinstance(record, Drop) or (record.image != TEXT_ONLY) != (kind == "non-COCO"):
            continue
        foreign = coco_id_in(record.image) is None and (image_root / record.image).is_file()
        if record.image == TEXT_ONLY or foreign:
            yield record


def write_diluted(
    variant: Variant,
    merged: Path,
    images: Collection[str],
    others: Sequence[Record],
    *,
    folder: Path,
) -> tuple[Path, tuple[str, ...]]:
    """Write merged records of `images`, a share of them replaced by `others`; return file, images.

    Hashes of the image ids decide which are replaced, so that a larger share replaces those of a
    smaller one; as many others take their place, in a drawn order, again from the first where they
    are fewer.
    """
    wanted = set(images)
    whole = [record for record in read_records(merged) if record.image in wanted]
    kept = [record for record in whole if _image_rank(record) >= variant.share]
    drawn = random.Random("others").sample(others, len(others))
    more = [drawn[number % len(drawn)] for number in range(len(whole) - len(kept))]
    path = folder / f"{variant.name}.json"
    write_bytes(path, msgspec.json.encode([*kept, *more]))
    return path, tuple(sorted({record.image for record in (*kept, *more)}))


def _image_rank(record: Record) -> float:
    number = coco_id_in(record.image)
    return 1.0 if number is None else rank(number)
