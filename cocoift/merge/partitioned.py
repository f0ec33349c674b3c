"""The merge of all images: in parts, several at once, written in order of image id.

There are no rules here.  A part is a range of image ids, and all parts have about as many turns, so
that memory does not grow with the corpus; images are independent, so parts can be merged anywhere
and give the same bytes.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, replacing
from cocoift.core.parallel import Runner, ordered
from cocoift.core.schema import DROPPED_SCHEMA, KEPT_SCHEMA, TURN_SCHEMA, Turn, row_table
from cocoift.core.spread import id_ranges
from cocoift.core.tables import RUN_SETUP, count_rows, read_table, reading
from cocoift.core.text import token_counter
from cocoift.merge.rules import Conflict, MergedImage, Rules, TurnKey, merge_image
from cocoift.sources.base import paused_collector
from cocoift.sources.scope import Scope

PART_TURNS = 100_000


@dataclass(frozen=True)
class MergeReport:
    """What the merge counted: turns read, turns kept, drops by source and reason, conflicts."""

    turns_in: dict[str, int]
    kept: dict[str, int]
    drops: dict[tuple[str, str], int]
    conflicts: list[Conflict]
    refused_images: dict[int, str]

    def table(self, reading_drops: pd.DataFrame | None = None) -> pd.DataFrame:
        """Return one row per source and reason (`kept` included) with its turns.

        `reading_drops` adds what the readers dropped before the merge, in the same columns.
        """
        rows = [(source, "kept", turns) for source, turns in self.kept.items()]
        rows += [(source, reason, turns) for (source, reason), turns in self.drops.items()]
        table = pd.DataFrame(rows, columns=["source", "reason", "turns"])
        if reading_drops is not None:
            table = pd.concat([table, reading_drops])
            table = table.groupby(["source", "reason"], as_index=False).turns.sum()
        return table.sort_values(["source", "reason"], ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class MergeInputs:
    """What determines a merge besides the turns.

    `tokenizer_file` counts tokens (`None`: estimated); `curated` are the turns removed in curation,
    by image.
    """

    rules: Rules
    scope: Scope = field(default_factory=Scope)
    tokenizer_file: str | None = None
    curated: Mapping[int, Collection[TurnKey]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a merge: the images `first` to `last` of the tables."""

    tables: Sequence[Path]
    first: int
    last: int
    inputs: MergeInputs


@dataclass(frozen=True, kw_only=True)
class MergedPart:
    """A merged part: tables of `KEPT_SCHEMA` and `DROPPED_SCHEMA`, and what was counted."""

    kept: pa.Table
    dropped: pa.Table
    drops: Counter[tuple[str, str]]
    conflicts: list[Conflict]
    refused: dict[int, str]


def merge_tables(
    tables: Sequence[Path],
    *,
    out: Path,
    inputs: MergeInputs,
    runner: Runner = "native",
    part_turns: int = PART_TURNS,
) -> MergeReport:
    """Merge turn tables into `out`, a Parquet file of `KEPT_SCHEMA` sorted by image and record.

    Each part is a row group, so no image is split over two.  `dropped.parquet` beside it holds the
    dropped turns of the images that may train, by image, in `DROPPED_SCHEMA`.  Raises `DataError`
    when there is nothing to merge, a table is damaged or the output cannot be written (`out` is
    then left as it was), and if the turns of a source are not its turns kept plus its drops.
    """
    if not tables:
        raise DataError("no turn tables to merge; run notebook 00_setup on annotation files first")
    sizes = {path.stem: count_rows(path, fix=RUN_SETUP) for path in tables}
    turns_in = {source: turns for source, turns in sizes.items() if turns}
    parts = list(_parts(tables, inputs, turns=part_turns))
    merged = ordered(merge_part, parts, runner=runner)
    report = _write(tqdm(merged, desc="merging", total=len(parts), unit=" parts"), out, turns_in)
    for source, count in turns_in.items():
        lost = sum(turns for (name, _), turns in report.drops.items() if name == source)
        kept = report.kept.get(source, 0)
        if count != kept + lost:
            raise DataError(
                f"{source}: {count} turns in, {kept} kept, {lost} dropped: "
                f"its turn table contradicts itself; {RUN_SETUP}"
            )
    return report


