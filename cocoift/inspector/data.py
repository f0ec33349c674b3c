"""An image and everything about it, read without loading the set: what the inspector shows."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
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
from cocoift.merge.export import Licence
from cocoift.sources.instances import INSTANCE_SCHEMA


class ByImage:
    """Rows of a Parquet file sorted by `image_id`, read one image at a time.

    The `kept` row groups read last stay in memory, so that neighbouring images are not read again.
    Raises `DataError` for a file that is missing, damaged or not of this schema.
    """

    def __init__(self, path: Path, schema: pa.Schema, *, kept: int = 2) -> None:
        self.path, self.schema = path, schema
        ids = read_table(path, schema, columns=["image_id"])["image_id"].to_numpy()
        with reading(path):
            self.file = pq.ParquetFile(path)
        self.ids, starts = np.unique(ids, return_index=True)
        self.bounds = np.append(starts, len(ids))
        metadata = self.file.metadata
        sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        self.groups = np.cumsum([0, *sizes])
        self._group = lru_cache(kept)(self._read_group)

    def rows(self, image_id: int) -> list[dict[str, Any]]:
        """Return the rows of an image in the file's order; none for an image that is not there."""
        place = int(np.searchsorted(self.ids, image_id))
        if place == len(self.ids) or self.ids[place] != image_id:
            return []
        start, end = self.bounds[place : place + 2]
        first, last = np.searchsorted(self.groups, [start, end - 1], side="right") - 1
        groups = pa.concat_tables(self._group(int(n)) for n in range(first, last + 1))
        return groups.slice(start - self.groups[first], end - start).to_pylist()

    def _read_group(self, number: int) -> pa.Table:
        return pa.Table.from_batches(self._batches(row_groups=[number]), self.file.schema_arrow)

    def _batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        return read_batches(self.path, self.schema, file=self.file, **options)

    def matching(self, columns: Sequence[str], text: str) -> np.ndarray:
        """Return the sorted ids of images with a row that contains `text`, ignoring case."""
        found = [np.array([], np.int64)]
        for batch in self._batches(batch_size=20_000, columns=["image_id", *columns]):
            hits = (pc.match_substring(batch[name], text, ignore_case=True) for name in columns)
            found.append(batch["image_id"].filter(reduce(pc.or_kleene, hits)).to_numpy())
        return np.unique(np.concatenate(found))

    def with_value(self, column: str) -> dict[str, np.ndarray]:
        """Return, for each value of a column, a flag per image: whether a row of it has the value.

        Values are sorted; flags have the order of `ids`.
        """
        named = [column]
        table = read_table(self.path, self.schema, columns=named, read_dictionary=named)
        values = table[column].unify_dictionaries().combine_chunks()
        codes, names = values.indices.to_numpy(), values.dictionary.to_pylist()
        return {name: np.logical_or.reduceat(codes == names.index(name), self.bounds[:-1])
                for name in sorted(names)}  # fmt: skip


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
    """Everything about an image: turns, instances, the path of its file and its licence."""

    image_id: int
    file: str
    licence: str
    turns: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    instances: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """An opened merged set: tables by image, and flags per image for each source and form."""

    turns: ByImage
    dropped: ByImage | None
    instances: ByImage | None
    image_root: Path
    sources: Mapping[str, np.ndarray]
    forms: Mapping[str, np.ndarray]
    conflicts: Collection[int]
    licences: Mapping[int, str] = field(default_factory=dict)
    file: str = "train2017/{:012d}.jpg"
    found: dict[str, np.ndarray] = field(default_factory=dict)

    def view(self, image_id: int) -> ImageView:
        """Return everything about an image; raises `DataError` when it is not in the set."""
        turns = self.turns.rows(image_id)
        if not turns:
            raise DataError(f"image {image_id} is not in the merged set")
        return ImageView(
            image_id=image_id,
            file=self.file.format(image_id),
            licence=self.licences.get(turns[0].get("licence") or 0, "licence not known"),
            turns=turns,
            dropped=self.dropped.rows(image_id) if self.dropped else [],
            instances=self.instances.rows(image_id) if self.instances else [],
        )

    @property
    def source_counts(self) -> np.ndarray:
        """The number of sources of each image."""
        return np.sum([*self.sources.values()], axis=0)

    def richest(self) -> int:
        """Return the image with most sources among those on disk, or among all if none is."""
        ranked = self.turns.ids[np.argsort(-self.source_counts, kind="stable")]
        here = (n for n in ranked if (self.image_root / self.file.format(int(n))).is_file())
        return int(next(here, ranked[0]))

    def images(self, chosen: Filter, *, flagged: Collection[int] = ()) -> np.ndarray:
        """Return the sorted ids of the images that match a filter.

        `flagged` are the images with a flagged turn.  Text is searched in instructions and answers.
        """
        ids = self.turns.ids
        keep = self.source_counts >= chosen.least_sources
        if chosen.source:
            keep &= self.sources[chosen.source]
        if chosen.form:
            keep &= self.forms[chosen.form]
        for wanted, among in ((chosen.conflicts, self.conflicts), (chosen.flagged, flagged)):
            if wanted:
                keep &= np.isin(ids, list(among))
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

    def by_image(path: Path | None, schema: pa.Schema) -> ByImage | None:
        return ByImage(path, schema) if path and path.is_file() else None

    turns = ByImage(merged / "turns.parquet", KEPT_SCHEMA)
    dropped = by_image(merged / "dropped.parquet", DROPPED_SCHEMA)
    return Inspection(
        turns=turns,
        dropped=dropped,
        instances=by_image(instances, INSTANCE_SCHEMA),
        image_root=image_root,
        sources=turns.with_value("source"),
        forms=turns.with_value("form"),
        conflicts=[] if dropped is None else dropped.matching(("reason",), "conflict"),
        licences=_licences(merged / "licences.json"),
    )


def _licences(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    rows = read_json(path, list[Licence], fix=f"{RUN_MERGE} again")
    return {row.licence: row.name for row in rows if row.licence != ""}


def answers_by_image(verdicts: Path) -> Mapping[tuple[str, str], pd.DataFrame]:
    """Return notebook 05's answers with their scores, by benchmark and image."""
    table = pd.read_csv(verdicts, keep_default_na=False)
    return dict(iter(table.groupby(["benchmark", "image"], sort=True)))
