"""From upstream files to the turn table: run a reader, apply the template, count what drops."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from cocoift.files import DataError, replacing
from cocoift.records import FORMS, TURN_SCHEMA, Turn, turn_batches
from cocoift.sources.base import QA, Dialog, Drop, paused_collector
from cocoift.sources.catalogue import Entry, parts_on_disk

_DROPS_KEY = b"cocoift.drops"


@dataclass(frozen=True)
class Reading:
    """One source as read: its turns, and the turns that could not enter, counted by reason."""

    turns: pa.Table
    drops: dict[str, int]


def read_source(name: str, entry: Entry, raw: Path) -> Reading | None:
    """Read every complete part of a source below `raw`; `None` when no part is complete.

    The table has `TURN_SCHEMA` and is sorted by image, dialog and round, so it does not depend
    on the order of files or records.  Of dialogs with one id the first in that order stays, the
    others drop as `repeated_id`.  Raises `DataError` for a damaged file.
    """
    parts = [files for files, missing in parts_on_disk(entry, raw) if not missing]
    if not parts:
        return None
    reader = _reader(name, entry)
    drops: Counter[str] = Counter()
    dialogs: dict[str, Dialog] = {}
    with paused_collector():
        for files in parts:
            for item in reader(**files):
                if isinstance(item, Drop):
                    drops[item.reason] += item.turns
                else:
                    _keep_first(dialogs, item, drops)
        ordered = sorted(dialogs.values(), key=lambda dialog: (dialog.image_id, dialog.dialog_id))
        turns = (turn for dialog in ordered for turn in _turns(name, entry, dialog))
        table = pa.Table.from_batches(turn_batches(turns), TURN_SCHEMA)
    return Reading(table, dict(drops))


def read_all(catalogue: Mapping[str, Entry], raw: Path, folder: Path) -> dict[str, Reading]:
    """Read every source that is on disk and save each as `<folder>/<source>.parquet`.

    Tables of sources that are no longer there are removed, so that the folder tells the truth.
    """
    readings = {}
    sources = {name: entry for name, entry in catalogue.items() if entry.reader}
    for name, entry in tqdm(sources.items(), desc="reading", unit=" sources", leave=False):
        reading = read_source(name, entry, raw)
        if reading is not None:
            readings[name] = reading
            save_reading(reading, folder / f"{name}.parquet")
    for path in folder.glob("*.parquet"):
        if path.stem not in readings:
            path.unlink()
    return readings


def _reader(name: str, entry: Entry) -> Callable[..., Iterator[Dialog | Drop]]:
    try:
        return resolve_name(entry.reader or "")
    except (ImportError, AttributeError, ValueError) as error:
        raise DataError(f"source {name}: reader {entry.reader!r} not found: {error}") from error


def _keep_first(dialogs: dict[str, Dialog], dialog: Dialog, drops: Counter[str]) -> None:
    """Keep one dialog per id; which one does not depend on the order they come in."""
    present = dialogs.get(dialog.dialog_id)
    if present is None:
        dialogs[dialog.dialog_id] = dialog
        return
    first, other = sorted((present, dialog), key=repr)
    dialogs[dialog.dialog_id] = first
    drops["repeated_id"] += len(other.rounds)


def _turns(name: str, entry: Entry, dialog: Dialog) -> Iterator[Turn]:
    for position, qa in enumerate(dialog.rounds):
        form = qa.form or entry.form or ""
        if form not in FORMS:
            raise DataError(f"source {name}: form {form!r} is none of {', '.join(FORMS)}")
        yield Turn(
            image_id=dialog.image_id,
            source=name,
            dialog_id=dialog.dialog_id,
            round=position,
            question=qa.question,
            instruction=apply_template(qa.template or entry.template, qa),
            answer=qa.answer,
            form=form,
        )


def apply_template(template: str, qa: QA) -> str | None:
    """Return the instruction: the template with `{question}` replaced; `None` without a question.

    Plain replacement, not `str.format`: questions may hold braces.
    """
    if "{question}" not in template:
        return template
    return template.replace("{question}", qa.question.strip()) if qa.question else None


def save_reading(reading: Reading, path: Path) -> Path:
    """Write a reading as one Parquet file, its drop counts in the file's own metadata."""
    metadata = {_DROPS_KEY: json.dumps(reading.drops, sort_keys=True).encode()}
    with replacing(path) as temporary:
        pq.write_table(reading.turns.replace_schema_metadata(metadata), temporary)
    return path


def load_reading(path: Path) -> Reading:
    """Read back what `save_reading` wrote; raises `DataError` when the file is damaged."""
    try:
        table = pq.read_table(path)
        drops = json.loads((table.schema.metadata or {})[_DROPS_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{path}: {error}; run notebook 00_setup again") from error
    return Reading(table.replace_schema_metadata(None), drops)


def load_readings(folder: Path) -> dict[str, Reading]:
    """Load every reading saved in `folder`, by source name; `DataError` when there is none."""
    readings = {path.stem: load_reading(path) for path in sorted(folder.glob("*.parquet"))}
    if not readings:
        raise DataError(f"no turn tables in {folder}; run notebook 00_setup first")
    return readings
