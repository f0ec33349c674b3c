"""Records that no merge can hold, text-only ones and those about other pictures, mixed into it."""

import random
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import DataError, write_bytes
from cocoift.core.schema import (
    IMAGE_MARKER,
    TEXT_ONLY,
    Message,
    Record,
    check_record,
    coco_id_in,
    read_records,
)
from cocoift.evaluation.variants import Variant, rank
from cocoift.sources.dialogs import llava_records, rounds

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
    for number, row in enumerate(llava_records(path)):
        pairs, images = rounds(row.conversations), row.images
        if not pairs or len(images) > 1 or bool(images) != (kind == "non-COCO"):
            continue
        name = images[0] if images else TEXT_ONLY
        if images and (coco_id_in(name) is not None or not (image_root / name).is_file()):
            continue
        texts = [(text or "").strip() for pair in pairs for text in (pair.question, pair.answer)]
        if all(text.replace(IMAGE_MARKER, "").strip() for text in texts):
            first = f"{IMAGE_MARKER}\n" if images else ""
            speakers = ("human", "gpt") * len(pairs)
            messages = [
                Message(*each)
                for each in zip(speakers, [first + texts[0], *texts[1:]], strict=True)
            ]
            record = Record(f"{number}-{row.id}", name, messages, [kind] * len(pairs))
            check_record(record)
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
