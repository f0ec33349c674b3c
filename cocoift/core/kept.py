"""The files of the merge: turns kept, in which record and where, and turns dropped."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.schema import TURN_SCHEMA, Turn

KEPT_SCHEMA = pa.schema(
    [
        *TURN_SCHEMA,
        pa.field("record", pa.int16(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
    ]
)

DROPPED_SCHEMA = pa.schema([*TURN_SCHEMA, pa.field("reason", pa.string(), nullable=False)])


class KeptTurn(msgspec.Struct, frozen=True):
    """A turn of the merged set: which record of its image, where in it, at how many tokens."""

    turn: Turn
    record: int
    position: int
    tokens: int


def kept_by_image(path: Path, *, group: int | None = None) -> Iterator[list[KeptTurn]]:
    """Yield the kept turns of one image after another from a file of `KEPT_SCHEMA`.

    `group` reads one row group only; images lie whole in one.
    """
    file = pq.ParquetFile(path)
    groups = range(file.num_row_groups) if group is None else [group]
    waiting: list[KeptTurn] = []
    for batch in file.iter_batches(row_groups=groups):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            kept = KeptTurn(Turn(*row[:8]), *row[8:])
            if waiting and waiting[0].turn.image_id != kept.turn.image_id:
                yield waiting
                waiting = []
            waiting.append(kept)
    if waiting:
        yield waiting
