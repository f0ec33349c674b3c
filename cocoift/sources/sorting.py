"""The turns of a source in order of image, however many: sorted runs, read back piece by piece."""

import mmap
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cocoift.core.files import DataError
from cocoift.core.schema import TURN_SCHEMA, Turn, row_batch

# Bytes of turns that are sorted at once, and rows of a piece.
RUN_BYTES = 128_000_000
PIECE_ROWS = 100_000
_BATCH_ROWS = 20_000
# The number of a turn's dialog among all that were added: it distinguishes repeated ids.
_RUN_SCHEMA = TURN_SCHEMA.append(pa.field("number", pa.int64(), nullable=False))
_ORDER = [(name, "ascending") for name in ("image_id", "dialog_id", "number", "round")]


class SortedTurns:
    """Dialogs on their way into a turn table: added in any order, given back in pieces by image.

    Memory holds one run of `run_bytes`; full runs lie sorted in temporary files of `folder`, which
    have no name, so that nothing is left of them when the process ends, however it ends.  Of
    dialogs with one id the first in the order of what they say stays.
    """

    def __init__(self, folder: Path | None = None, *, run_bytes: int = RUN_BYTES) -> None:
        self._folder, self._run_bytes = folder, run_bytes
        self._turns: list[Turn] = []
        self._numbers: list[int] = []
        self._batches: list[pa.RecordBatch] = []
        self._runs: list[pa.Table] = []
        self._dialogs = 0
        # Hashes, because millions of ids would fill memory: a dialog that only shares the hash of
        # another's id is looked at too, and stays.
        self._seen: set[int] = set()
        self._suspects: set[str] = set()

    def add(self, turns: Sequence[Turn]) -> None:
        """Add the turns of one dialog."""
        if not turns:
            return
        key = hash(turns[0].dialog_id)
        if key in self._seen:
            self._suspects.add(turns[0].dialog_id)
        self._seen.add(key)
        self._turns += turns
        self._numbers += [self._dialogs] * len(turns)
        self._dialogs += 1
        if len(self._turns) >= _BATCH_ROWS:
            self._close_batch()
            if sum(batch.nbytes for batch in self._batches) >= self._run_bytes:
                self._runs.append(_on_disk(self._close_run(), self._folder))

    def _close_batch(self) -> None:
        if self._turns:
            turns = _batch(self._turns)
            columns = [*turns.columns, pa.array(self._numbers, pa.int64())]
            self._batches.append(pa.RecordBatch.from_arrays(columns, schema=_RUN_SCHEMA))
            self._turns, self._numbers = [], []

    def _close_run(self) -> pa.Table:
        run = pa.Table.from_batches(self._batches, _RUN_SCHEMA).combine_chunks().sort_by(_ORDER)
        self._batches = []
        return run

    def pieces(self, *, rows: int = PIECE_ROWS) -> tuple[Iterator[pa.Table], int]:
        """Return tables of `TURN_SCHEMA` in order, about `rows` turns each, and the turns left out.

        Left out are the turns of dialogs whose id is another's.  An image lies whole in one piece.
        Nothing can be added afterwards.
        """
        self._close_batch()
        if self._batches:
            self._runs.append(self._close_run())
        self._seen.clear()
        losers, turns = self._repeated()
        return self._in_order(losers, rows), turns

    def _repeated(self) -> tuple[pa.Array, int]:
        """Return the numbers of dialogs with another's id, and how many turns they have."""
        found: dict[str, dict[int, list[tuple]]] = defaultdict(lambda: defaultdict(list))
        suspects = pa.array(sorted(self._suspects), pa.string())
        for run in self._runs if self._suspects else ():
            some = run.filter(pc.is_in(run["dialog_id"], suspects))
            for *turn, number in zip(*(column.to_pylist() for column in some.columns), strict=True):
                found[turn[2]][number].append(tuple(turn))
        losers: list[int] = []
        count = 0
        for dialogs in found.values():
            _, *others = sorted(dialogs.items(), key=lambda item: repr(item[1]))
            losers += [number for number, _ in others]
            count += sum(len(turns) for _, turns in others)
        return pa.array(losers, pa.int64()), count

    def _in_order(self, losers: pa.Array, rows: int) -> Iterator[pa.Table]:
        ids = [run["image_id"].to_numpy() for run in self._runs]
        for first, last in id_ranges(ids, rows=rows):
            slices = []
            for run, images in zip(self._runs, ids, strict=True):
                start = np.searchsorted(images, first)
                end = np.searchsorted(images, last, side="right")
                slices.append(run.slice(start, end - start))
            piece = pa.concat_tables(slices)
            if len(losers):
                piece = piece.filter(pc.invert(pc.is_in(piece["number"], losers)))
            if len(self._runs) > 1:
                piece = piece.combine_chunks().sort_by(_ORDER)
            yield piece.drop_columns("number")


def _batch(turns: Sequence[Turn]) -> pa.RecordBatch:
    """Return turns as one batch; raises `DataError` naming a turn with a field of a wrong type."""
    try:
        return row_batch(turns, TURN_SCHEMA)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        if len(turns) > 1:
            for turn in turns:
                _batch([turn])
        raise DataError(
            f"source {turns[0].source}, dialog {turns[0].dialog_id!r}: {error}; its reader must "
            "give image ids as numbers, all else as text"
        ) from error


def id_ranges(ids: Sequence[np.ndarray], *, rows: int) -> list[tuple[int, int]]:
    """Return ranges of image ids, first and last, that hold about `rows` turns each.

    `ids` are the image ids of all turns, in several arrays.  The ranges depend on the ids alone,
    not on their order or on how they are split.
    """
    if not sum(map(len, ids)):
        return []
    every = np.sort(np.concatenate(ids))
    firsts = np.unique(every[::rows])
    lasts = [*(firsts[1:] - 1), every[-1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]


def _on_disk(run: pa.Table, folder: Path | None) -> pa.Table:
    """Return the same table with its columns in a file, mapped."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, run.schema) as writer:
            writer.write_table(run)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()
