"""Which images may train: those of train2017, without evaluation images or other licences."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from cocoift.core.files import DataError
from cocoift.core.schema import coco_id_in
from cocoift.sources.base import damaged, decode, decode_lines

_CREATIVE_COMMONS = re.compile(r"creativecommons\.org/licenses/([a-z-]+)/([\d.]+)")


class Licence(msgspec.Struct, frozen=True):
    """One entry of `licenses` in COCO's files."""

    id: int
    name: str
    url: str

    @property
    def short(self) -> str:
        """A short form such as `CC BY-NC 2.0`; the full name where it is not Creative Commons."""
        found = _CREATIVE_COMMONS.search(self.url)
        return f"CC {found[1].upper()} {found[2]}" if found else self.name


class _Image(msgspec.Struct):
    id: int
    license: int | None = None


class _ImageList(msgspec.Struct):
    images: list[_Image]
    licenses: list[Licence] = []


class _Asked(msgspec.Struct, rename={"paths": "Image path"}):
    """A question of any benchmark: the names of its images, and where MM-Vet took them from."""

    image: str | None = None
    imagename: str | None = None
    imagesource: str | None = None
    paths: list[str] = []

    @property
    def names(self) -> list[str]:
        return [name for name in (self.image, self.imagename, *self.paths) if name]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """Which images may train: those of train2017 (`None`: any), without the evaluation images.

    `licence_of` maps image ids to licence ids.  With `allowed`, images under any other licence, or
    under none that is known, may not train.
    """

    train: frozenset[int] | None = None
    evaluation: frozenset[int] = frozenset()
    licences: Mapping[int, Licence] = field(default_factory=dict)
    licence_of: Mapping[int, int] = field(default_factory=dict)
    allowed: frozenset[int] | None = None

    def refusal(self, image_id: int) -> str | None:
        """Return why an image may not train, or `None` when it may."""
        if image_id in self.evaluation:
            return "evaluation_image"
        if self.train is not None and image_id not in self.train:
            return "not_in_train2017"
        if self.allowed is not None and self.licence_of.get(image_id) not in self.allowed:
            return "licence"
        return None


def read_scope(
    image_lists: Sequence[Path],
    evaluation_sets: Sequence[Path],
    *,
    licences: Collection[int | str] = (),
) -> Scope:
    """Return which images may train; without image lists any COCO image may.

    An image list is a COCO file such as `instances_train2017.json`.  `licences` keeps only images
    under these, by id, name or short name (`CC BY 2.0`); empty keeps all.  Raises `DataError` for
    a licence that no image list names, and for a file that is missing: training on evaluation
    images by accident would be worse than stopping.
    """
    images: list[_Image] = []
    known: dict[int, Licence] = {}
    for path in image_lists:
        found = decode(path, _ImageList)
        images += found.images
        known |= {licence.id: licence for licence in found.licenses}
    return Scope(
        train=frozenset(image.id for image in images) if image_lists else None,
        evaluation=frozenset().union(*map(evaluation_image_ids, evaluation_sets)),
        licences=known,
        licence_of={image.id: image.license for image in images if image.license is not None},
        allowed=frozenset(_licence_ids(licences, known)) if licences else None,
    )


def evaluation_image_ids(path: Path) -> set[int]:
    """Return the COCO ids that an evaluation file uses.

    Reads every benchmark of `evaluation.benchmarks`: MM-Vet, InfiMM-Eval, and JSON Lines or a JSON
    list with an `image` per entry (LLaVA-Bench).  Images whose names are not COCO's cannot leak
    from COCO, unless MM-Vet's `imagesource` says that they were taken from there.  Raises
    `DataError` for a file in none of these formats.
    """
    if path.suffix == ".jsonl":
        rows: list[_Asked] = list(decode_lines(path, _Asked))
    else:
        either: Any = dict[str, _Asked] | list[_Asked]
        content = decode(path, either)
        rows = list(content.values() if isinstance(content, dict) else content)
    for number, row in enumerate(rows, start=1):
        if not row.names:
            raise damaged(path, f"question {number} names no image; is it a benchmark's file?")
    names = [name for row in rows for name in (*row.names, row.imagesource or "")]
    return {found for found in map(coco_id_in, names) if found is not None}


def _licence_ids(wanted: Collection[int | str], known: Mapping[int, Licence]) -> Iterator[int]:
    for name in map(str, wanted):
        ids = [n for n, entry in known.items() if name in (str(n), entry.name, entry.short)]
        if not ids:
            names = ", ".join(f"{n} ({known[n].short})" for n in sorted(known)) or "none"
            raise DataError(f"licences: no image list names {name!r}; they name: {names}")
        yield from ids
