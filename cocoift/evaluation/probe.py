"""The probe: does a short round make a short answer likelier?  No judge, no answer is generated.

For a question with a known short and a known full answer, the model's log-probabilities of how
each begins are compared, in a single round and after opening rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pandas as pd

from cocoift.core.files import DataError, inside
from cocoift.core.frames import trainings
from cocoift.core.resampling import ratio
from cocoift.core.spread import spread
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.effects import Contrast, effect_table
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import opened_prompts
from cocoift.evaluation.score import Metric


class _Gqa(msgspec.Struct, rename="camel"):
    image_id: str
    question: str
    answer: str
    full_answer: str


@dataclass(frozen=True)
class Pair:
    """A question that states no answer format, with its answer as a phrase and as a sentence."""

    question: Question
    short: str
    full: str


def read_pairs(
    path: Path, *, count: int | None = None, image_root: Path | None = None
) -> list[Pair]:
    """Read questions with `answer` and `fullAnswer` in GQA's format, `count` spread over the file.

    The image of a question is `<imageId>.jpg`.  Questions whose two answers are the same are
    left out, and with `image_root` those whose image is not there.  Raises `DataError` for a
    missing or damaged file.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=dict[str, _Gqa])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; name questions in GQA's format") from error
    pairs = [
        Pair(Question(id=name, images=(f"{row.image_id}.jpg",), text=row.question), row.answer,
             row.full_answer)
        for name, row in rows.items()
        if row.answer != row.full_answer
        and (image_root is None or inside(image_root, f"{row.image_id}.jpg").is_file())
    ]  # fmt: skip
    return pairs if count is None else spread(pairs, count)


def probe(
    candidate: Candidate, pairs: Sequence[Pair], protocols: Sequence[Protocol], *, image_root: Path
) -> pd.DataFrame:
    """Return one row per question and protocol: model, seed, protocol, question_id, image, margin.

    `margin` is in nats: above 0 the model is likelier to start the short answer than the full one
    (`generation.margins`).  Questions whose opening round failed are left out.  A model
    behind an endpoint shows no log-probabilities and gives an empty table.
    """
    rows = []
    columns = ["model", "seed", "protocol", "question_id", "image", "margin"]
    if candidate.margins is None:
        return pd.DataFrame(columns=columns)
    for protocol in protocols:
        asked = opened_prompts(
            [p.question for p in pairs], protocol, candidate.answer, image_root=image_root
        )
        ready = [
            (pair, prompt) for pair, prompt in zip(pairs, asked, strict=True) if prompt is not None
        ]
        texts = [(pair.short, pair.full) for pair, _ in ready]
        margins = candidate.margins([prompt for _, prompt in ready], texts)
        for (pair, _), margin in zip(ready, margins, strict=True):
            question = pair.question
            rows.append((candidate.name, candidate.seed, protocol.name, question.id,
                         question.images[0], margin))  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def margin_table(
    margins: pd.DataFrame, *, before: str, after: str, resamples: int = 2_000
) -> pd.DataFrame:
    """Return mean margins per model in nats over all seeds, and their shift.

    Columns: model, measure (`before`, `after`, `shift`: their paired difference), value, low, high,
    n.  Intervals are over trainings and images.
    """
    rows, margins = [], margins.assign(training=trainings(margins))
    for model, group in margins.groupby("model", sort=False):
        paired = group.pivot_table(
            index=["seed", "training", "question_id", "image"], columns="protocol", values="margin"
        )
        paired = paired.reindex(columns=[before, after]).dropna()
        paired["shift"] = paired[after] - paired[before]
        paired = paired.reset_index()
        for measure in (before, after, "shift"):
            margin = paired[measure]
            mean = ratio(paired.image, margin, margin.notna(), resamples=resamples,
                         trainings=paired.training)  # fmt: skip
            rows.append((model, measure, *mean, len(paired)))
    return pd.DataFrame(rows, columns=["model", "measure", "value", "low", "high", "n"])


def margin_effects(
    margins: pd.DataFrame, contrasts: Sequence[Contrast], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return `effects.effect_table` of the metric `margin`, differences in nats.

    `margins` has the columns of `probe`.
    """
    answers = margins.assign(score=margins.margin / 100, words=float("nan"))
    metric = Metric("margin", dict.fromkeys(margins.question_id, 1.0))
    return effect_table(answers, [metric], contrasts, resamples=resamples)
