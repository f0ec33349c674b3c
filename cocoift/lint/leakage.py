"""Images of a benchmark in the training data: by COCO id, and by nearly the same picture."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, files_below, inside
from cocoift.core.parallel import ordered
from cocoift.core.schema import coco_id_in
from cocoift.lint.columns import Data
from cocoift.lint.conversations import Conversation
from cocoift.lint.formats import conversations
from cocoift.sources.scope import evaluation_image_ids

PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
# Bits in which two hashes of 64 may differ: rescaled and recompressed copies differ in a few, other
# pictures in about 32 (hackerfactor.com/blog, "Looks Like It").
NEAR_BITS = 4
_WHOLE_NUMBER = re.compile(r"[0-9]+")


def against_ids(against: Path) -> frozenset[int]:
    """Return the COCO ids of a benchmark: a folder of its images, or its file of questions.

    Only names that are COCO's count: twelve digits.  Raises `DataError` for a path that is absent
    and for a file that names no images.
    """
    if not against.exists():
        raise DataError(f"{against}: no such file or folder; name a benchmark's images")
    if against.is_file():
        return frozenset(evaluation_image_ids(against))
    names = (path.stem for path in files_below(against) if path.suffix.lower() in PICTURES)
    ids = (coco_id_in(name) for name in names if not _short_number(name))
    return frozenset(number for number in ids if number is not None)


def _short_number(name: str) -> bool:
    """Tell a plain count, such as `17.jpg`, from a COCO id."""
    return bool(_WHOLE_NUMBER.fullmatch(name)) and len(name) < 12


def near_duplicates(data: Data, *, images: Path, against: Path) -> frozenset[int]:
    """Return the numbers of records with a picture nearly the same as one of the benchmark.

    `images` is the folder that the records' image names start from.  Compared by perceptual hash
    (`imagehash.phash`: 64 bits of the lowest frequencies), at most `NEAR_BITS` apart.  Raises
    `DataError` without the package imagehash, and where either folder has no pictures.
    """
    _imagehash()
    theirs = [path for path in files_below(against) if path.suffix.lower() in PICTURES]
    if not theirs:
        raise DataError(f"{against}: no pictures; --against with --images takes a folder of images")
    places: dict[Path, list[int]] = {}
    for record, conversation in _all(data):
        for name in conversation.images:
            if path := _picture(images, name):
                places.setdefault(path, []).append(record)
    if not places:
        raise DataError(f"{images}: none of the records' images is there; name their folder")
    benchmark = np.unique(_hashes(theirs, "benchmark's pictures"))
    benchmark = benchmark[benchmark != 0]
    ours = _hashes(list(places), "pictures")
    found: set[int] = set()
    for value, records in zip(ours, places.values(), strict=True):
        if value and (np.bitwise_count(benchmark ^ value) <= NEAR_BITS).any():
            found.update(records)
    return frozenset(found)


def _all(data: Data) -> Iterable[tuple[int, Conversation]]:
    for piece, first in zip(data.pieces, data.firsts, strict=True):
        read = (c for c in conversations(piece) if isinstance(c, Conversation))
        yield from enumerate(read, start=int(first))


def _picture(images: Path, name: str) -> Path | None:
    """Return the picture of this name, if it is there and not outside the folder."""
    try:
        path = inside(images, name)
    except DataError:
        return None
    return path if path.is_file() else None


def _hashes(paths: Sequence[Path], what: str) -> np.ndarray:
    """Return the 64-bit hash of each picture; 0 for one that is damaged or has no content."""
    chunks = [paths[start : start + 200] for start in range(0, len(paths), 200)]
    found: list[int] = []
    with tqdm(total=len(paths), desc=what, leave=False) as bar:
        for hashes in ordered(hashed, chunks):
            found += hashes
            bar.update(len(hashes))
    return np.array(found, np.uint64)


def hashed(paths: Sequence[Path]) -> list[int]:
    """Return the perceptual hash of each picture as a number; 0 for a damaged one."""
    from PIL import Image

    found = []
    for path in paths:
        try:
            with Image.open(path) as image:
                found.append(int(str(_imagehash().phash(image.convert("RGB"))), 16))
        except Exception:  # damaged pictures raise errors of zlib, struct and more
            found.append(0)
    return found


def _imagehash() -> Any:
    try:
        import imagehash
    except ImportError as error:
        raise DataError(
            "near-duplicate pictures need the package imagehash: pip install ImageHash, "
            "or leave --images out to compare COCO ids only"
        ) from error
    return imagehash
