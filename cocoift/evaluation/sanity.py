"""Sanity checks, on the tuning split: rounds of images that never trained.

They check that the models follow length instructions: tuned models answer briefly when asked to,
also the opening round.  None looks at an outcome on which mixtures are compared, such as open
questions that collapse.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cocoift.core.files import inside
from cocoift.core.images import open_image
from cocoift.core.schema import IMAGE_MARKER, Message, read_records
from cocoift.core.spread import spread
from cocoift.core.text import has_format_prompt
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from cocoift.tuning.data import split_images

# The least share of short answers to closed questions and to opening rounds.
LEAST_SHORT, LEAST_OPENING = 0.9, 0.9
COLUMNS = ["gate", "value", "bound", "n", "passed"]


@dataclass(frozen=True)
class HeldOutRound:
    """One round of a held-out image, asked as the first."""

    image: str
    form: str
    instruction: str
    answer: str

    @property
    def is_closed(self) -> bool:
        """Whether the round asks for a short answer and the reference answer is short.

        RefCOCO's boxes and descriptions are right answers of more words.
        """
        short = self.form in ("phrase", "number", "yes_no") and has_format_prompt(self.instruction)
        return short and len(self.answer.split()) <= SHORT_WORDS

    @property
    def is_open(self) -> bool:
        """Whether the round asks for no form and has a longer reference answer."""
        return self.form == "free" and len(self.answer.split()) > SHORT_WORDS

    def prompt(self, root: Path) -> Prompt:
        """Return the question as the first of a conversation; its image is below `root`.

        Raises `DataError` when the image is missing or damaged.
        """
        return _prompt(self.image, self.instruction, root)


def _prompt(image: str, instruction: str, root: Path) -> Prompt:
    opened = open_image(inside(root, image))
    return Prompt(image, (opened,), [Message("human", f"{IMAGE_MARKER}\n{instruction}")])


def read_held_out(mixture: Path, *, forms: Mapping[str, str], held_out: int) -> list[HeldOutRound]:
    """Return every round on the held-out images of the merged mixture, in the order of records.

    In that mixture every round carries its own instruction.  `forms` maps a source to the form
    of its answers.
    """
    unseen = set(split_images(mixture, held_out=held_out).held_out)
    rounds = []
    for record in read_records(mixture):
        if record.image in unseen:
            asked, answers = record.conversations[::2], record.conversations[1::2]
            for human, gpt, source in zip(asked, answers, record.sources, strict=True):
                instruction = human.value.replace(f"{IMAGE_MARKER}\n", "")
                form = forms.get(source, "other")
                rounds.append(HeldOutRound(record.image, form, instruction, gpt.value))
    return rounds


def halves(rounds: Iterable[HeldOutRound]) -> tuple[list[HeldOutRound], list[HeldOutRound]]:
    """Return the rounds of every second image, for checks, and those of the others."""
    rounds = list(rounds)
    first = set(list(dict.fromkeys(held.image for held in rounds))[::2])
    chosen = [held for held in rounds if held.image in first]
    return chosen, [held for held in rounds if held.image not in first]


def check_table(
    answer: Answerer,
    rounds: Sequence[HeldOutRound],
    *,
    opening: Sequence[str],
    image_root: Path,
    count: int = 100,
) -> pd.DataFrame:
    """Return the sanity checks of one tuned model: gate, value, bound, n, passed.

    At most `count` closed questions are asked in single round, and the opening rounds on as many
    images, both spread over the rounds.
    """
    closed = [held.prompt(image_root) for held in spread([r for r in rounds if r.is_closed], count)]
    images = spread(list(dict.fromkeys(held.image for held in rounds)), count)
    rows = [check("short-answer compliance", _short(answer, closed), LEAST_SHORT)]
    for text in opening:
        asked = [_prompt(image, text, image_root) for image in images]
        rows.append(
            check(f"short reply to the opening: {text}", _short(answer, asked), LEAST_OPENING)
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def check(
    name: str, values: Sequence[float], bound: float, *, at_most: bool = False
) -> tuple[str, float, str, int, bool]:
    """Return a row of the table; the mean of `values` must reach `bound`, or stay below it.

    Without values it does not pass.
    """
    mean = sum(values) / len(values) if values else float("nan")
    passed = mean <= bound if at_most else mean >= bound
    return name, mean, f"at {'most' if at_most else 'least'} {bound:.0%}", len(values), passed


def _short(answer: Answerer, asked: Sequence[Prompt]) -> list[bool]:
    replies = [reply for _, reply in answer(asked) if not isinstance(reply, Failure)]
    return [len(reply.split()) <= SHORT_WORDS for reply in replies]
