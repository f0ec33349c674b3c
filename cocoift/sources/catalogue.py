"""The catalogue of sources, `data/sources.yaml`, and what of it is on disk."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd

from cocoift.files import DataError, inside
from cocoift.records import FORMS


class Download(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One upstream file: where it is fetched, how large it is, which members are wanted."""

    url: str
    bytes: int | None = None
    sha256: str | None = None
    unpack: bool = False
    save_as: str | None = None


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What upstream says the source holds, and where it says so."""

    count: int
    unit: Literal["turns", "dialogs"]
    where: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One source: what it is, which reader reads it, how its questions become instructions.

    An entry without a reader is a file the study needs beside the sources (image lists,
    evaluation questions, the baseline mixture).  `parts` lists the annotation files as
    `{reader keyword: path below the raw folder}`; a part is read when all of its files are
    there, so one entry serves several splits.
    """

    title: str
    licence: str
    citation: str
    page: str
    parts: list[dict[str, str]]
    reader: str | None = None
    form: str | None = None
    template: str = "{question}"
    images: Literal["coco", "visual_genome", "both"] = "coco"
    conversational: bool = False
    in_mix: bool = False
    published: Published | None = None
    downloads: list[Download] = []
    by_hand: str | None = None


def read_catalogue(path: Path) -> dict[str, Entry]:
    """Read the catalogue `{source name: entry}`.

    Raises `DataError` naming entry and field for an unknown field, form or template.
    """
    try:
        content = msgspec.yaml.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; correct the catalogue") from error
    return {name: _entry(path, name, fields) for name, fields in content.items()}


def _entry(path: Path, name: str, fields: Any) -> Entry:
    try:
        entry = msgspec.convert(fields, Entry)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {name}: {error}; correct that entry") from error
    if entry.reader and entry.form not in FORMS:
        raise DataError(f"{path}: {name}: form {entry.form!r} is none of {', '.join(FORMS)}")
    return entry


def parts_on_disk(entry: Entry, raw: Path) -> Iterator[tuple[dict[str, Path], list[str]]]:
    """Yield each part of a source as its files below `raw` and the names of those missing."""
    for part in entry.parts:
        files = {role: inside(raw, name) for role, name in part.items()}
        yield files, [part[role] for role, file in files.items() if not file.is_file()]


def availability(catalogue: Mapping[str, Entry], raw: Path) -> pd.DataFrame:
    """Return one row per source: `state`, megabytes on disk, missing files, how to get them.

    `state` is `present` with all files, `partly` with one complete part, else `absent`.
    """
    rows = []
    for name, entry in catalogue.items():
        if not entry.parts:
            continue
        parts = list(parts_on_disk(entry, raw))
        files = {file for part, _ in parts for file in part.values() if file.is_file()}
        missing = sorted({file for _, names in parts for file in names})
        whole = sum(not names for _, names in parts)
        rows.append(
            {
                "source": name,
                "title": entry.title,
                "state": "absent" if not whole else "partly" if missing else "present",
                "megabytes": sum(file.stat().st_size for file in files) / 1e6,
                "missing": ", ".join(missing),
                "how_to_get": "" if not missing else _how_to_get(name, entry),
            }
        )
    return pd.DataFrame(rows)


def _how_to_get(name: str, entry: Entry) -> str:
    if entry.by_hand:
        return f"{entry.by_hand}: {entry.page}"
    return f"python -m cocoift.download {name}" if entry.downloads else entry.page
