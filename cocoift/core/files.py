"""Files that are whole or absent, logs of whole lines, and paths that stay where they belong."""

import errno
import glob
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil

from cocoift.core.progress import Progress

T = TypeVar("T")


class DataError(ValueError):
    """Bad input, in one sentence: the file, the record and the fix."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only if the block succeeds.

    A reader therefore sees the old file or the new one, never half of one.  Raises `DataError`
    when the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if not _is_about(error, path.parent):
            raise
        place = error.filename or path
        raise DataError(
            f"cannot write {path}: {error.strerror or error} ({place}); "
            "free space or choose another output folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _is_about(error: OSError, folder: Path) -> bool:
    """Tell an error in writing to a folder from an error in an input that the block reads.

    Damaged archives and the like raise errors without a number; other files are named by theirs.
    """
    if error.errno is None:
        return False
    return error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote `path`."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        writer = found.suffixes[-2].removeprefix(".")
        if re.fullmatch("[0-9]{1,9}", writer) and not psutil.pid_exists(int(writer)):
            found.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` that takes its place only if the block succeeds.

    The old folder is renamed away, the new one renamed into its place, then the old one removed: a
    process killed at any point leaves one of them whole, and the next call, or `finish_replacing`,
    completes the rest.  A linked folder is replaced at the link's target.  Raises `DataError` when
    the block fails; `folder` is then left as it was.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is not a folder; move it or name another folder")
    unfinished, replaced = _beside(folder)
    finish_replacing(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
        if folder.exists():
            folder.rename(replaced)
        try:
            unfinished.rename(folder)
        except OSError:
            if replaced.exists():
                replaced.rename(folder)
            raise
    except DataError:
        raise
    except Exception as error:  # safetensors reports a full disk with an error of its own
        raise DataError(f"cannot save {folder}: {error}; free space") from error
    finally:
        finish_replacing(folder)
        shutil.rmtree(unfinished, ignore_errors=True)


def finish_replacing(folder: Path) -> None:
    """Complete a `replacing_folder` that a kill interrupted.

    Call it before checking whether a folder that may be replaced exists.
    """
    folder = folder.resolve()
    unfinished, replaced = _beside(folder)
    # The old folder is renamed away only once the new one is whole.
    if replaced.exists() and not folder.exists():
        with suppress(FileNotFoundError):  # already moved; what is left of the old one is not whole
            unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Return where the new folder is written, and where the old one is kept meanwhile."""
    unfinished, replaced = (f"{folder.name}.{state}" for state in ("unfinished", "replaced"))
    return folder.with_name(unfinished), folder.with_name(replaced)


def refuse_filled(folder: Path) -> None:
    """Raise `DataError` for a folder that is not empty: writing there would replace its content."""
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; name a new folder")


def holds(path: Path, text: str) -> bool:
    """Tell whether a file is there and holds exactly this text."""
    return path.is_file() and path.read_bytes() == text.encode()


