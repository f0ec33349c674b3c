"""Progress bars: tqdm's own, or, in a notebook that the runner executes, lines for the runner.

On an executed page a bar would be noise, so it writes its state to a file that the runner reads.
"""

import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import auto, std

# The environment variable that names the runner's file, for child processes too.
CHANNEL = "COCOIFT_PROGRESS"


def is_reported() -> bool:
    """Tell whether bars go to the runner."""
    return CHANNEL in os.environ


def tqdm(iterable: Iterable[Any] | None = None, **options: Any) -> std.tqdm:
    """Return a progress bar with tqdm's options, on the screen or for the runner."""
    if not is_reported():
        return auto.tqdm(iterable, **options)
    options |= {"disable": False, "leave": False, "mininterval": 1.0, "file": io.StringIO()}
    return _Reported(iterable, **options)


class _Reported(std.tqdm):
    """A bar that appends its state to the runner's file: one line of JSON, empty text at its end.

    The lines are short enough to be written in one piece while other processes write theirs.
    """

    monitor_interval = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        text = "" if msg == "" else _in_words(self.format_dict)
        line = json.dumps({"bar": f"{os.getpid()}-{id(self)}", "text": text[:500]})
        with suppress(OSError), Path(os.environ[CHANNEL]).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        return True


def _in_words(state: dict[str, Any]) -> str:
    """Return a bar's state, e.g. `merged-0: 120/600 steps, loss=1.210, 03:10 left`."""
    done, total, begun_at = state["n"], state["total"], state["initial"]
    count = f"{done:,}/{total:,}" if total else f"{done:,}"
    what = state["prefix"].removesuffix(": ")
    parts = [f"{what}{': ' * bool(what)}{count} {state['unit'].strip()}"]
    if state["postfix"]:
        parts.append(state["postfix"])
    if total and done > begun_at:
        left = (total - done) * state["elapsed"] / (done - begun_at)
        parts.append(f"{std.tqdm.format_interval(left)} left")
    return ", ".join(parts)
