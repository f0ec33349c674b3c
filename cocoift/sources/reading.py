"""From upstream files to the turn table: run a reader, apply the template, count what drops."""

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, replacing
from cocoift.core.parallel import ordered
from cocoift.core.schema import FORMS, TURN_SCHEMA, Turn
from cocoift.core.tables import RUN_SETUP, read_table, reading
from cocoift.sources.base import QA, Dialog, Drop, paused_collector
from cocoift.sources.catalogue import Entry, parts_on_disk
from cocoift.sources.sorting import SortedTurns

_DROPS_KEY = b"cocoift.drops"
# Bytes of annotation files from which starting processes costs less than it saves.
_WORTH_PROCESSES = 500_000_000
# Rows that a part of the merge must read at least; tables are sorted by image.
_GROUP_ROWS = 20_000


@dataclass(frozen=True)
class Reading:
    """One source as read: its turns, and the turns that could not enter, counted by reason."""

    turns: pa.Table
    drops: dict[str, int]


def read_source(name: str, entry: Entry, raw: Path) -> Reading | None:
    """Read every complete part of a source below `raw`; `None` when no part is complete.

    The table has `TURN_SCHEMA` and is sorted by image, dialog and round, so it does not depend
    on the order of files or records.  Of dialogs with one id the first in the order of what they
    say stays, the others drop as `repeated_id`.  Raises `DataError` for a damaged file.
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
    """Return the turns of a source in order, piece by piece, and its drops."""
    reader = _reader(name, entry)
    drops: Counter[str] = Counter()
    collected = SortedTurns(spill)
    with paused_collector():
        for item in (item for files in parts for item in _items(reader, name, entry, files)):
            if isinstance(item, Drop):
                drops[item.reason] += item.turns
            else:
                collected.add(item)
    pieces, repeated = collected.pieces()
    if repeated:
        drops["repeated_id"] += repeated
    return pieces, dict(drops)


def read_all(catalogue: Mapping[str, Entry], raw: Path, folder: Path) -> dict[str, Path]:
    """Read every source that is on disk; return its table, `<folder>/<source>.parquet`, by name.

    Large files are read one source per core.  Tables of sources that are no longer there are
    removed, so that the folder matches what was read.  Raises `DataError` for a damaged file.
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
    """Read a source, if it is there, into its table, its drop counts in the file's metadata."""
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
            "project's folder, beside the preset, or elsewhere on the Python path"
        ) from error


def _items(
    reader: Callable[..., Iterator[Dialog | Drop]],
    name: str,
    entry: Entry,
    files: Mapping[str, Path],
) -> Iterator[list[Turn] | Drop]:
    """Yield the dialogs of a part as turns, and its drops; whatever fails names its record."""
    count = 0
    try:
        for item in reader(**files):
            yield item if isinstance(item, Drop) else list(_turns(name, entry, item))
            count += 1
    except DataError:
        raise
    except Exception as error:  # of a reader that checks nothing: a missing field, a wrong type
        listed = ", ".join(map(str, files.values()))
        dialogs = f"{count:,} dialog{'s' * (count != 1)}"
        raise DataError(
            f"{listed}: {entry.reader} failed after {dialogs}{_record_at(error)}: "
            f"{type(error).__name__}: {error}; fix that record or the reader"
        ) from error


def _record_at(error: Exception) -> str:
    """Return what was at hand when a reader failed: its last mapping, or the dialog it gave."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    values = inner.tb_frame.f_locals.values() if inner else ()
    held = [one for one in values if isinstance(one, dict | Dialog)]
    return f", at {textwrap.shorten(repr(held[-1]), 200)}" if held else ""


def _turns(name: str, entry: Entry, dialog: Dialog) -> Iterator[Turn]:
    image_id, dialog_id, rounds = dialog
    if not 0 <= image_id < 2**63:
        raise DataError(f"source {name}, dialog {dialog_id}: its image id is no COCO id")
    for position, qa in enumerate(rounds):
        form = qa.form or entry.form or ""
        if form not in FORMS:
            raise DataError(f"source {name}: form {form!r} is none of {', '.join(FORMS)}")
        asked = apply_template(qa.template or entry.template, qa)
        yield Turn(image_id, name, dialog_id, position, qa.question, asked, qa.answer, form)


def apply_template(template: str, qa: QA) -> str | None:
    """Return the instruction: the template with `{question}` replaced; `None` without a question.

    A question of blanks is none.  Plain replacement, not `str.format`: questions may hold braces.
    """
    if "{question}" not in template:
        return template
    question = (qa.question or "").strip()
    return template.replace("{question}", question) if question else None


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
    """Read back a table that `read_all` wrote; raises `DataError` when the file is damaged."""
    table = read_table(path, TURN_SCHEMA, fix=RUN_SETUP)
    with reading(path, fix=RUN_SETUP):
        drops = _drops(table.schema.metadata)
    return Reading(table.replace_schema_metadata(None), drops)


def load_readings(folder: Path) -> dict[str, Reading]:
    """Load every reading saved in `folder`, by source name; `DataError` when there is none."""
    readings = {path.stem: load_reading(path) for path in sorted(folder.glob("*.parquet"))}
    if not readings:
        raise DataError(f"no turn tables in {folder}; run notebook 00_setup first")
    return readings
