"""The catalogue of sources, `data/sources.yaml`, and which of its files are on disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
import pandas as pd

from cocoift.core.files import DataError, inside
from cocoift.core.schema import FORMS
from cocoift.core.text import tidy


class Download(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An upstream file: its address, and which files below the raw folder it provides.

    Only `files` are unpacked from an archive, or all of its members when none is named.  `bytes` is
    the size of the download, where it is known in advance.
    """

    url: str
    files: list[str] = []
    bytes: int | None = None
    unpack: bool = False
    save_as: str | None = None

    @property
    def file_name(self) -> str:
        """The path of the download itself, below the raw folder."""
        plain = self.files[0] if self.files and not self.unpack else ""
        return self.save_as or plain or unquote(PurePosixPath(urlsplit(self.url).path).name)

    def missing(self, raw: Path) -> list[str]:
        """Return the files of the download that are not below `raw` yet.

        For an archive that names no files, it is the folder called as the archive is, such as
        `images/train2017`.
        """
        if self.files:
            return [name for name in self.files if not inside(raw, name).is_file()]
        path = inside(raw, self.file_name)
        if not self.unpack:
            return [] if path.is_file() else [self.file_name]
        folder = path.with_suffix("")
        filled = folder.is_dir() and any(folder.iterdir()) and not path.exists()
        done = filled or path.with_name(f"{path.name}.unpacked").is_file()
        return [] if done else [str(PurePosixPath(self.file_name).with_suffix(""))]


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What upstream says the source holds, and where it says so."""

    count: int
    unit: Literal["turns", "dialogs"]
    where: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A source: what it is, which reader reads it, and how its questions become instructions.

    An entry without a reader is a file that the study needs beside the sources (image lists,
    evaluation questions, the LLaVA-style mixture).  `parts` lists the annotation files as
    `{reader keyword: path}`, below the raw folder or absolute (`~` is the home folder); a part is
    read when all of its files are there, so an entry can cover several splits.  An `optional`
    source is read only if the preset names it.
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
    optional: bool = False
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
        raise DataError(f"{path}: {tidy(str(error))}; correct the catalogue") from error
    return {name: _entry(path, name, fields) for name, fields in content.items()}


def without_optional(catalogue: Mapping[str, Entry], named: Sequence[str]) -> dict[str, Entry]:
    """Return the catalogue without the optional sources that are not named.

    Raises `DataError` for a name that is no optional source.
    """
    optional = {name for name, entry in catalogue.items() if entry.optional}
    if strange := sorted(set(named) - optional):
        raise DataError(
            f"optional_sources: {', '.join(strange)}: not an optional source of the catalogue; "
            f"choose from {', '.join(sorted(optional))}"
        )
    return {
        name: entry for name, entry in catalogue.items() if name not in optional or name in named
    }


def _entry(path: Path, name: str, fields: Any) -> Entry:
    try:
        entry = msgspec.convert(fields, Entry)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: {name}: {error}; correct that entry") from error
    if entry.reader and entry.form not in FORMS:
        raise DataError(f"{path}: {name}: form {entry.form!r} is none of {', '.join(FORMS)}")
    return entry


def parts_on_disk(entry: Entry, raw: Path) -> Iterator[tuple[dict[str, Path], list[str]]]:
    """Yield each part of a source as its files and the names of those missing."""
    for part in entry.parts:
        files = {role: part_file(name, raw) for role, name in part.items()}
        yield files, [part[role] for role, file in files.items() if not file.is_file()]


def part_file(name: str, raw: Path) -> Path:
    """Return where a file of a part is: below `raw`, unless its path is absolute.

    Raises `DataError` for a relative path that leaves `raw`.
    """
    path = Path(name).expanduser()
    return path if path.is_absolute() else inside(raw, name)


def availability(catalogue: Mapping[str, Entry], raw: Path) -> pd.DataFrame:
    """Return a row per source: `state`, megabytes on disk, missing files, how to get them.

    `state` is `present` with all files, `partly` with at least one complete part, else `absent`.
    Where no files are named, as for images, the downloads count as parts, without their size.
    """
    rows = []
    for name, entry in catalogue.items():
        parts = list(parts_on_disk(entry, raw))
        parts = parts or [({}, download.missing(raw)) for download in entry.downloads]
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
                "how_to_get": "" if not missing else _how_to_get(name, entry, missing),
            }
        )
    return pd.DataFrame(rows)


def _how_to_get(name: str, entry: Entry, missing: Sequence[str]) -> str:
    """Return how to get the missing files: by a command, by hand, or that neither is known."""
    unnamed = () if entry.parts else missing
    provided = [(item, {*(item.files or unnamed)}) for item in entry.downloads]
    fetched = set().union(*(files for _, files in provided))
    steps = []
    if fetched & set(missing):
        size = sum(item.bytes or 0 for item, files in provided if files & set(missing))
        steps.append(f"cocoift download {name}" + (f" ({size / 1e6:,.0f} MB)" if size else ""))
    others = sorted(set(missing) - fetched)
    if others and entry.by_hand:
        steps.append(f"{entry.by_hand}: {entry.page}")
    elif others:
        steps.append(f"nothing here fetches {', '.join(others)}: {entry.page}")
    return "; ".join(steps)
