"""A line on stderr during long work: how much is done, of how much, and the time left."""

import sys
import threading
from time import monotonic
from types import TracebackType
from typing import TextIO

# Seconds between updates: where the line is rewritten, and where every line stays.
_REWRITTEN, _KEPT = 1.0, 10.0


class Progress:
    """Reports every few seconds how much of `total` is done, even while nothing advances.

    On a terminal one line is rewritten; a file or a pipe gets a plain line every ten seconds.
    `every` overrides both intervals.  `advance` is thread-safe.
    """

    def __init__(
        self, what: str, total: int, *, stream: TextIO | None = None, every: float | None = None
    ):
        self.what, self.total, self.done = what, total, 0
        self.stream = stream or sys.stderr
        self.rewrites = self.stream.isatty()
        self.every = every or (_REWRITTEN if self.rewrites else _KEPT)
        self._begun, self._over = monotonic(), threading.Event()
        self._lock, self._speaking = threading.Lock(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def advance(self) -> None:
        """Count one more as done."""
        with self._lock:
            self.done += 1

    def line(self) -> str:
        """Return the current state in words."""
        return in_words(self.what, self.done, self.total, seconds=monotonic() - self._begun)

    def __enter__(self) -> "Progress":
        """Start reporting."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reporting; on a terminal the line is cleared."""
        with self._speaking:  # not `join`: a second Ctrl-C could come in there
            self._over.set()
            if self.rewrites:
                print("\r\x1b[K", end="", file=self.stream, flush=True)

    def _run(self) -> None:
        before, after = ("\r\x1b[K", "") if self.rewrites else ("", "\n")
        while not self._over.wait(self.every):
            with self._speaking:
                if not self._over.is_set():
                    print(f"{before}{self.line()}", end=after, file=self.stream, flush=True)


def in_words(what: str, done: int, total: int, *, seconds: float) -> str:
    """Return how much is done after `seconds`, and the time left at that pace."""
    state = f"{done:,} of {total:,} {what}"
    if done == 0:
        return f"{state} after {duration(seconds)}"
    return f"{state}, about {duration(seconds / done * (total - done))} left"


def duration(seconds: float) -> str:
    """Return a length of time in one unit: `45 seconds`, `12 minutes`, `3.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
