"""Curation: a person's decisions on turns, one line each, in a file that only grows.

The data is never edited: notebook 02 takes the file and leaves the flagged turns out, counted as
`curated`.  The last decision on a turn counts.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from cocoift.core.files import DataError
from cocoift.merge.rules import TurnKey

REASONS = ("wrong answer", "wrong form", "not about the picture", "offensive", "other")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: `flag` takes a turn out, `keep` takes that back; `at` is ISO 8601, UTC."""

    image_id: int
    source: str
    dialog_id: str
    round: int
    decision: str
    reason: str = ""
    note: str = ""
    at: str = ""

    @property
    def key(self) -> TurnKey:
        """What tells the turn from the others of its image."""
        return self.source, self.dialog_id, self.round


def append_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """Append decisions in one write and wait until the disk has them.

    A line that an earlier write left unfinished is ended first, so nothing is glued to it.  Raises
    `DataError` when the file cannot be written: the decision is then not taken.
    """
    lines = b"".join(msgspec.json.encode(one) + b"\n" for one in decisions)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    lines = b"\n" + lines
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; the decision was not written") from error


def read_decisions(path: Path) -> dict[int, dict[TurnKey, Decision]]:
    """Return the turns that are flagged, by image; none when there is no file.

    A last line that a kill cut short is passed over: its decision was never confirmed.  Raises
    `DataError` naming file and line for any other line that is no decision.
    """
    if not path.is_file():
        return {}
    found: dict[int, dict[TurnKey, Decision]] = {}
    content = path.read_bytes()
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=Decision)
        except (ValueError, msgspec.MsgspecError) as error:
            if _cut_short(line):
                continue
            raise DataError(f"{path}, line {number}: {error}; mend or delete the line") from error
        turns = found.setdefault(one.image_id, {})
        if one.decision == "flag":
            turns[one.key] = one
        else:
            turns.pop(one.key, None)
    return {image_id: turns for image_id, turns in found.items() if turns}


def _cut_short(line: bytes) -> bool:
    """Tell a line that was not written to its end from one that is no decision at all."""
    start = b'{"image_id":'
    return line[: len(start)] == start[: len(line)] and not line.rstrip().endswith(b"}")


def curated_turns(
    decisions: Mapping[int, Mapping[TurnKey, Decision]],
) -> dict[int, frozenset[TurnKey]]:
    """Return the flagged turns as the merge takes them."""
    return {image_id: frozenset(turns) for image_id, turns in decisions.items()}
