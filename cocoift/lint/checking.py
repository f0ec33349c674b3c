"""`check`: one call from files to a verdict."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cocoift.core.files import DataError
from cocoift.core.text import counted
from cocoift.lint.columns import Data, read_data
from cocoift.lint.cue import Cue, cue_strength
from cocoift.lint.findings import (
    ALL,
    PLACEMENTS,
    Finding,
    Limits,
    are_terse,
    findings,
    placements,
)
from cocoift.lint.leakage import against_ids, near_duplicates
from cocoift.lint.prediction import Prediction, predict
from cocoift.lint.wording import SHORT_WORDS

# Percent of open answers predicted to collapse after one short round, above which data fails:
# between what is predicted of the study's LLaVA-style mixture and of its merged one.
FAIL_ABOVE = 10.0
# Rounds of a conversation whose answer lengths are shown apart.
POSITIONS = 8


class Source(msgspec.Struct, frozen=True):
    """A source, or `ALL`: its size, where prompts stand, and its cue strength.

    `placed` counts records with two terse answers or more by where these are asked for
    (`findings.PLACEMENTS`), `terse` the turns with a short answer, `asked` those that state a form.
    """

    name: str
    conversations: int
    turns: int
    terse: int
    asked: int
    placed: dict[str, int]
    cue: Cue | None


class Lengths(msgspec.Struct, frozen=True):
    """The answers of all conversations at one position; the last position counts all from there."""

    position: int
    turns: int
    median_words: float
    short: float
    short_unasked: float


class Result(msgspec.Struct, frozen=True):
    """What lint says of some data."""

    files: list[str]
    notes: list[str]
    sources: list[Source]
    lengths: list[Lengths]
    findings: list[Finding]
    prediction: Prediction
    fail_above: float = FAIL_ABOVE

    @property
    def total(self) -> Source:
        """All sources together."""
        return self.sources[0]

    @property
    def fails(self) -> bool:
        """Tell whether the predicted collapse after one short round is above the bound."""
        return self.prediction.after > self.fail_above

    @property
    def verdict(self) -> str:
        """One sentence."""
        p = self.prediction
        told = f"{p.after:.0f} % [{p.low:.0f}, {p.high:.0f}] of open answers predicted to collapse"
        bound = f"{'above' if self.fails else 'not above'} {self.fail_above:g} %"
        return f"{told} after one short round (alone {p.alone:.0f} %): {bound}"


def check(
    *paths: str | Path,
    images: Path | None = None,
    against: Path | None = None,
    tokenizer: Path | None = None,
    limits: Limits | None = None,
    fail_above: float = FAIL_ABOVE,
) -> Result:
    """Lint files and folders of instruction data; nothing is written.

    `against` is a benchmark's folder of images, or its file of questions: records with one of its
    COCO ids are counted, and with `images`, the folder of the records' images, near-duplicate
    pictures too.  `tokenizer` is a `tokenizer.json`, with which conversations longer than
    `limits.context_tokens` are counted.  Files of more than a few megabytes are read by several
    processes, so a script calls this under `if __name__ == "__main__":`.  Raises `DataError` for
    what cannot be read.
    """
    if images and not against:
        raise DataError("images are compared with a benchmark's; name it with against")
    limits = limits or Limits()
    data = read_data([Path(path) for path in paths], tokenizer=tokenizer)
    if against:
        limits = msgspec.structs.replace(limits, against=against_ids(against))
    if images and against:
        found = near_duplicates(data, images=images, against=against)
        limits = msgspec.structs.replace(limits, duplicates=found)
    return Result(
        files=[str(path) for path in data.files],
        notes=data.notes,
        sources=_sources(data),
        lengths=_lengths(data),
        findings=findings(data, limits),
        prediction=predict(data.columns.sample),
        fail_above=fail_above,
    )


def _sources(data: Data) -> list[Source]:
    """Return all sources together, and each, the largest first."""
    turns, records = data.columns.turns, data.columns.records
    placed = placements(data)
    every: Sequence[tuple[str, Any, Any]] = [
        (ALL, np.ones(len(turns), bool), np.ones(len(records), bool))
    ]
    if len(data.columns.sources) > 1 or data.columns.sources != [""]:
        every = [*every, *((name, turns["source"] == number, records["source"] == number)
                           for number, name in enumerate(data.columns.sources))]  # fmt: skip
    found = []
    for name, of_turns, of_records in every:
        rows, here = turns[of_turns], placed[of_records]
        counts = {str(p): int((here == number).sum()) for number, p in enumerate(PLACEMENTS)}
        found.append(
            Source(name, int(of_records.sum()), len(rows), int(are_terse(rows).sum()),
                   int(rows["asked"].sum()), counts, cue_strength(turns, of_turns))
        )  # fmt: skip
    return found


def _lengths(data: Data) -> list[Lengths]:
    turns = data.columns.turns
    position = np.minimum(turns["position"], POSITIONS - 1)
    found = []
    for place in range(POSITIONS):
        rows = turns[position == place]
        if len(rows):
            short = rows["words"] <= SHORT_WORDS
            free = ~rows["asked"]
            unasked = 100.0 * float(short[free].mean()) if free.any() else 0.0
            median = float(np.median(rows["words"]))
            found.append(
                Lengths(place + 1, len(rows), median, 100.0 * float(short.mean()), unasked)
            )
    return found


def size_in_words(result: Result) -> str:
    """Return how much was read: `665,298 conversations, 3,367,123 turns, 12 sources`."""
    total, named = result.total, len(result.sources) - 1
    parts = [counted(total.conversations, "conversation"), counted(total.turns, "turn")]
    return ", ".join(parts + ([counted(named, "source")] if named else []))