def _parts(tables: Sequence[Path], inputs: MergeInputs, *, turns: int) -> Iterator[Part]:
    """Yield parts of about `turns` turns, each with the inputs for its images alone.

    Parts are sent to other processes: with the whole scope in each of them, the work would grow
    with the square of the corpus.
    """
    scope = inputs.scope
    train, licences = sorted(scope.train or ()), sorted(scope.licence_of.items())
    only = ["image_id"]
    read = (read_table(path, TURN_SCHEMA, columns=only, fix=RUN_SETUP) for path in tables)
    ids = [table["image_id"].to_numpy() for table in read]
    for first, last in id_ranges(ids, rows=turns):
        ids_here = train[bisect_left(train, first) : bisect_left(train, last + 1)]
        here = licences[bisect_left(licences, (first,)) : bisect_left(licences, (last + 1,))]
        train_here = None if scope.train is None else frozenset(ids_here)
        scope_here = replace(scope, train=train_here, licence_of=dict(here))
        curated = {i: keys for i, keys in inputs.curated.items() if first <= i <= last}
        inputs_here = replace(inputs, scope=scope_here, curated=curated)
        yield Part(tables=tables, first=first, last=last, inputs=inputs_here)


def merge_part(part: Part) -> MergedPart:
    """Merge the images of a part, in order of id."""
    inputs, count_tokens = part.inputs, token_counter(part.inputs.tokenizer_file)
    kept: list[tuple] = []
    dropped: list[tuple] = []
    drops: Counter[tuple[str, str]] = Counter()
    conflicts: list[Conflict] = []
    refused = {}
    with paused_collector():
        for image_id, turns in _turns_by_image(part):
            merged = merge_image(
                image_id,
                turns,
                rules=inputs.rules,
                scope=inputs.scope,
                count_tokens=count_tokens,
                curated=inputs.curated.get(image_id, ()),
            )
            kept += _kept_rows(merged, inputs.scope.licence_of.get(image_id))
            dropped += ((*turn, reason) for turn, reason in merged.dropped)
            drops.update({(source, why): count for source, why, count in merged.drops})
            conflicts += merged.conflicts
            if reason := inputs.scope.refusal(image_id):
                refused[image_id] = reason
        return MergedPart(
            kept=row_table(kept, KEPT_SCHEMA),
            dropped=row_table(dropped, DROPPED_SCHEMA),
            drops=drops,
            conflicts=conflicts,
            refused=refused,
        )


def _turns_by_image(part: Part) -> Iterator[tuple[int, list[Turn]]]:
    image = ds.field("image_id")
    of_part, tables = (image >= part.first) & (image <= part.last), []
    for path in part.tables:
        with reading(path, fix=RUN_SETUP):
            tables.append(ds.dataset(path, schema=TURN_SCHEMA).to_table(filter=of_part))
            tables[-1].validate(full=True)
    turns = pa.concat_tables(tables)
    found: dict[int, list[Turn]] = defaultdict(list)
    rows = zip(*(column.to_pylist() for column in turns.columns), strict=True)
    for turn in map(Turn._make, rows):
        found[turn.image_id].append(turn)
    yield from sorted(found.items())


def _kept_rows(merged: MergedImage, licence: int | None) -> Iterator[tuple]:
    for number, record in enumerate(merged.records):
        for position, (turn, tokens) in enumerate(record):
            yield (*turn, number, position, tokens, licence)


def _write(parts: Iterable[MergedPart], out: Path, turns_in: dict[str, int]) -> MergeReport:
    """Write merged parts one after another; return what was counted in all of them."""
    kept: Counter[str] = Counter()
    drops: Counter[tuple[str, str]] = Counter()
    conflicts: list[Conflict] = []
    refused: dict[int, str] = {}
    with (
        replacing(out) as temporary,
        replacing(out.with_name("dropped.parquet")) as dropped_file,
        pq.ParquetWriter(temporary, KEPT_SCHEMA) as writer,
        pq.ParquetWriter(dropped_file, DROPPED_SCHEMA) as dropped_writer,
    ):
        for part in parts:
            if part.kept.num_rows:
                writer.write_table(part.kept, row_group_size=part.kept.num_rows)
            dropped_writer.write_table(part.dropped)
            counts = part.kept["source"].value_counts().to_pylist()
            kept.update({row["values"]: row["counts"] for row in counts})
            drops.update(part.drops)
            conflicts += part.conflicts
            refused |= part.refused
    return MergeReport(turns_in, dict(kept), dict(drops), conflicts, refused)
