"""From upstream files to the turn table: run a reader, apply the template, sort, count drops."""

import json
import mmap
import tempfile
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, replacing
from cocoift.core.parallel import ordered
from cocoift.core.schema import FORMS, TURN_SCHEMA, Turn, row_batch
from cocoift.core.spread import id_ranges
from cocoift.core.tables import RUN_SETUP, read_table, reading
from cocoift.core.text import counted
from cocoift.sources.base import QA, Dialog, Drop, paused_collector
from cocoift.sources.catalogue import Entry, parts_on_disk

_DROPS_KEY = b"cocoift.drops"
# With fewer bytes of annotation files, starting processes costs more than it saves.
_WORTH_PROCESSES = 500_000_000
# The least that a part of the merge has to read of a table, which is sorted by image.
_GROUP_ROWS = 20_000
# Bytes of turns that are sorted at once, and rows of a piece.
RUN_BYTES = 128_000_000
PIECE_ROWS = 100_000
_BATCH_ROWS = 20_000
# The number of a turn's dialog among all that were added: it distinguishes repeated ids.
_RUN_SCHEMA = TURN_SCHEMA.append(pa.field("number", pa.int64(), nullable=False))
_ORDER = [(name, "ascending") for name in ("image_id", "dialog_id", "number", "round")]


@dataclass(frozen=True)
class Reading:
    """A source as read: its turns, and the number of turns dropped by reason."""

    turns: pa.Table
    drops: dict[str, int]


def read_source(name: str, entry: Entry, raw: Path) -> Reading | None:
    """Read every complete part of a source below `raw`; `None` when no part is complete.

    The table has `TURN_SCHEMA` and is sorted by image, dialog and round, so it does not depend
    on the order of files or records.  Of dialogs with the same id, the first by content stays and
    the others are dropped as `repeated_id`.  Raises `DataError` for a damaged file.
    """
    parts = _complete_parts(entry, raw)
    if not parts:
        return None
    pieces, drops = _read(name, entry, parts)
    return Reading(pa.concat_tables([TURN_SCHEMA.empty_table(), *pieces]), drops)


def _complete_parts(entry: Entry, raw: Path) -> list[dict[str, Path]]:
    return [files for files, missing in parts_on_disk(entry, raw) if not missing]


def _read(
    name: str, entry: Entry, parts: Sequence[Mapping[str, Path]], *, spill: Path | None = None
) -> tuple[Iterator[pa.Table], dict[str, int]]:
    """Return the sorted turns of a source, piece by piece, and its drops."""
    reader = _reader(name, entry)
    drops: Counter[str] = Counter()
    collected = SortedTurns(spill)
    with paused_collector():
        for files in parts:
            for item in _items(reader, name, entry, files):
                if isinstance(item, Drop):
                    drops[item.reason] += item.turns
                else:
                    collected.add(item)
    pieces, repeated = collected.pieces()
    if repeated:
        drops["repeated_id"] += repeated
    return pieces, dict(drops)


def read_all(catalogue: Mapping[str, Entry], raw: Path, folder: Path) -> dict[str, Path]:
    """Read every source that is on disk; return their tables, `<folder>/<source>.parquet`, by name.

    Large files are read in parallel, one source per core.  Tables of sources that are no longer
    there are removed, so that the folder matches what was read.  Raises `DataError` for a damaged
    file.
    """
    tasks = [
        _Task(name, entry, raw, folder / f"{name}.parquet")
        for name, entry in catalogue.items()
        if entry.reader
    ]
    largest_first = sorted(tasks, key=_size, reverse=True)
    processes = 1 if sum(map(_size, tasks)) < _WORTH_PROCESSES else None
    found = ordered(_read_and_save, largest_first, processes=processes)
    done = tqdm(found, desc="reading", total=len(tasks), unit=" sources", leave=False)
    present = {task.table.stem for task, read in zip(largest_first, done, strict=True) if read}
    for path in folder.glob("*.parquet"):
        if path.stem not in present:
            path.unlink()
    return {task.name: task.table for task in tasks if task.name in present}


class _Task(NamedTuple):
    name: str
    entry: Entry
    raw: Path
    table: Path


def _size(task: _Task) -> int:
    """Return the bytes of a source's files, a measure of how long reading them takes."""
    parts = _complete_parts(task.entry, task.raw)
    return sum(path.stat().st_size for files in parts for path in files.values())


def _read_and_save(task: _Task) -> bool:
    """Read a source, if it is there, into its table, with its drops in the file's metadata."""
    parts = _complete_parts(task.entry, task.raw)
    if not parts:
        return False
    with replacing(task.table) as temporary:
        pieces, drops = _read(task.name, task.entry, parts, spill=task.table.parent)
        counts = json.dumps(drops, sort_keys=True).encode()
        schema = TURN_SCHEMA.with_metadata({_DROPS_KEY: counts})
        with pq.ParquetWriter(temporary, schema) as writer:
            for piece in pieces:
                writer.write_table(piece, row_group_size=_GROUP_ROWS)
    return True


def _reader(name: str, entry: Entry) -> Callable[..., Iterator[Dialog | Drop]]:
    try:
        return resolve_name(entry.reader or "")
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(
            f"source {name}: reader {entry.reader!r} not found: {error}; put its module into the "
            "project's folder, beside the preset, or anywhere on the Python path"
        ) from error


