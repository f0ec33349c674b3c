"""Curation: people's decisions on turns, one line each, in an append-only file.

The data itself is never edited: notebook 02 reads the file and drops the flagged turns, counted as
`curated`.  The last decision on a turn counts; `undo` reverts it.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import DataError, append_lines, whole_lines
from cocoift.merge.rules import TurnKey

REASONS = ("wrong answer", "wrong answer format", "not about the image", "offensive", "other")


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A decision: `flag` removes a turn, `keep` leaves it in; `at` is ISO 8601, UTC.

    `undo` reverts the last `flag` or `keep` on the turn, so that the decision before it counts.
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
        """What identifies the turn among those of its image."""
        return self.source, self.dialog_id, self.round


def append_decisions(path: Path, decisions: Iterable[Decision]) -> None:
    """Append decisions in a single write and wait until they are on disk.

    Raises `DataError` when the file cannot be written: the decisions are then not made.
    """
    lines = map(msgspec.json.encode, decisions)
    append_lines(path, lines, lost="the decision was not written", sync=True)


def read_decisions(path: Path) -> dict[int, dict[TurnKey, Decision]]:
    """Return the flagged turns by image; none where there is no file.

    Raises `DataError` naming file and line for a line that is not a decision.
    """
    made: dict[int, dict[TurnKey, list[Decision]]] = {}
    for number, line in enumerate(whole_lines(path) if path.is_file() else (), start=1):
        try:
            decision = msgspec.json.decode(line, type=Decision)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}, line {number}: {error}; fix or delete the line") from error
        on_turn = made.setdefault(decision.image_id, {}).setdefault(decision.key, [])
        if decision.decision == "undo":
            del on_turn[-1:]
        else:
            on_turn.append(decision)
    flagged: dict[int, dict[TurnKey, Decision]] = {}
    for image_id, turns in made.items():
        for key, decisions in turns.items():
            if decisions and decisions[-1].decision == "flag":
                flagged.setdefault(image_id, {})[key] = decisions[-1]
    return flagged


def curated_turns(
    decisions: Mapping[int, Mapping[TurnKey, Decision]],
) -> dict[int, frozenset[TurnKey]]:
    """Return the keys of the flagged turns by image, as the merge expects them."""
    return {image_id: frozenset(turns) for image_id, turns in decisions.items()}
