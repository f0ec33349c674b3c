"""Curation: a person's decisions on turns, one line each, in a file that only grows.

The data is never edited: notebook 02 takes the file and leaves the flagged turns out, counted as
`curated`.  The last decision on a turn counts; `undo` takes the last one back.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import DataError
from cocoift.core.log import append_lines, whole_lines
from cocoift.merge.rules import TurnKey

REASONS = ("wrong answer", "wrong form", "not about the picture", "offensive", "other")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One decision: `flag` takes a turn out, `keep` leaves it in; `at` is ISO 8601, UTC.

    `undo` takes back the last `flag` or `keep` on the turn, so that the one before it counts.
    """

    image_id: int
    source: str
    dialog_id: str
    round: int
    decision: Literal["flag", "keep", "undo"]
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
    taken: dict[int, dict[TurnKey, list[Decision]]] = {}
    for number, line in enumerate(whole_lines(path) if path.is_file() else (), start=1):
        try:
            one = msgspec.json.decode(line, type=Decision)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}, line {number}: {error}; fix or delete the line") from error
        of_turn = taken.setdefault(one.image_id, {}).setdefault(one.key, [])
        if one.decision == "undo":
            del of_turn[-1:]
        else:
            of_turn.append(one)
    found = {
        image_id: {key: own[-1] for key, own in turns.items() if own and own[-1].decision == "flag"}
        for image_id, turns in taken.items()
    }
    return {image_id: turns for image_id, turns in found.items() if turns}


def curated_turns(
    decisions: Mapping[int, Mapping[TurnKey, Decision]],
) -> dict[int, frozenset[TurnKey]]:
    """Return the flagged turns as the merge takes them."""
    return {image_id: frozenset(turns) for image_id, turns in decisions.items()}
