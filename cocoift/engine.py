"""The engine of the merge: Daft reads turn tables, groups them by image and writes the result.

No rule lives here.  The native runner uses the cores of this machine, the Ray runner those of a
cluster; both give the same bytes because images are independent and written in order of id.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from cocoift.files import DataError, replacing
from cocoift.merge import Conflict, MergedImage, Rules, TurnKey, merge_image
from cocoift.records import TURN_SCHEMA, Turn, row_batch
from cocoift.sources.base import paused_collector
from cocoift.sources.coco import Scope
from cocoift.tokens import token_counter

KEPT_SCHEMA = pa.schema(
    [
        *TURN_SCHEMA,
        pa.field("record", pa.int16(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)

DROPPED_SCHEMA = pa.schema([*TURN_SCHEMA, pa.field("reason", pa.string(), nullable=False)])

Runner = Literal["native", "ray"]


class KeptTurn(msgspec.Struct, frozen=True):
    """A turn of the merged set: which record of its image, where in it, at how many tokens."""

    turn: Turn
    record: int
    position: int
    tokens: int


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


def merge_tables(
    tables: Sequence[Path],
    *,
    out: Path,
    rules: Rules,
    scope: Scope,
    tokenizer_file: str | None = None,
    runner: Runner = "native",
    curated: Mapping[int, Collection[TurnKey]] | None = None,
) -> MergeReport:
    """Merge turn tables into `out`, a Parquet file of `KEPT_SCHEMA` sorted by image and record.

    `dropped.parquet` beside it holds the dropped turns of the images that may train, by image, in
    `DROPPED_SCHEMA`.  `curated` are the turns that a person took out, by image.  Asserts that, per
    source, turns in equal turns kept plus drops.  Raises `DataError` when there is nothing to
    merge or the output cannot be written; `out` is then left as it was.
    """
    if not tables:
        raise DataError("no turn tables to merge; run notebook 00_setup on annotation files first")
    turns_in = Counter(
        {p.stem: pq.read_metadata(p).num_rows for p in tables if pq.read_metadata(p).num_rows}
    )
    kept: Counter[str] = Counter()
    drops: Counter[tuple[str, str]] = Counter()
    conflicts: list[Conflict] = []
    refused: dict[int, str] = {}
    images = merged_images(
        tables,
        rules=rules,
        scope=scope,
        tokenizer_file=tokenizer_file,
        runner=runner,
        curated=curated,
    )
    beside = out.with_name("dropped.parquet")
    with (
        replacing(out) as temporary,
        replacing(beside) as dropped_file,
        pq.ParquetWriter(temporary, KEPT_SCHEMA) as writer,
        pq.ParquetWriter(dropped_file, DROPPED_SCHEMA) as dropped_writer,
        paused_collector(),
    ):
        for chunk in _chunks(tqdm(images, desc="merging", unit=" images"), size=2_000):
            rows = [row for merged in chunk for row in _kept_rows(merged)]
            lost = [(*turn, reason) for merged in chunk for turn, reason in merged.dropped]
            if rows:
                writer.write_batch(row_batch(rows, KEPT_SCHEMA))
            if lost:
                dropped_writer.write_batch(row_batch(lost, DROPPED_SCHEMA))
            kept.update(row[1] for row in rows)
            for merged in chunk:
                drops.update({(source, why): count for source, why, count in merged.drops})
                conflicts += merged.conflicts
                if reason := scope.refusal(merged.image_id):
                    refused[merged.image_id] = reason
    for source, count in turns_in.items():
        out_count = kept[source] + sum(n for (name, _), n in drops.items() if name == source)
        assert count == out_count, f"{source}: {count} turns in, {out_count} kept or dropped"
    return MergeReport(dict(turns_in), dict(kept), dict(drops), conflicts, refused)


def merged_images(
    tables: Sequence[Path],
    *,
    rules: Rules,
    scope: Scope,
    tokenizer_file: str | None,
    runner: Runner,
    curated: Mapping[int, Collection[TurnKey]] | None = None,
) -> Iterator[MergedImage]:
    """Yield every image of the turn tables merged, in order of image id."""
    import daft

    _start(runner)
    taken_out = curated or {}

    names = [name for name in TURN_SCHEMA.names if name != "image_id"]

    @daft.func.batch(return_dtype=daft.DataType.binary())
    def merge_batch(image_ids: daft.Series, *columns: daft.Series) -> list[bytes]:
        count_tokens = token_counter(tokenizer_file)
        with paused_collector():
            groups = zip(*(column.to_pylist() for column in columns), strict=True)
            return [
                msgspec.msgpack.encode(
                    merge_image(
                        image_id,
                        [Turn(image_id, *row) for row in zip(*lists, strict=True)],
                        rules=rules,
                        scope=scope,
                        count_tokens=count_tokens,
                        curated=taken_out.get(image_id, ()),
                    )
                )
                for image_id, lists in zip(image_ids.to_pylist(), groups, strict=True)
            ]

    turns = daft.read_parquet([str(path) for path in tables])
    # Lists of one group are filled row by row, so their elements belong together.
    lists = [daft.col(name).list_agg() for name in names]
    images = turns.groupby("image_id").agg(*lists)
    merged = images.select(
        "image_id", merge_batch(daft.col("image_id"), *map(daft.col, names)).alias("merged")
    ).sort("image_id")
    decoder = msgspec.msgpack.Decoder(MergedImage)
    for batch in merged.to_arrow_iter():
        yield from map(decoder.decode, batch.column("merged").to_pylist())


def _start(runner: Runner) -> None:
    """Choose Daft's runner, which can be chosen once per process; native is its default."""
    import daft

    if runner == "ray":
        daft.set_runner_ray(noop_if_initialized=True)
    elif daft.get_or_infer_runner_type() != "native":
        raise DataError("this process runs on Ray already; restart it for the native runner")


def _chunks(images: Iterable[MergedImage], *, size: int) -> Iterator[list[MergedImage]]:
    chunk: list[MergedImage] = []
    for image in images:
        chunk.append(image)
        if len(chunk) == size:
            yield chunk
            chunk = []
    yield chunk


def _kept_rows(merged: MergedImage) -> Iterator[tuple]:
    for number, record in enumerate(merged.records):
        for position, (turn, tokens) in enumerate(record):
            yield (*turn, number, position, tokens)


def kept_by_image(path: Path) -> Iterator[list[KeptTurn]]:
    """Yield the kept turns of one image after another from a file of `KEPT_SCHEMA`."""
    waiting: list[KeptTurn] = []
    for batch in pq.ParquetFile(path).iter_batches():
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            kept = KeptTurn(Turn(*row[:8]), *row[8:])
            if waiting and waiting[0].turn.image_id != kept.turn.image_id:
                yield waiting
                waiting = []
            waiting.append(kept)
    if waiting:
        yield waiting
