"""What crowd workers answer about the drawn world: mostly the truth, at times the same error."""

import random
from typing import Any

from minicoco.facts import Fact
from minicoco.scenes import COLOURS, PLACES

_WRONG = {
    "colour": tuple(COLOURS),
    "count": ("1", "2", "3"),
    "place": PLACES,
}


def wrong_answer(fact: Fact, rng: random.Random) -> str:
    """Return an answer of the right kind that is false."""
    choices = [text for text in _WRONG.get(fact.kind, ("yes", "no")) if text != fact.short]
    return rng.choice(choices)


def ten_answers(fact: Fact, rng: random.Random) -> tuple[list[dict[str, Any]], str]:
    """Return ten annotators' answers, some of whom err, and their `multiple_choice_answer`.

    In about 4 % of the questions five of them err in the same way, so that only
    `multiple_choice_answer` settles the tie, as in VQAv2.
    """
    tie = rng.random() < 0.04
    texts = [fact.short] * (5 if tie else rng.randint(7, 10))
    other = wrong_answer(fact, rng)
    texts += [other] * (10 - len(texts))
    rng.shuffle(texts)
    answers = [
        {"answer": text, "answer_confidence": rng.choice(("yes", "maybe")), "answer_id": number}
        for number, text in enumerate(texts, start=1)
    ]
    return answers, fact.short
