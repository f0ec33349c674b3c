"""The merge: an image's turns become its records, by rules that are stated, counted and pure.

`partitioned.py` only reads, groups and writes; everything the paper's mixture depends on happens in
`merge_image`, which sees one image and nothing else.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from operator import attrgetter, itemgetter

import msgspec

from cocoift.core.answers import answer_key
from cocoift.core.schema import IMAGE_MARKER, Settings, Turn
from cocoift.core.text import CountTokens, question_key, tidy
from cocoift.sources.scope import Scope

# Turns with the same question contradict each other only if their answers are short: two different
# descriptions of an image can both be right.
CLOSED_FORMS = frozenset({"phrase", "number", "yes_no", "choice"})


# Turns with the tokens they take in a record, and turns with the reason why they were dropped.
Costed = list[tuple[Turn, int]]
Dropped = list[tuple[Turn, str]]
# What identifies a turn of an image: source, dialog, round.
TurnKey = tuple[str, str, int]


class Rules(Settings, frozen=True):
    """The parameters of the merge; the defaults are the paper's setting for LLaVA-1.5.

    `image_tokens` are those of an image (24 x 24 patches of 14 px at 336 px), `record_tokens` those
    of the chat's system prompt, `turn_tokens` those of a round's role tags and `</s>`.
    """

    seed: int = 0
    context_tokens: int = 2048
    image_tokens: int = 576
    record_tokens: int = 40
    turn_tokens: int = 10

    @property
    def budget(self) -> int:
        """Tokens left for turns in one record."""
        return self.context_tokens - self.image_tokens - self.record_tokens


class Conflict(msgspec.Struct, frozen=True):
    """Turns of an image that answer the same question differently, and the answer that was kept."""

    image_id: int
    question: str
    kept: str
    kept_source: str
    others: list[tuple[str, str]]


class MergedImage(msgspec.Struct, frozen=True):
    """An image after the merge: records of turns with their tokens, drops, conflicts.

    `drops` counts by source and reason; `dropped` are the turns themselves, except those of images
    that may not train.
    """

    image_id: int
    records: list[Costed]
    drops: list[tuple[str, str, int]]
    conflicts: list[Conflict] = []
    dropped: list[tuple[Turn, str]] = []


def merge_image(
    image_id: int,
    turns: Sequence[Turn],
    *,
    rules: Rules,
    scope: Scope,
    count_tokens: CountTokens,
    curated: Collection[TurnKey] = (),
) -> MergedImage:
    """Merge all turns of an image into its records.

    `curated` are the turns removed in curation (`merge.curation`).  A pure function: the same turns
    in any order give the same records on every machine.  Kept turns plus drops always equal the
    turns that came in.
    """
    refusal = scope.refusal(image_id)
    if refusal:
        return MergedImage(image_id, [], _counted((turn, refusal) for turn in turns))
    dropped: Dropped = []
    ordered = sorted(turns, key=attrgetter("source", "dialog_id", "round"))
    usable = list(_usable(ordered, dropped, curated=curated))
    unique, conflicts = _without_duplicates(usable, dropped)
    costed = _costed(unique, dropped, rules=rules, count_tokens=count_tokens)
    dialogs = shuffled_dialogs(costed, seed=rules.seed)
    records = pack(dialogs, budget=rules.budget)
    return MergedImage(image_id, records, _counted(dropped), conflicts, dropped)


def _counted(dropped: Iterable[tuple[Turn, str]]) -> list[tuple[str, str, int]]:
    counts = Counter((turn.source, reason) for turn, reason in dropped)
    return [(source, reason, count) for (source, reason), count in sorted(counts.items())]


def _usable(
    turns: Iterable[Turn], dropped: Dropped, *, curated: Collection[TurnKey]
) -> Iterator[Turn]:
    """Yield the turns with tidy text; drop those without question or answer, and the curated."""
    for turn in turns:
        question, answer = tidy(turn.question), tidy(turn.answer)
        as_asked = turn.instruction == turn.question
        texts = question, question if as_asked else tidy(turn.instruction), answer
        if texts != (turn.question, turn.instruction, turn.answer):
            turn = turn._replace(question=texts[0], instruction=texts[1], answer=texts[2])
        if not turn.instruction:
            dropped.append((turn, "empty_question"))
        elif not turn.answer:
            dropped.append((turn, "empty_answer"))
        elif IMAGE_MARKER in turn.instruction or IMAGE_MARKER in turn.answer:
            dropped.append((turn, "stray_image_marker"))
        elif curated and (turn.source, turn.dialog_id, turn.round) in curated:
            dropped.append((turn, "curated"))
        else:
            yield turn


def _without_duplicates(
    turns: Sequence[Turn], dropped: Dropped
) -> tuple[list[Turn], list[Conflict]]:
    """Keep one turn per question; where answers disagree, a turn with the majority's answer.

    Answers agree if VQA's normalisation makes them the same; the kept answer stays as written.  The
    same question with another answer format is another instruction, not a duplicate.  Ties between
    answers, and between turns with the winning answer, go to a round of the longest dialog, because
    its later rounds may refer to it; then to the first by source, dialog and round.  So a dialog
    loses a round only to a majority or to a dialog at least as long.
    """
    dialog_sizes = Counter(map(attrgetter("source", "dialog_id"), turns))
    groups: dict[tuple[str, str], list[Turn]] = defaultdict(list)
    for turn in turns:
        shape = "short" if turn.form in CLOSED_FORMS else turn.form
        groups[question_key(turn.question or turn.instruction or ""), shape].append(turn)
    kept, conflicts = [], []
    for group in groups.values():
        if len(group) == 1:
            kept += group
            continue
        answers = [answer_key(turn.answer or "") for turn in group]
        votes = Counter(answers)
        sizes = [dialog_sizes[turn.source, turn.dialog_id] for turn in group]
        ranked = zip((votes[answer] for answer in answers), sizes, strict=True)
        # `max` returns the first of equals, and turns are in the order of their keys.
        best = max(enumerate(ranked), key=itemgetter(1))[0]
        stays, winner = group[best], answers[best]
        kept.append(stays)
        others = []
        for turn, answer in zip(group, answers, strict=True):
            if turn is stays:
                continue
            closed = turn.form in CLOSED_FORMS and stays.form in CLOSED_FORMS
            reason = "duplicate" if answer == winner else "conflict" if closed else "alternative"
            dropped.append((turn, reason))
            if reason == "conflict":
                others.append((turn.source, turn.answer or ""))
        if others:
            question = stays.question or stays.instruction or ""
            conflicts.append(
                Conflict(stays.image_id, question, stays.answer or "", stays.source, others)
            )
    return kept, conflicts


def _costed(
    turns: Iterable[Turn], dropped: Dropped, *, rules: Rules, count_tokens: CountTokens
) -> Costed:
    """Return each turn with its tokens; drop the turns that no record could hold."""
    costed = []
    for turn in turns:
        texts = count_tokens(turn.instruction or "") + count_tokens(turn.answer or "")
        cost = texts + rules.turn_tokens
        if cost > rules.budget:
            dropped.append((turn, "longer_than_context"))
        else:
            costed.append((turn, cost))
    return costed


def shuffled_dialogs(turns: Iterable[tuple[Turn, int]], *, seed: int) -> list[Costed]:
    """Group turns into dialogs, rounds in order, dialogs in an order drawn from the image id.

    The order is that of hashes, so it does not depend on language, library or runner.
    """

    def place(group: Costed) -> bytes:
        turn = group[0][0]
        name = f"{seed}/{turn.image_id}/{turn.source}/{turn.dialog_id}"
        return hashlib.blake2b(name.encode(), digest_size=16).digest()

    dialogs: dict[tuple[str, str], Costed] = defaultdict(list)
    for item in turns:
        dialogs[item[0].source, item[0].dialog_id].append(item)
    in_order = (sorted(group, key=lambda item: item[0].round) for group in dialogs.values())
    return sorted(in_order, key=place)


def pack(dialogs: Iterable[Costed], *, budget: int) -> list[Costed]:
    """Fill records of at most `budget` tokens with dialogs in order, splitting only between turns.

    A dialog that does not fit into the rest of a record starts the next one; only a dialog longer
    than a whole record is split.
    """
    records: list[Costed] = []
    left = -1
    for dialog in dialogs:
        cost = sum(tokens for _, tokens in dialog)
        for item in dialog:
            if item[1] > left or (item is dialog[0] and left < cost <= budget):
                records.append([])
                left = budget
            records[-1].append(item)
            left -= item[1]
    return records
