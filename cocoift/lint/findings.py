"""The checks: what instruction data teaches about the length of answers, and what is broken in it.

Each check marks turns or records; counts by source and examples follow from the marks.
"""

from typing import Literal

import msgspec
import numpy as np

from cocoift.lint.columns import FAULTS, HELD_OUT, REPEATED, Data
from cocoift.lint.conversations import Conversation
from cocoift.lint.wording import SHORT_WORDS

# What a finding is about, the worst first.
Kind = Literal["leak", "length", "structure"]
KINDS: tuple[Kind, ...] = ("leak", "length", "structure")
EXAMPLES = 3
ALL = "(all)"
# Placement of format prompts in records with two terse turns or more.
Placement = Literal["no turn", "first turn only", "some terse turns", "every terse turn"]
PLACEMENTS: tuple[Placement, ...] = (
    "no turn", "first turn only", "some terse turns", "every terse turn")  # fmt: skip


class Example(msgspec.Struct, frozen=True):
    """A record that shows a finding: where it is, and the round that shows it."""

    place: str
    id: str
    question: str
    answer: str


class Count(msgspec.Struct, frozen=True):
    """How many turns or records of a source, or of `ALL`, a finding is true of, with examples."""

    source: str
    count: int
    of: int
    examples: list[Example] = []

    @property
    def share(self) -> float:
        """Percent of the turns or records."""
        return 100.0 * self.count / self.of if self.of else 0.0


class Finding(msgspec.Struct, frozen=True):
    """What a check found, in all and by source, the worst first, and what to do about it."""

    name: str
    title: str
    kind: Kind
    unit: Literal["turns", "conversations", "records"]
    advice: str
    total: Count
    sources: list[Count]


class Check(msgspec.Struct, frozen=True):
    """A check's words; its marks are made by `_marks`."""

    title: str
    kind: Kind
    unit: Literal["turns", "conversations"]
    advice: str


CHECKS: dict[str, Check] = {
    "held_out": Check(
        "image of a split that benchmarks ask about", "leak", "conversations",
        "leave these records out, or report no score on benchmarks of COCO's val and test images"),
    "against": Check(
        "image of the benchmark given", "leak", "conversations",
        "leave these records out before training"),
    "near_duplicate": Check(
        "picture nearly the same as one of the benchmark", "leak", "conversations",
        "look at the pairs, and leave these records out before training"),
    "first_turn_only": Check(
        "only the first turn says to be short", "length", "conversations",
        "put the prompt into every terse turn: cocoift fix FILE OUT --prompts terse"),
    "unasked": Check(
        "terse answer that nobody asked for", "length", "turns",
        "say in the question what is wanted: cocoift fix FILE OUT --prompts terse"),
    "all_terse": Check(
        "every answer is terse", "length", "conversations",
        "mix them with full answers about the same image: cocoift fix FILE OUT --interleave"),
    "both_ways": Check(
        "same question answered tersely and in full", "length", "turns",
        "say in the terse ones what is wanted: cocoift fix FILE OUT --prompts terse"),
    "roles": Check(
        "roles do not alternate", "structure", "conversations",
        "a question and an answer must take turns; trainers drop or cut these"),
    "empty_answer": Check(
        "empty answer", "structure", "turns",
        "remove the turn: it teaches to say nothing"),
    "marker_missing": Check(
        "<image> missing", "structure", "conversations",
        "put <image> before the first question, once per image"),
    "marker_extra": Check(
        "<image> twice, or without an image", "structure", "conversations",
        "leave one <image> per image: trainers fail on others or shift the images"),
    "repeated": Check(
        "a question is repeated in its conversation", "structure", "conversations",
        "keep one of them: the second is answered from the first"),
    "too_long": Check(
        "longer than the context", "structure", "conversations",
        "split between turns; trainers cut the end off, often inside an answer"),
}  # fmt: skip
UNREAD = "correct these records; a trainer fails on them or drops them without a word"


class Limits(msgspec.Struct, frozen=True):
    """What depends on the model and the benchmark: tokens of a context, of an image and a turn.

    The defaults are LLaVA-1.5's.  `against` are COCO ids, `duplicates` numbers of records.
    """

    context_tokens: int = 2048
    image_tokens: int = 576
    record_tokens: int = 40
    turn_tokens: int = 10
    against: frozenset[int] = frozenset()
    duplicates: frozenset[int] = frozenset()


def findings(data: Data, limits: Limits) -> list[Finding]:
    """Return what the checks found, the worst first: by kind, then by share.

    A check that is true of nothing is left out.
    """
    marks = _marks(data, limits)
    shown = {name: _first_examples(data, name, marked) for name, marked in marks.items()}
    wanted = {record for rows in shown.values() for _, record, _ in rows}
    texts = data.at(wanted)
    found = [
        _finding(data, name, marks[name], shown[name], texts) for name in marks if marks[name].any()
    ]
    if data.columns.unread:
        found.append(_unread(data))
    return sorted(found, key=lambda f: (KINDS.index(f.kind), -f.total.share))


