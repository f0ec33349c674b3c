"""One image and everything about it, read without loading the set: what the inspector shows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cocoift.core.files import DataError, read_json
from cocoift.core.schema import DROPPED_SCHEMA, KEPT_SCHEMA
from cocoift.core.tables import RUN_MERGE, read_batches, read_table, reading
from cocoift.sources.instances import INSTANCE_SCHEMA


class ByImage:
    """Rows of a Parquet file sorted by `image_id`, read one image at a time.

    Row groups that were read last are kept, so that neighbours cost nothing.  Raises `DataError`
    for a file that is missing, damaged or not of this schema.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, kept: int = 2) -> None:
        self.path, self.schema = path, schema
        ids = read_table(path, schema, columns=["image_id"])["image_id"].to_numpy()
        with reading(path):
            self.file = pq.ParquetFile(path)
        starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
        self.ids = ids[starts]
        self.bounds = np.append(starts, len(ids))
        metadata = self.file.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self.groups = np.cumsum([0, *sizes])
        self.kept, self.cache = kept, dict[int, pa.Table]()

    def rows(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows of an image in the file's order; none for an image that is not there."""
        place = int(np.searchsorted(self.ids, image_id))
        if place == len(self.ids) or self.ids[place] != image_id:
            return []
        start, end = int(self.bounds[place]), int(self.bounds[place + 1])
        found: list[dict[str, Any]] = []
        first = int(np.searchsorted(self.groups, start, side="right")) - 1
        while start < end:
            offset = int(self.groups[first])
            stop = min(end, int(self.groups[first + 1]))
            found += self._group(first).slice(start - offset, stop - start).to_pylist()
            start, first = stop, first + 1
        return found

    def _group(self, number: int) -> pa.Table:
        if number not in self.cache:
            while len(self.cache) >= self.kept:
                self.cache.pop(next(iter(self.cache)))
            batches = self._batches(row_groups=[number])
            self.cache[number] = pa.Table.from_batches(batches, self.file.schema_arrow)
        return self.cache[number]

    def _batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        return read_batches(self.path, self.schema, file=self.file, **options)

    def matching(self, columns: Sequence[str], text: str) -> np.ndarray:
        """Return the ids of images with a row whose text holds `text`, case aside, sorted."""
        found = []
        wanted = ["image_id", *columns]
        for batch in self._batches(batch_size=20_000, columns=wanted):
            hits = [
                pc.match_substring(batch.column(name), text, ignore_case=True) for name in columns
            ]
            some = hits[0]
            for hit in hits[1:]:
                some = pc.or_kleene(some, hit)
            found.append(batch.column("image_id").filter(pc.fill_null(some, False)).to_numpy())
        return np.unique(np.concatenate(found)) if found else np.array([], np.int64)


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which images to step through; an empty field does not restrict."""

    source: str = ""
    form: str = ""
    least_sources: int = 1
    conflicts: bool = False
    flagged: bool = False
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """Everything about one image: turns, instances, where its picture is and its licence."""

    image_id: int
    picture: str
    licence: str
    turns: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    instances: list[dict[str, Any]]


@dataclass(frozen=True)
class Inspection:
    """An opened merged set: `turns` and its neighbours by image, and an index for filters."""

    turns: ByImage
    dropped: ByImage | None
    instances: ByImage | None
    image_root: Path
    sources: list[str]
    forms: list[str]
    source_bits: np.ndarray
    form_bits: np.ndarray
    conflicts: frozenset[int]
    licences: Mapping[int, str] = field(default_factory=dict)
    picture: str = "train2017/{:012d}.jpg"
    found: dict[str, np.ndarray] = field(default_factory=dict)

    def view(self, image_id: int) -> ImageView:
        """Return everything about an image; raises `DataError` when it is not in the set."""
        turns = self.turns.rows(image_id)
        if not turns:
            raise DataError(f"image {image_id} is not in the merged set")
        return ImageView(
            image_id=image_id,
            picture=self.picture.format(image_id),
            licence=self.licences.get(turns[0].get("licence") or 0, "licence not known"),
            turns=turns,
            dropped=self.dropped.rows(image_id) if self.dropped else [],
            instances=self.instances.rows(image_id) if self.instances else [],
        )

    def richest(self) -> int:
        """Return the image of most sources whose picture is on disk, or of most where none is."""
        ranked = self.turns.ids[
            np.argsort(-np.bitwise_count(self.source_bits).astype(int), kind="stable")
        ]
        here = (n for n in ranked if (self.image_root / self.picture.format(int(n))).is_file())
        return int(next(here, ranked[0]))

    def images(self, chosen: Filter, *, flagged: Collection[int] = ()) -> np.ndarray:
        """Return the ids of the images that match a filter, sorted.

        `flagged` are the images with a flagged turn.  Text is searched in instructions and answers.
        """
        ids = self.turns.ids
        keep = np.bitwise_count(self.source_bits) >= chosen.least_sources
        if chosen.source:
            keep &= self.source_bits >> np.uint64(self.sources.index(chosen.source)) & 1 == 1
        if chosen.form:
            keep &= self.form_bits >> np.uint64(self.forms.index(chosen.form)) & 1 == 1
        for wanted, some in ((chosen.conflicts, self.conflicts), (chosen.flagged, flagged)):
            if wanted:
                keep &= np.isin(ids, np.fromiter(some, np.int64, len(some)))
        if chosen.text:
            if chosen.text not in self.found:
                hits = self.turns.matching(("instruction", "answer"), chosen.text)
                self.found[chosen.text] = hits
            keep &= np.isin(ids, self.found[chosen.text])
        return ids[keep]


def open_inspection(merged: Path, *, image_root: Path, instances: Path | None = None) -> Inspection:
    """Open the merged set in the folder `merged` (`turns.parquet`, `dropped.parquet`).

    `instances` is a file of `sources.instances`.  Raises `DataError` when the set is not there.
    """
    turns, named = ByImage(merged / "turns.parquet", KEPT_SCHEMA), ["source", "form"]
    columns = read_table(turns.path, KEPT_SCHEMA, columns=named, read_dictionary=named)
    sources, source_bits = _bits(columns["source"], turns.bounds)
    forms, form_bits = _bits(columns["form"], turns.bounds)
    dropped = merged / "dropped.parquet"
    return Inspection(
        turns=turns,
        dropped=ByImage(dropped, DROPPED_SCHEMA) if dropped.is_file() else None,
        instances=ByImage(instances, INSTANCE_SCHEMA)
        if instances and instances.is_file()
        else None,
        image_root=image_root,
        sources=sources,
        forms=forms,
        source_bits=source_bits,
        form_bits=form_bits,
        conflicts=_conflicts(dropped),
        licences=_licences(merged / "licences.json"),
    )


def _bits(column: pa.ChunkedArray, bounds: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the distinct values (64 at most), and per image a bit for each that occurs in it."""
    whole = column.unify_dictionaries().combine_chunks()
    values = whole.dictionary.to_pylist()
    if len(values) > 64:
        raise DataError(f"{len(values)} different sources or forms; the index holds 64")
    ranks = np.argsort(np.argsort(values))
    bits = np.left_shift(np.uint64(1), ranks.astype(np.uint64))[whole.indices.to_numpy()]
    return sorted(values), np.bitwise_or.reduceat(bits, bounds[:-1])


def _conflicts(dropped: Path) -> frozenset[int]:
    if not dropped.is_file():
        return frozenset()
    conflict = [("reason", "=", "conflict")]
    table = read_table(dropped, DROPPED_SCHEMA, columns=["image_id"], filters=conflict)
    return frozenset(table["image_id"].to_pylist())


def _licences(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    rows = read_json(path, list[dict[str, Any]], fix=f"{RUN_MERGE} again")
    return {row["licence"]: row["name"] for row in rows}


def answers_by_image(verdicts: Path) -> Mapping[tuple[str, str], pd.DataFrame]:
    """Return notebook 05's answers with their scores by benchmark and picture."""
    table = pd.read_csv(verdicts, keep_default_na=False)
    return dict(iter(table.groupby(["benchmark", "image"], sort=True)))
