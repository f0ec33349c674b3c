"""Scores: verdicts become the benchmarks' numbers, each with an interval.

A verdict table has one row per answer and judge repeat, with the columns `model`, `seed`,
`protocol`, `question_id`, `image`, `words`, `score` (0 to 1; missing where unscored) and `repeat`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cocoift.core.resampling import image_draws, interval
from cocoift.evaluation.benchmarks import CAPABILITIES, CATEGORIES, Question
from cocoift.evaluation.lengths import SHORT_WORDS

COLLAPSE = "collapse"
SCORE_COLUMNS = ["model", "seed", "protocol", "metric", "value", "low", "high", "n", "unscored"]


@dataclass(frozen=True)
class Metric:
    """A weighted mean over questions: `weights` by question id, `of` a column of the table.

    Questions that are not in `weights` do not count.
    """

    name: str
    weights: Mapping[str, float]
    of: str = "score"


def mm_vet_metrics(questions: Sequence[Question], *, sets: bool = False) -> list[Metric]:
    """Return MM-Vet's metrics: each capability and the total, or with `sets` each capability set.

    A question counts under every capability it lists and under exactly one set (MM-Vet, arXiv
    2308.02490).
    """
    if sets:
        groups: dict[str, dict[str, float]] = {}
        for question in questions:
            name = "_".join(sorted(question.capabilities, key=CAPABILITIES.index))
            groups.setdefault(name, {})[question.id] = 1.0
        return [Metric(name, ids) for name, ids in sorted(groups.items())]
    metrics = [
        Metric(name, {q.id: 1.0 for q in questions if name in q.capabilities})
        for name in CAPABILITIES
    ]
    total = Metric("total", {question.id: 1.0 for question in questions})
    return [metric for metric in metrics if metric.weights] + [total]


def infimm_metrics(questions: Sequence[Question]) -> list[Metric]:
    """Return InfiMM-Eval's metrics: each category and the overall score.

    All are weighted: a question of high complexity counts twice (arXiv 2311.11567).
    """
    weight = {q.id: 2.0 if q.complexity == "high" else 1.0 for q in questions}
    metrics = [
        Metric(name, {q.id: weight[q.id] for q in questions if q.category == name})
        for name in CATEGORIES
    ]
    return [metric for metric in metrics if metric.weights] + [Metric("overall", weight)]


def metrics_of(kind: str, questions: Sequence[Question]) -> list[Metric]:
    """Return a benchmark's own metrics and the collapse rate over all its questions."""
    own: dict[str, Callable[[], list[Metric]]] = {
        "mm_vet": lambda: mm_vet_metrics(questions),
        "infimm_eval": lambda: infimm_metrics(questions),
        "llava_bench": lambda: _by_category(questions),
    }
    everything = {question.id: 1.0 for question in questions}
    return [*own[kind](), Metric(COLLAPSE, everything, of="collapsed")]


def _by_category(questions: Sequence[Question]) -> list[Metric]:
    names = dict.fromkeys(question.category for question in questions)
    metrics = [Metric(n, {q.id: 1.0 for q in questions if q.category == n}) for n in names]
    return [*metrics, Metric("total", {question.id: 1.0 for question in questions})]


def collapsed(words: pd.Series) -> pd.Series:
    """Return 1 for answers of three words or fewer, 0 for others, missing for missing ones."""
    return (words <= SHORT_WORDS).where(words.notna()).astype(float)


def per_answer(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per answer: its score averaged over repeats, and whether it collapsed."""
    keys = ["model", "seed", "protocol", "question_id", "image"]
    means = verdicts.groupby(keys, as_index=False, sort=False).agg(
        score=("score", "mean"), words=("words", "first")
    )
    return means.assign(collapsed=collapsed(means.words))


def value(answers: pd.DataFrame, metric: Metric) -> float:
    """Return a metric, 100 times a weighted mean over the answers that have a value."""
    products, weights = _weighted(answers, metric)
    return float(100 * products.sum() / weights.sum()) if weights.sum() else float("nan")


def _weighted(answers: pd.DataFrame, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """Return each answer's weighted value and its weight, 0 where it has no value."""
    values = answers[metric.of].to_numpy(float)
    weights = np.array([metric.weights.get(name, 0.0) for name in answers.question_id], float)
    weights[np.isnan(values)] = 0.0
    return weights * np.nan_to_num(values), weights


class Bootstrap:
    """Resampled images: the same draws for every number, so that differences are paired."""

    def __init__(self, images: Iterable[str], *, resamples: int = 2_000, seed: int = 0):
        self.images, self.draws = image_draws(images, resamples=resamples, seed=seed)
        self.places = {name: place for place, name in enumerate(self.images)}

    def values(self, answers: pd.DataFrame, metric: Metric) -> np.ndarray:
        """Return the metric on every resample; answers of several seeds are taken together."""
        places = np.array([self.places[name] for name in answers.image], int)
        sums, counts = (
            np.bincount(places, one, minlength=len(self.images))
            for one in _weighted(answers, metric)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            return 100 * (self.draws @ sums) / (self.draws @ counts)


def score_table(
    verdicts: pd.DataFrame, metrics: Sequence[Metric], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return every metric per model, seed and protocol, and over all seeds together (`all`).

    Columns: model, seed, protocol, metric, value (0 to 100), low, high, n (answers that count),
    unscored.  Intervals resample images.  Where no answer counts there is no row: a benchmark that
    withholds its answers has a collapse rate and no score.
    """
    answers = per_answer(verdicts)
    bootstrap = Bootstrap(answers.image, resamples=resamples)
    rows = []
    for (model, protocol), own in answers.groupby(["model", "protocol"], sort=False):
        parts = [(str(seed), part) for seed, part in own.groupby("seed")]
        for seed, part in [*parts, ("all", own)]:
            for metric in metrics:
                counted = part[part.question_id.isin(metric.weights)]
                missing = int(counted[metric.of].isna().sum())
                if missing == len(counted):
                    continue
                low, high = interval(bootstrap.values(part, metric))
                rows.append((model, seed, protocol, metric.name, value(part, metric), low, high,
                             len(counted) - missing, missing))  # fmt: skip
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def repeat_spread(verdicts: pd.DataFrame, metric: Metric) -> float:
    """Return the standard deviation of a metric over judge repeats (MM-Vet reports it so)."""
    runs = [value(per_answer(part), metric) for _, part in verdicts.groupby("repeat")]
    return float(np.std(runs))


def agreement(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return how a judge agrees with hand-given scores: mean absolute error, rank correlation.

    Pairs with a missing score do not count.
    """
    pairs = pd.DataFrame({"ours": ours, "theirs": theirs}, dtype=float).dropna()
    ranks = pairs.ours.rank().corr(pairs.theirs.rank())
    error = float((pairs.ours - pairs.theirs).abs().mean())
    return {"mean_absolute_error": error, "rank_correlation": ranks}