def read_json(path: Path, shape: type[T], *, fix: str) -> T:
    """Return a JSON file that an earlier run wrote, as `shape`.

    Raises `DataError` naming the file, what is wrong with it, and `fix`.
    """
    try:
        return msgspec.convert(json.loads(path.read_bytes()), shape)
    except (OSError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: {error}; {fix}") from error


def write_text(path: Path, text: str) -> Path:
    """Write `text` as UTF-8 to `path`, whole or not at all, and return the path."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, whole or not at all, and return the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def inside(root: Path, name: str) -> Path:
    """Return `root/name` with its links resolved, or raise `DataError` if it leaves `root`.

    Annotation files are untrusted: the image names in them must not reach the rest of the disk.
    Large data sets are often shared through links, so `root` and its direct entries (`train2017`)
    may be links, whose targets count as inside.  `..`, absolute paths, and deeper links that lead
    outside are refused.
    """
    leaves = f"path {name!r} leaves its root {root}"
    try:
        parts, allowed = Path(name).parts, [root.resolve()]
        if parts and (root / parts[0]).is_symlink():
            allowed.append((root / parts[0]).resolve())
        path = (root / name).resolve()
        if any(path.is_relative_to(place) for place in allowed):
            return path
        steps = [root.joinpath(*parts[: n + 1]) for n in range(len(parts))]
        places = [(step, step.resolve()) for step in steps]
    except (ValueError, OSError, RuntimeError) as error:  # a null byte, too long, a link to itself
        raise DataError(f"{leaves}; correct the name in the annotation") from error
    if Path(name).is_absolute() or ".." in parts:
        raise DataError(f"{leaves}; correct the name in the annotation")
    link, target = next(
        (step, place)
        for step, place in places
        if not any(place.is_relative_to(folder) for folder in allowed)
    )
    raise DataError(
        f"{leaves}: {link.relative_to(root)} is a link to {target}; only a link at the top of the "
        "root may lead elsewhere"
    )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder that have a file extension, following links, each once."""
    seen = set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # through a link to a folder above, or a second link
            below.clear()
            continue
        seen.add(real)
        yield from (
            path for name in names if "." in name and (path := Path(folder, name)).is_file()
        )


def content_digests(files: Iterable[Path], *, kept: Path) -> dict[Path, str]:
    """Return the SHA-256 of files, reading only those whose size or times have changed.

    `kept` is the JSON file in which sizes, times and digests are kept between calls.  Raises
    `DataError` for a file that cannot be read.
    """
    before, found = _kept_digests(kept), dict[Path, str]()
    try:
        now = {path: _marks(path) for path in files}
        changed = [path for path, marks in now.items() if before.get(str(path), ())[:3] != marks]
        # Hashing releases the interpreter lock.
        with ThreadPoolExecutor() as threads, Progress("raw files", len(changed)) as progress:
            for path, of_content in zip(changed, threads.map(sha256, changed), strict=True):
                found[path] = of_content
                progress.advance()
    except OSError as error:
        fix = "run again" if isinstance(error, FileNotFoundError) else "make it readable or move it"
        raise DataError(f"{error.filename}: {error.strerror}; {fix}") from error
    digests = {path: found.get(path) or before[str(path)][3] for path in now}
    rows = {str(path): (*now[path], digests[path]) for path in sorted(now)}
    if rows != before:
        write_text(kept, json.dumps(rows, indent=0))
    return digests


def _marks(path: Path) -> tuple[int, int, int]:
    """Return a file's size and times; setting its modification time back changes the other time."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _kept_digests(kept: Path) -> dict[str, tuple[int, int, int, str]]:
    try:
        return msgspec.json.decode(kept.read_bytes(), type=dict[str, tuple[int, int, int, str]])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):  # then every file is read
        return {}


def digest(value: object) -> str:
    """Return the SHA-256 of a value's canonical JSON: equal values have equal digests."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def write_manifest(path: Path, files: Iterable[Path], *, root: Path) -> Path:
    """Write `{file below root: SHA-256}` as JSON: what a notebook hands to the next ones.

    The runner compares manifests to decide whether later notebooks must run again.
    """
    digests = {os.path.relpath(file, root): sha256(file) for file in files if file.is_file()}
    return write_text(path, json.dumps(digests, indent=1, sort_keys=True) + "\n")


def read_manifest(path: Path, *, root: Path) -> list[Path]:
    """Return the files of a manifest; none where there is no manifest.

    Raises `DataError` for a file that has changed since, or is gone, or a damaged manifest.
    """
    if not path.is_file():
        return []
    files, rerun = [], "rerun the notebook that wrote it"
    for name, expected in read_json(path, dict[str, str], fix=rerun).items():
        file = root / name
        if not file.is_file() or sha256(file) != expected:
            raise DataError(f"{file} does not match {path}; {rerun}")
        files.append(file)
    return files


def append_lines(path: Path, lines: Iterable[bytes], *, lost: str, sync: bool = False) -> None:
    """Append lines, given without their ends, in one write; `sync` waits until the disk has them.

    A line counts once its end is written: one that a kill or a full disk cut short was never
    confirmed, readers skip it, and the next write removes it.  Raises `DataError` when lines cannot
    be written; `lost` says what that means.
    """
    content = b"".join(line + b"\n" for line in lines)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            _remove_cut_line(file)
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {lost}") from error


def _remove_cut_line(file: io.FileIO) -> None:
    if size := file.seek(0, os.SEEK_END):
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a log without their ends; raises `OSError` when it cannot be read."""
    *whole, _ = path.read_bytes().split(b"\n")
    return whole