def _items(
    reader: Callable[..., Iterator[Dialog | Drop]],
    name: str,
    entry: Entry,
    files: Mapping[str, Path],
) -> Iterator[list[Turn] | Drop]:
    """Yield the dialogs of a part as turns, and its drops; errors name the record."""
    count = 0
    try:
        for item in reader(**files):
            yield item if isinstance(item, Drop) else list(_turns(name, entry, item))
            count += 1
    except DataError:
        raise
    except Exception as error:  # a reader that checks nothing: a missing field, a wrong type
        listed = ", ".join(map(str, files.values()))
        raise DataError(
            f"{listed}: {entry.reader} failed after {counted(count, 'dialog')}{_record_at(error)}: "
            f"{type(error).__name__}: {error}; fix that record or the reader"
        ) from error


def _record_at(error: Exception) -> str:
    """Return what a reader was working on when it failed: its last mapping, or its last dialog."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    values = inner.tb_frame.f_locals.values() if inner else ()
    records = [value for value in values if isinstance(value, dict | Dialog)]
    return f", at {textwrap.shorten(repr(records[-1]), 200)}" if records else ""


def _turns(name: str, entry: Entry, dialog: Dialog) -> Iterator[Turn]:
    image_id, dialog_id, rounds = dialog
    if not 0 <= image_id < 2**63:
        raise DataError(f"source {name}, dialog {dialog_id}: {image_id} is not a COCO image id")
    for position, qa in enumerate(rounds):
        form = qa.form or entry.form or ""
        if form not in FORMS:
            raise DataError(f"source {name}: form {form!r} is none of {', '.join(FORMS)}")
        asked = apply_template(qa.template or entry.template, qa)
        yield Turn(image_id, name, dialog_id, position, qa.question, asked, qa.answer, form)


def apply_template(template: str, qa: QA) -> str | None:
    """Return the instruction: the template with `{question}` replaced; `None` without a question.

    A blank question counts as none.  Not `str.format`: questions may contain braces.
    """
    if "{question}" not in template:
        return template
    question = (qa.question or "").strip()
    return template.replace("{question}", question) if question else None


class SortedTurns:
    """Dialogs on their way into a turn table: added in any order, returned in pieces by image.

    One run of `run_bytes` is held in memory; full runs are sorted and written to temporary files in
    `folder`, which have no name, so that nothing is left of them however the process ends.  Of
    dialogs with the same id, the first by content stays.
    """

    def __init__(self, folder: Path | None = None, *, run_bytes: int = RUN_BYTES) -> None:
        self._folder, self._run_bytes = folder, run_bytes
        self._turns: list[Turn] = []
        self._numbers: list[int] = []
        self._batches: list[pa.RecordBatch] = []
        self._runs: list[pa.Table] = []
        self._dialogs = 0
        # Hashes, since millions of ids would fill the memory.  A dialog that merely shares the hash
        # of another's id is checked too, and stays.
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
        """Return the turns as tables of `TURN_SCHEMA`, about `rows` turns each, and the drop count.

        Dialogs that repeat an id drop.  No image is split over two pieces.  Nothing can be added
        afterwards.
        """
        self._close_batch()
        if self._batches:
            self._runs.append(self._close_run())
        self._seen.clear()
        losers, turns = self._repeated()
        return self._in_order(losers, rows), turns

    def _repeated(self) -> tuple[pa.Array, int]:
        """Return the numbers of dialogs that repeat another's id, and how many turns they have."""
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
    """Return turns as a batch; raises `DataError` naming a turn with a field of a wrong type."""
    try:
        return row_batch(turns, TURN_SCHEMA)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        if len(turns) > 1:
            for turn in turns:
                _batch([turn])
        raise DataError(
            f"source {turns[0].source}, dialog {turns[0].dialog_id!r}: {error}; its reader must "
            "give image ids as numbers and everything else as text"
        ) from error


def _on_disk(run: pa.Table, folder: Path | None) -> pa.Table:
    """Return the same table, its columns in a memory-mapped file."""
    with tempfile.TemporaryFile(dir=folder) as file:
        with pa.ipc.new_file(file, run.schema) as writer:
            writer.write_table(run)
        file.flush()
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))).read_all()


def saved_counts(folder: Path) -> dict[str, tuple[int, dict[str, int]]]:
    """Return each saved source's turns and its drop counts, without reading the turns.

    Raises `DataError` when a file is damaged.
    """
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        with reading(path, fix=RUN_SETUP):
            metadata = pq.read_metadata(path)
            found[path.stem] = metadata.num_rows, _drops(metadata.metadata)
    return found


def _drops(metadata: Mapping[bytes, bytes] | None) -> dict[str, int]:
    return msgspec.json.decode((metadata or {})[_DROPS_KEY], type=dict[str, int])


def load_reading(path: Path) -> Reading:
    """Read a table that `read_all` wrote; raises `DataError` when the file is damaged."""
    table = read_table(path, TURN_SCHEMA, fix=RUN_SETUP)
    with reading(path, fix=RUN_SETUP):
        drops = _drops(table.schema.metadata)
    return Reading(table.replace_schema_metadata(None), drops)


def load_readings(folder: Path) -> dict[str, Reading]:
    """Load every reading saved in `folder`, by source name; raises `DataError` if there is none."""
    readings = {path.stem: load_reading(path) for path in sorted(folder.glob("*.parquet"))}
    if not readings:
        raise DataError(f"no turn tables in {folder}; run notebook 00_setup first")
    return readings
