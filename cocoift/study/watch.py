"""What a running notebook does, in one line: its cell, and the progress bars open there."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from tqdm.std import tqdm

from cocoift.core.bars import CHANNEL
from cocoift.core.progress import Progress


class Watch(Progress):
    """Says in which of its code cells a notebook is, and what the bars of `cocoift.core.bars` say.

    It speaks every few seconds on a terminal; elsewhere ten seconds after the start and then ever
    less often, up to every five minutes.
    """

    def __init__(self, notebook: str, channel: Path, *, cells: int) -> None:
        super().__init__(notebook, cells, stream=sys.stdout)
        self.channel, self.read = channel, 0
        self.bars: dict[str, str] = {}
        self.started = monotonic()

    def begin_cell(self, cell: Any, cell_index: int) -> None:
        """Note that a cell begins; nbclient calls this."""
        if cell.cell_type == "code":
            self.bars.clear()
            self.advance()

    def line(self) -> str:
        """Return cell, time so far and open bars."""
        self._hear()
        seconds = monotonic() - self.started
        if not self.rewrites:
            self.every = min(300.0, max(self.every, seconds / 20))
        time = tqdm.format_interval(seconds)
        state = f"{self.what:28} cell {self.done} of {self.total}, {time}"
        text = "; ".join([state, *self.bars.values()])
        width = shutil.get_terminal_size((100, 24)).columns - 1
        return text[:width] if self.rewrites else text

    def _hear(self) -> None:
        """Read what bars have said since the last time."""
        with self.channel.open("rb") as file:
            file.seek(self.read)
            *whole, _ = file.read().split(b"\n")
        self.read += sum(len(line) + 1 for line in whole)
        for update in map(json.loads, whole):
            self.bars.pop(update["bar"], None)
            if update["text"]:
                self.bars[update["bar"]] = update["text"]


@contextmanager
def watching(notebook: str, *, cells: int) -> Iterator[Watch]:
    """Say what a notebook with so many code cells does, while a kernel begun here runs it."""
    with tempfile.TemporaryDirectory() as folder:
        channel = Path(folder) / "bars"
        channel.touch()
        os.environ[CHANNEL] = str(channel)
        try:
            watch = Watch(notebook, channel, cells=cells)
            with watch:
                yield watch
        finally:
            del os.environ[CHANNEL]
