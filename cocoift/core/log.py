"""Append-only logs: a line counts once its line end is written.

A line that a kill or a full disk cut short was never confirmed: readers skip it, and the next write
removes it.
"""

import errno
import io
import os
from collections.abc import Iterable
from pathlib import Path

from cocoift.core.files import DataError


def append_lines(path: Path, lines: Iterable[bytes], *, lost: str, sync: bool = False) -> None:
    """Append lines, given without their ends, in one write; `sync` waits until the disk has them.

    Raises `DataError` when they cannot be written; `lost` says what that means.
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