def _marks(data: Data, limits: Limits) -> dict[str, np.ndarray]:
    """Return, by check, which turns or records it is true of."""
    turns, records = data.columns.turns, data.columns.records
    terse = are_terse(turns)
    unasked = terse & ~turns["asked"]
    placed = placements(data)
    total = len(records)
    terse_of = np.bincount(turns["record"][terse], minlength=total)
    flags = records["flags"]
    found = {
        "held_out": (flags & HELD_OUT) > 0,
        "against": np.isin(records["coco"], list(limits.against)) & (records["coco"] >= 0),
        "near_duplicate": np.isin(np.arange(total), list(limits.duplicates)),
        "first_turn_only": placed == PLACEMENTS.index("first turn only"),
        "unasked": unasked,
        "all_terse": (terse_of == records["rounds"]) & (records["rounds"] > 1),
        "both_ways": _both_ways(turns, unasked),
        "empty_answer": turns["words"] == 0,
        "repeated": (flags & REPEATED) > 0,
    }
    found |= {name: (flags & (1 << bit)) > 0 for bit, name in enumerate(FAULTS)}
    overhead = limits.image_tokens + limits.record_tokens
    tokens = records["tokens"] + overhead + limits.turn_tokens * records["rounds"].astype(int)
    found["too_long"] = (records["tokens"] > 0) & (tokens > limits.context_tokens)
    return found


def are_terse(turns: np.ndarray) -> np.ndarray:
    """Return which turns have a short answer; an empty one is none."""
    return (turns["words"] <= SHORT_WORDS) & (turns["words"] > 0)


def placements(data: Data) -> np.ndarray:
    """Return where each record's terse turns are asked to be terse, as a number of `PLACEMENTS`.

    -1 for records with fewer than two terse turns, where placements cannot be told apart.
    """
    turns, total = data.columns.turns, len(data.columns.records)
    terse = are_terse(turns)
    of, asked, first = turns["record"], turns["asked"], turns["position"] == 0
    many = np.bincount(of[terse], minlength=total)
    prompted = np.bincount(of[terse & asked], minlength=total)
    begins = np.bincount(of[asked & first], minlength=total) > 0
    later = np.bincount(of[terse & asked & ~first], minlength=total)
    place = np.where(prompted == many, PLACEMENTS.index("every terse turn"),
                     PLACEMENTS.index("some terse turns"))  # fmt: skip
    place = np.where(begins & (later == 0), PLACEMENTS.index("first turn only"), place)
    place = np.where(~begins & (prompted == 0), PLACEMENTS.index("no turn"), place)
    return np.where(many < 2, -1, place)


def _both_ways(turns: np.ndarray, unasked: np.ndarray) -> np.ndarray:
    """Mark terse turns whose question is elsewhere answered in full, without a prompt either."""
    full = ~turns["asked"] & (turns["words"] > SHORT_WORDS)
    return unasked & np.isin(turns["key"], np.unique(turns["key"][full]))


def _rows(data: Data, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the source of each turn or record that a check looks at, and its record."""
    if CHECKS[name].unit == "turns":
        return data.columns.turns["source"], data.columns.turns["record"]
    return data.columns.records["source"], np.arange(len(data.columns.records))


# A source, a record, and the position of the round that shows the finding.
_Shown = tuple[int, int, int]


def _first_examples(data: Data, name: str, marked: np.ndarray) -> list[_Shown]:
    """Return the first few marked places of every source: they lie close together in the file."""
    sources, records = _rows(data, name)
    turns = CHECKS[name].unit == "turns"
    places = np.flatnonzero(marked)
    found: list[_Shown] = []
    for source in np.unique(sources[places]):
        of_source = places[sources[places] == source]
        # One per record: three turns of one conversation show less.
        _, firsts = np.unique(records[of_source], return_index=True)
        for place in of_source[firsts[:EXAMPLES]]:
            position = int(data.columns.turns["position"][place]) if turns else 0
            found.append((int(source), int(records[place]), position))
    return found


def _finding(
    data: Data, name: str, marked: np.ndarray, shown: list[_Shown], texts: dict[int, Conversation]
) -> Finding:
    sources, _ = _rows(data, name)
    size = len(data.columns.sources)
    every, true = np.bincount(sources, minlength=size), np.bincount(sources[marked], minlength=size)
    by_source = []
    for number in np.argsort(-true / np.maximum(every, 1), kind="stable"):
        if true[number]:
            rows = [_example(texts[r], position) for s, r, position in shown if s == number]
            count = Count(data.columns.sources[number], int(true[number]), int(every[number]), rows)
            by_source.append(count)
    first = [example for count in by_source for example in count.examples][:EXAMPLES]
    check = CHECKS[name]
    total = Count(ALL, int(true.sum()), int(every.sum()), first)
    return Finding(name, check.title, check.kind, check.unit, check.advice, total, by_source)


def _example(found: Conversation, position: int) -> Example:
    if position < len(found.rounds):
        question, answer = found.rounds[position].question, found.rounds[position].answer
    else:
        question, answer = ", ".join(found.images), ""
    return Example(found.place, found.id, question[:400], answer[:400])


def _unread(data: Data) -> Finding:
    """Return the records that could not be read, by reason."""
    reasons: dict[str, list[Example]] = {}
    for unread in data.columns.unread:
        example = Example(unread.place, unread.id, unread.reason, "")
        reasons.setdefault(unread.reason, []).append(example)
    every = len(data.columns.unread) + len(data.columns.records)
    rows = [Count(reason, len(rows), every, rows[:EXAMPLES]) for reason, rows in reasons.items()]
    rows.sort(key=lambda count: -count.count)
    first = [example for count in rows for example in count.examples][:EXAMPLES]
    total = Count(ALL, len(data.columns.unread), every, first)
    return Finding("unread", "cannot be read", "structure", "records", UNREAD, total, rows)
