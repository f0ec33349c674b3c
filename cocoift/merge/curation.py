"""Curation: a person's decisions on turns, one line each, in a file that only grows.

The data is never edited: notebook 02 takes the file and leaves the flagged turns out, counted as
`curated`.  The last decision on a turn counts.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from cocoift.core.files import DataError
from cocoift.core.log import append_lines, whole_lines
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

    Raises `DataError` when the file cannot be written: the decision is then not taken.
    """
    lines = map(msgspec.json.encode, decisions)
    append_lines(path, lines, lost="the decision was not written", sync=True)


def read_decisions(path: Path) -> dict[int, dict[TurnKey, Decision]]:
    """Return the turns that are flagged, by image; none when there is no file.

    Raises `DataError` naming file and line for a line that is no decision.
    """
    found: dict[int, dict[TurnKey, Decision]] = {}
    for number, line in enumerate(whole_lines(path) if path.is_file() else (), start=1):
        try:
            one = msgspec.json.decode(line, type=Decision)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}, line {number}: {error}; mend or delete the line") from error
        turns = found.setdefault(one.image_id, {})
        turns.pop(one.key, None)
        if one.decision == "flag":
            turns[one.key] = one
    return {image_id: turns for image_id, turns in found.items() if turns}


def curated_turns(
    decisions: Mapping[int, Mapping[TurnKey, Decision]],
) -> dict[int, frozenset[TurnKey]]:
    """Return the flagged turns as the merge takes them."""
    return {image_id: frozenset(turns) for image_id, turns in decisions.items()}
