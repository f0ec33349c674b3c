"""Forced choice: of a true sentence and false ones, does a model hold the true one for likeliest?

It tells what a model *knows* from what it *says*: no answer is written, so a model that answers
with one word can still rank the sentences.  The main measure, named before any outcome was seen, is
the share of items whose true sentence has the highest probability of all.  Of three foils and the
truth, one drawn by chance is true in 25 % of the cases; a model that has a colour, a place and an
object in mind, but not by looking, ranks the truth first where it happens to prefer it to each
foil, down to one case in eight.  The probability is that of the whole sentence, its end included
(`generation.log_probabilities`), not divided by its length: foils exchange a word or two (in
SugarCrepe's they have 10.8 to 11.0 words on average, their captions 11.0), and what wording or
length make unlikely, they do with another picture too, the control.

The files have SugarCrepe's format (RAIVNLab/sugar-crepe, arXiv 2306.14610), one file per kind of
foil: `{key: {filename, caption, negative_caption}}`.  They are about COCO's val2017, which no
mixture trains on, and share captions, so that a sentence can have a foil of each kind.  FOIL-COCO
exchanges objects alone, VALSE and Winoground give a caption one foil: no four to choose from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pandas as pd

from cocoift.core.files import DataError, inside
from cocoift.core.frames import trainings
from cocoift.core.resampling import ratio_table
from cocoift.core.spread import spread
from cocoift.core.text import tidy
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.effects import Contrast, effect_table
from cocoift.evaluation.protocols import Failure, Prompt, Protocol
from cocoift.evaluation.rollout import opened_prompts
from cocoift.evaluation.score import COLLAPSE, Metric, collapsed

if TYPE_CHECKING:  # it loads torch
    from cocoift.evaluation.candidates import Candidate

# The main measure, and the same where the model's own answer collapsed.
TRUTH_FIRST, KNOWN_UNSAID = "truth_first", "known_unsaid"
# A table of choices has these columns, and one for every kind of foil.
COLUMNS = ("model", "seed", "protocol", "question_id", "image", "words", "truth")
RESERVED = (*COLUMNS, TRUTH_FIRST, COLLAPSE, KNOWN_UNSAID)


class _Foil(msgspec.Struct):
    """A row of SugarCrepe; mini's say too which question the sentences answer."""

    filename: str
    caption: str
    negative_caption: str
    question: str = ""


@dataclass(frozen=True)
class Choice:
    """A question, a sentence that is true of its image, and false ones by what they exchange."""

    question: Question
    truth: str
    foils: Mapping[str, str]


def read_choices(
    files: Mapping[str, Path],
    *,
    asked: str,
    count: int | None = None,
    image_root: Path | None = None,
) -> tuple[list[Choice], dict[str, int]]:
    """Read true sentences with a foil of every kind, `count` spread over them; and what is dropped.

    `files` are by kind, in SugarCrepe's format.  A caption is dropped, and counted by reason, where
    it repeats another of its file, where a file has no foil of it, where two of its sentences are
    the same and, with `image_root`, where its image is not there.  `asked` is the question where
    the files state none.  All sentences begin with a capital and end with a full stop: upstream's
    foils do, not all of its captions.  Raises `DataError` naming file and record for a missing or
    damaged file.
    """
    captions: dict[tuple[str, str], dict[str, _Foil]] = {}
    found, dropped, of_image = [], Counter[str](), Counter[str]()
    for kind, path in files.items():
        for row in _rows(path):
            rows = captions.setdefault((row.filename, _sentence(row.caption).casefold()), {})
            dropped["repeat another of their file"] += kind in rows
            rows.setdefault(kind, row)
    for (image, _), rows in captions.items():
        of_image[image] += 1
        first = next(iter(rows.values()))
        truth = _sentence(first.caption)
        foils = {kind: _sentence(row.negative_caption) for kind, row in rows.items()}
        if len(foils) < len(files):
            dropped["lack a foil of some kind"] += 1
        elif len({text.casefold() for text in (truth, *foils.values())}) <= len(foils):
            dropped["have two equal sentences"] += 1
        elif image_root is not None and not inside(image_root, image).is_file():
            dropped["have no image on disk"] += 1
        else:
            name = f"{Path(image).stem}-{of_image[image]}"
            question = Question(id=name, images=(image,), text=first.question or asked)
            found.append(Choice(question, truth, {kind: foils[kind] for kind in files}))
    return (found if count is None else spread(found, count)), dict(+dropped)


def _rows(path: Path) -> list[_Foil]:
    record = ""
    try:
        rows = []
        for key, row in msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw]).items():
            record = f" record {key!r}:"
            rows.append(msgspec.json.decode(row, type=_Foil))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}:{record} {error}; name a file in SugarCrepe's format") from error
    return rows


