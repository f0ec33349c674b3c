"""Mixtures: the kept turns laid out as training records, by one policy or another.

`merged`, `mix` and `instructed` hold the same annotations of the same images.  `merged` and `mix`
differ along the two axes that the study separates: where the format prompt is placed, and whether
sources mix.  `instructed` is `merged` with the short-answer prompt in terse conversational turns
too.
"""

import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, groupby, islice
from typing import Literal, get_args

from msgspec import structs

from cocoift.core.schema import KeptTurn, Record, Turn, to_record
from cocoift.merge.rules import Costed, pack


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How turns become records: prompts in the first or `every` turn, sources apart or `mixed`.

    `rounds` are a layout's `own`, or, with sources mixed, as `few` as the LLaVA-style records of
    the image have, or, with sources apart, as `many` as ask for one answer format: sources of the
    same format then share a record, since no source alone has many.  A conversational turn (form
    `free`) whose answer has at most `terse_words` words gets the short-answer prompt; 0 leaves all
    turns as they are upstream.
    """

    prompts: Literal["first", "every"]
    sources: Literal["apart", "mixed"]
    terse_words: int = 0
    rounds: Literal["own", "few", "many"] = "own"


# The paper's short-answer prompt, and more tokens than any tokenizer makes of it: the cost of a
# turn that gets it needs no tokenizer, and records packed a little shorter lose nothing.
TERSE_PROMPT = "Answer the question with a short phrase."
_PROMPT_TOKENS = 20

Mixture = Literal["mix", "merged", "instructed"]
MIXTURES: tuple[Mixture, ...] = get_args(Mixture)
LAYOUTS: dict[str, Layout] = {
    "merged": Layout(prompts="every", sources="mixed"),
    "mix": Layout(prompts="first", sources="apart"),
    "instructed": Layout(prompts="every", sources="mixed", terse_words=3),
}
MERGED, MIX = LAYOUTS["merged"], LAYOUTS["mix"]


def records(
    images: Iterable[Sequence[KeptTurn]], *, layout: Layout, budget: int, image_dir: str
) -> Iterator[Record]:
    """Yield the records of a mixture, image by image.

    With sources apart, a record holds the single questions of one source about the image, and every
    conversation is a separate record, as in LLaVA-mix-665k.  With prompts first, later turns lose
    the short-answer prompt.  `budget` is the number of tokens that a record has for turns.
    """
    for upstream in images:
        turns = upstream
        if layout.terse_words:
            turns = [_prompted(kept, layout.terse_words) for kept in upstream]
        image_id = turns[0].turn.image_id
        groups = _groups(turns, layout)
        taken: set[str] = set()
        for name, group in groups:
            dialogs = [list(rounds) for _, rounds in groupby(group, key=_dialog)]
            for costed in pack(dialogs, budget=budget):
                record_id = _free_id(f"{image_id:012d}{name}", taken)
                taken.add(record_id)
                rows = [turn for turn, _ in costed]
                if layout.prompts == "first":
                    rows[1:] = [_bare(turn) for turn in rows[1:]]
                image = f"{image_dir}/{image_id:012d}.jpg"
                yield to_record(rows, record_id=record_id, image=image, licence=turns[0].licence)


def _groups(turns: Sequence[KeptTurn], layout: Layout) -> Iterator[tuple[str, Costed]]:
    """Return the turns of each record, as far as the budget allows, and the end of its id."""
    if layout.sources == "mixed":
        return _chopped(turns) if layout.rounds == "few" else _by_record(turns)
    return _by_source(turns, joined=layout.rounds == "many")


def _free_id(stem: str, taken: Collection[str]) -> str:
    """Return `stem`, or the first of `stem-1`, `stem-2`... that no record of the image has yet."""
    numbered = (f"{stem}-{number}" if number else stem for number in count())
    return next(name for name in numbered if name not in taken)


def is_terse(turn: Turn, words: int) -> bool:
    """Tell whether a conversational turn is answered in at most `words` words without a prompt."""
    return turn.form == "free" and len((turn.answer or "").split()) <= words


def _prompted(kept: KeptTurn, words: int) -> KeptTurn:
    """Return a turn with the short-answer prompt if its answer is terse."""
    turn = kept.turn
    if not is_terse(turn, words):
        return kept
    asked = turn._replace(instruction=f"{turn.instruction} {TERSE_PROMPT}")
    return structs.replace(kept, turn=asked, tokens=kept.tokens + _PROMPT_TOKENS)


def _bare(turn: Turn) -> Turn:
    """Return a turn without its short-answer prompt, if it has one that follows the question.

    Other prompts stay: A-OKVQA and RefCOCO repeat theirs in every turn of LLaVA-mix-665k too.
    """
    follows = turn.question and (turn.instruction or "").startswith(turn.question)
    if follows and turn.form in ("phrase", "number", "yes_no"):
        return turn._replace(instruction=turn.question)
    return turn


def _dialog(item: tuple[Turn, int]) -> tuple[str, str]:
    return item[0].source, item[0].dialog_id


def _by_record(turns: Sequence[KeptTurn]) -> Iterator[tuple[str, Costed]]:
    groups: dict[int, Costed] = defaultdict(list)
    for kept in turns:
        groups[kept.record].append((kept.turn, kept.tokens))
    for group in groups.values():
        yield "", group


def _chopped(turns: Sequence[KeptTurn]) -> Iterator[tuple[str, Costed]]:
    """Cut an image's turns, in the order of the merge, to the sizes of its LLaVA-style records."""
    sizes = [len(group) for _, group in _by_source(turns)]
    random.Random(f"chopped/{turns[0].turn.image_id}").shuffle(sizes)
    costed = iter([(kept.turn, kept.tokens) for kept in turns])
    for size in sizes:
        yield "", list(islice(costed, size))


def _by_source(turns: Sequence[KeptTurn], *, joined: bool = False) -> Iterator[tuple[str, Costed]]:
    """Group an image's turns by source; dialogs of several rounds stay separate.

    `joined` groups them by answer format, whatever their source or dialog.
    """
    sizes: dict[tuple[str, str], int] = defaultdict(int)
    for kept in turns:
        sizes[kept.turn.source, kept.turn.dialog_id] += 1
    groups: dict[str, Costed] = defaultdict(list)
    for kept in turns:
        turn = kept.turn
        alone = sizes[turn.source, turn.dialog_id] > 1 or turn.form == "free"
        name = f"-{turn.source}-{turn.dialog_id}" if alone else f"-{turn.source}"
        groups[f"-{turn.form}" if joined else name].append((turn, kept.tokens))
    yield from sorted(groups.items())
