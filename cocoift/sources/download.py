"""Download and unpack upstream files: resumable, checked, and never outside a folder."""

import os
import shutil
import stat
import tarfile
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import requests

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, inside, replacing, write_text
from cocoift.core.schema import whole_number
from cocoift.sources import Entry, availability, read_catalogue

_BLOCK = 1 << 16
_TIMEOUT_SECONDS = 30
# Annotation archives hold text, which compresses to about a tenth; a bomb, to a thousandth.
_LARGEST_RATIO = 200
_LARGEST_TOTAL = 100 * 10**9


def download(url: str, path: Path) -> Path:
    """Download `url` to `path`, which appears only when complete; return it.

    An interrupted download leaves `<path>.part`; the next call resumes from it if the server still
    has the same file (ETag or Last-Modified).  Raises `DataError` when the address fails or the
    file ends early; downloads that would not fit on the disk are not started.
    """
    if path.is_file():
        return path
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        _fetch(url, part, tag)
    except (requests.RequestException, OSError) as error:
        raise DataError(f"{url}: {error}; call again to resume") from error
    part.replace(path)
    tag.unlink(missing_ok=True)
    return path


def _fetch(url: str, part: Path, tag: Path) -> None:
    have = part.stat().st_size if part.exists() and tag.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")}
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS) as reply:
        if reply.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()
            raise OSError("the part on disk does not belong to this file and was removed")
        reply.raise_for_status()
        resumed = reply.status_code == requests.codes.partial_content
        have = have if resumed else 0
        left = whole_number(reply.headers.get("Content-Length", ""))
        total = None if left is None else have + left
        free = shutil.disk_usage(part.parent).free
        if left is not None and left > free:
            raise OSError(f"{left / 1e9:.1f} GB to come, {free / 1e9:.1f} GB free on disk")
        version = reply.headers.get("ETag") or reply.headers.get("Last-Modified")
        if version and not version.startswith("W/"):
            write_text(tag, version)
        bar = tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem)
        with part.open("ab" if resumed else "wb") as file, bar:
            for block in reply.iter_content(_BLOCK):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size != total:
        raise OSError(f"ended after {part.stat().st_size} of {total} bytes")


def unpack(archive: Path, folder: Path, *, wanted: Sequence[str] = ()) -> list[Path]:
    """Unpack a zip or tar archive below `folder` and return its files.

    `wanted` are paths below `folder`; only those are unpacked, wherever they are in the archive.
    Files that exist already are left as they are.  Raises `DataError`, before anything is written,
    for members outside the folder, links, devices and decompression bombs, for a wanted file that
    is not in the archive, and for a damaged archive.
    """
    opener = zipfile.ZipFile if zipfile.is_zipfile(archive) else tarfile.open
    try:
        with opener(archive) as opened:
            members = (
                _zip_members(opened)
                if isinstance(opened, zipfile.ZipFile)
                else _tar_members(opened)
            )
            total = sum(size for _, size, _ in members)
            if total > min(_LARGEST_TOTAL, max(1 << 20, archive.stat().st_size * _LARGEST_RATIO)):
                raise DataError(
                    f"{archive}: unpacks to {total} bytes; it looks like a decompression bomb"
                )
            targets = [(inside(folder, name), member) for name, _, member in members]
            if wanted:
                targets = _chosen(archive, folder, targets, wanted)
            for target, member in targets:
                if not target.exists():
                    _extract(opened, member, target)
            return [target for target, _ in targets]
    except DataError:
        raise
    except Exception as error:  # damaged archives raise errors of zlib, lzma, struct and more
        raise DataError(f"{archive}: {error}; delete it and download it again") from error


def _chosen(
    archive: Path, folder: Path, members: Sequence[tuple[Path, Any]], wanted: Sequence[str]
) -> list[tuple[Path, Any]]:
    """Return the wanted members: by path, or else the only member of that name."""
    by_path = dict(members)
    chosen = []
    for name in wanted:
        target = inside(folder, name)
        alike = [target] if target in by_path else [p for p in by_path if p.name == target.name]
        if len(alike) != 1:
            raise DataError(
                f"{archive}: {len(alike)} members are called {target.name}, expected one; "
                f"unpack it by hand to {target}"
            )
        chosen.append((target, by_path[alike[0]]))
    return chosen


def _zip_members(archive: zipfile.ZipFile) -> list[tuple[str, int, zipfile.ZipInfo]]:
    members = [info for info in archive.infolist() if not info.is_dir()]
    for info in members:
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{archive.filename}: member {info.filename!r} is a link")
    return [(info.filename, info.file_size, info) for info in members]


def _tar_members(archive: tarfile.TarFile) -> list[tuple[str, int, tarfile.TarInfo]]:
    members = [member for member in archive.getmembers() if not member.isdir()]
    for member in members:
        if not member.isfile():
            raise DataError(f"{archive.name!r}: member {member.name!r} is a link or a device")
    return [(member.name, member.size, member) for member in members]


def _extract(archive: Any, member: Any, target: Path) -> None:
    is_zip = isinstance(archive, zipfile.ZipFile)
    source = archive.open(member) if is_zip else archive.extractfile(member)
    with source, replacing(target) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def fetch_source(entry: Entry, raw: Path) -> None:
    """Download and unpack, below `raw`, the files of a source that are not there yet.

    An archive is deleted once its files are in place.
    """
    for item in entry.downloads:
        path = inside(raw, item.file_name)
        if item.files and all(inside(raw, name).is_file() for name in item.files):
            continue
        done = path.with_name(f"{path.name}.unpacked")
        if done.exists():
            continue
        download(item.url, path)
        if item.unpack:
            below = [os.path.relpath(inside(raw, name), path.parent) for name in item.files]
            unpack(path, path.parent, wanted=below)
            if not item.files:  # without the archive, its files are unknown
                done.touch()
            path.unlink()


def fetch(names: Sequence[str], *, raw: Path, catalogue: Path) -> pd.DataFrame:
    """Fetch sources by name and return what is on disk of these, or of all if none is named.

    Columns: source, state, missing, how_to_get.  Raises `DataError` for a name that is not in the
    catalogue, and as `download` and `unpack` do.
    """
    entries = read_catalogue(catalogue)
    if unknown := sorted(set(names) - set(entries)):
        raise DataError(f"not in {catalogue}: {', '.join(unknown)}")
    for name in names:
        fetch_source(entries[name], raw)
    shown = {name: entries[name] for name in names} or entries
    return availability(shown, raw)[["source", "state", "missing", "how_to_get"]]


def listing(found: pd.DataFrame, *, width: int = 100) -> str:
    """Return the table of `fetch` as text of at most `width` columns, apart from long addresses."""
    names = int(found.source.str.len().max()) + 2
    wrap = textwrap.TextWrapper(width - names - 10, break_long_words=False).wrap
    lines = []
    for row in found.itertuples():
        few = row.missing.split(", ", 2)
        others = row.missing.count(", ") - 1
        shown = ", ".join(few[:2]) + (f" and {others} more" if others > 0 else "")
        notes = [row.how_to_get, f"missing: {shown}"] if row.missing else [""]
        wrapped = [line for note in notes for line in wrap(note) or [""]]
        heads = [f"{row.source:{names}}{row.state:10}", *[" " * (names + 10)] * len(wrapped)]
        lines += [(head + line).rstrip() for head, line in zip(heads, wrapped, strict=False)]
    return "\n".join(lines)