def _sentence(text: str) -> str:
    """Return a text as a sentence: a capital first, a full stop last."""
    text = tidy(text)
    stop = "" if text.endswith((".", "!", "?")) else "."
    return f"{text[:1].upper()}{text[1:]}{stop}"


def choose(
    candidate: "Candidate",
    choices: Sequence[Choice],
    protocols: Sequence[Protocol],
    *,
    image_root: Path,
) -> pd.DataFrame:
    """Return one row per item and protocol: `COLUMNS`, and a column per kind of foil.

    `truth` and the kinds hold the log-probability of each sentence, in nats to three places;
    `words` is the length of what the model itself answers to the same prompt, missing where another
    image is shown.  Items whose opening round failed are left out.  A model behind an endpoint
    shows no log-probabilities and gives an empty table.
    """
    kinds = list(choices[0].foils) if choices else []
    rows: list[tuple[object, ...]] = []
    for protocol in protocols if candidate.log_probabilities else ():
        asked = opened_prompts(
            [choice.question for choice in choices], protocol, candidate.answer,
            image_root=image_root,
        )  # fmt: skip
        ready = [(c, p) for c, p in zip(choices, asked, strict=True) if p is not None]
        prompts = [prompt for _, prompt in ready]
        sentences = [(choice.truth, *choice.foils.values()) for choice, _ in ready]
        assert candidate.log_probabilities
        likely = candidate.log_probabilities(prompts, sentences)
        words = _own_words(candidate, prompts) if protocol.picture == "own" else {}
        for number, (choice, _) in enumerate(ready):
            question = choice.question
            rows.append((candidate.name, candidate.seed, protocol.name, question.id,
                         question.images[0], words.get(number, float("nan")),
                         *(round(value, 3) for value in likely[number])))  # fmt: skip
    return pd.DataFrame(rows, columns=[*COLUMNS, *kinds])


def _own_words(candidate: "Candidate", prompts: Sequence[Prompt]) -> dict[int, int]:
    return {
        number: len(reply.split())
        for number, reply in candidate.answer(prompts)
        if not isinstance(reply, Failure)
    }


def choice_table(choices: pd.DataFrame, *, resamples: int = 2_000) -> pd.DataFrame:
    """Return shares in percent per model and protocol, over all seeds.

    Columns: model, protocol, metric, value, low, high, n.  Metrics: `TRUTH_FIRST`; every kind of
    foil, the share of items whose truth is likelier than that foil (chance 50 %); `COLLAPSE`, own
    answers of three words or fewer; `KNOWN_UNSAID`, truth first among those items.  Intervals are
    over trainings and images.
    """
    kinds = [name for name in choices if name not in COLUMNS]
    said = collapsed(choices.words)
    first = _truth_first(choices)
    values = {TRUTH_FIRST: first, **{kind: _before(choices, [kind]) for kind in kinds},
              COLLAPSE: said, KNOWN_UNSAID: first.where(said == 1)}  # fmt: skip
    answers = choices.assign(training=trainings(choices.assign(margin=choices.truth)))
    every = pd.concat(
        [answers.assign(metric=name, top=100 * of, bottom=1.0) for name, of in values.items()]
    ).dropna(subset="top")
    by = ["model", "protocol", "metric"]
    numbers = every.groupby(by, sort=False).size().rename("n").reset_index()
    found = ratio_table(every, by, resamples=resamples).merge(numbers)
    found[["low", "high"]] = found[["low", "high"]].clip(0, 100)  # a t interval may go beyond
    return found[[*by, "value", "low", "high", "n"]]


def chance(levels: pd.DataFrame) -> float:
    """Return the percentage of truths that guessing ranks first in a `choice_table`."""
    return 100 / (1 + len(kinds_of(levels)))


def kinds_of(levels: pd.DataFrame) -> list[str]:
    """Return the kinds of foil in a `choice_table`."""
    return [str(name) for name in levels.metric.unique() if name not in RESERVED]


def _truth_first(choices: pd.DataFrame) -> pd.Series:
    return _before(choices, [name for name in choices if name not in COLUMNS])


def _before(choices: pd.DataFrame, kinds: list[str]) -> pd.Series:
    """Return 1 where the truth is likelier than each of these foils, else 0: a tie is no choice."""
    return (choices.truth > choices[kinds].max(axis=1)).astype(float)


def choice_effects(
    choices: pd.DataFrame, contrasts: Sequence[Contrast], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return `effects.effect_table` of `TRUTH_FIRST` and of the own answers' `COLLAPSE`, in points.

    `choices` has the columns of `choose`.
    """
    answers = choices.assign(score=_truth_first(choices), margin=choices.truth)
    weights = dict.fromkeys(choices.question_id, 1.0)
    metrics = [Metric(TRUTH_FIRST, weights), Metric(COLLAPSE, weights, of="collapsed")]
    return effect_table(answers, metrics, contrasts, resamples=resamples)
