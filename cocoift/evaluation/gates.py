"""The tuning split: rounds of images that never trained, to choose settings and to check gates.

The gates check whether the models follow length instructions: short when asked to be short, long
when asked an open question, and a short reply to the opening round.  None looks at what comes
after a short answer: that is what notebook 05 measures, on other pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cocoift.core.files import inside
from cocoift.core.images import open_image
from cocoift.core.schema import IMAGE_MARKER, Message, read_records
from cocoift.core.text import has_format_prompt
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from cocoift.tuning.data import split_images

# The least share of short answers to closed questions and opening rounds, and the largest share
# of collapsed answers to open ones.
ADHERENCE, OPENING, COLLAPSE = 0.9, 0.9, 0.15


@dataclass(frozen=True)
class HeldOutRound:
    """One round of a held-out image, asked alone."""

    image: str
    form: str
    instruction: str
    answer: str

    def prompt(self, root: Path) -> Prompt:
        """Return the question as the first of a conversation; its picture is below `root`.

        Raises `DataError` when the picture is missing or damaged.
        """
        return _prompt(self.image, self.instruction, root)


def _prompt(image: str, instruction: str, root: Path) -> Prompt:
    picture = open_image(inside(root, image))
    return Prompt(image, (picture,), [Message("human", f"{IMAGE_MARKER}\n{instruction}")])


def read_held_out(mixture: Path, *, forms: Mapping[str, str], held_out: int) -> list[HeldOutRound]:
    """Return every round on the held-out images of the merged mixture, in the order of records.

    In that mixture every round carries its own instruction.  `forms` maps a source to the form
    of its answers.
    """
    unseen = set(split_images(mixture, held_out=held_out).held_out)
    rounds = []
    for record in read_records(mixture):
        if record.image in unseen:
            asked, told = record.conversations[::2], record.conversations[1::2]
            for human, gpt, source in zip(asked, told, record.sources, strict=True):
                instruction = human.value.replace(f"{IMAGE_MARKER}\n", "")
                form = forms.get(source, "other")
                rounds.append(HeldOutRound(record.image, form, instruction, gpt.value))
    return rounds


def gate_table(
    answer: Answerer,
    rounds: Sequence[HeldOutRound],
    *,
    opening: Sequence[str],
    image_root: Path,
    count: int = 100,
) -> pd.DataFrame:
    """Return the gates of one model: gate, value, bound, n, passed.

    Closed questions are held-out rounds that ask for a short form with a format prompt; open ones
    ask for no form and have a longer answer upstream.  Each is asked alone, `count` at most.
    """
    closed = [
        one
        for one in rounds
        if one.form in ("phrase", "number", "yes_no") and has_format_prompt(one.instruction)
    ]
    free = [one for one in rounds if one.form == "free" and len(one.answer.split()) > SHORT_WORDS]
    images = list(dict.fromkeys(one.image for one in rounds))[:count]
    rows = []
    for name, asked, bound, least in (
        ("short when asked to be", _spread(closed, count, image_root), ADHERENCE, True),
        ("collapsed on open questions", _spread(free, count, image_root), COLLAPSE, False),
        *(
            (f"short on the opening round: {text}", [_prompt(i, text, image_root) for i in images],
             OPENING, True)
            for text in opening
        ),
    ):  # fmt: skip
        replies = [reply for _, reply in answer(asked) if not isinstance(reply, Failure)]
        short = [len(reply.split()) <= SHORT_WORDS for reply in replies]
        share = sum(short) / len(short) if short else float("nan")
        passed = share >= bound if least else share <= bound
        sign = "at least" if least else "at most"
        rows.append((name, share, f"{sign} {bound:.0%}", len(short), passed))
    return pd.DataFrame(rows, columns=["gate", "value", "bound", "n", "passed"])


def _spread(rounds: Sequence[HeldOutRound], count: int, root: Path) -> list[Prompt]:
    """Return up to `count` of the rounds, evenly over the images."""
    step = max(1, len(rounds) // count)
    return [one.prompt(root) for one in rounds[::step][:count]]
