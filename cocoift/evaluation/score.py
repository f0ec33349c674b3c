"""Scores: verdicts become the benchmarks' numbers, each with an interval.

A verdict table has one row per answer and judge repeat, with the columns `model`, `seed`,
`protocol`, `question_id`, `image`, `words`, `score` (0 to 1; missing where unscored) and `repeat`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cocoift.core.frames import stacked, trainings
from cocoift.core.resampling import ratio_table
from cocoift.evaluation.benchmarks import CAPABILITIES, CATEGORIES, Question
from cocoift.evaluation.lengths import SHORT_WORDS

# A benchmark's whole score, the score over its open questions, and the collapse of open and of
# closed ones.
TOTALS = ("total", "overall")
OPEN_SCORE, COLLAPSE, CLOSED_COLLAPSE = "open", "collapse", "closed_collapse"
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
    """Return a benchmark's own metrics, and what its open and its closed questions say.

    Its own end in its whole score, one of `TOTALS`.  Then come the score over open questions
    (weighted as in the whole score), their collapse, and the share of closed ones answered as
    briefly (`Question.is_closed`).
    """
    of_kind: dict[str, Callable[[], list[Metric]]] = {
        "mm_vet": lambda: mm_vet_metrics(questions),
        "infimm_eval": lambda: infimm_metrics(questions),
        "llava_bench": lambda: _by_category(questions),
    }
    found = of_kind[kind]()
    is_closed = {question.id: question.is_closed for question in questions}
    weights = found[-1].weights
    return [
        *found,
        Metric(OPEN_SCORE, {name: weights[name] for name in weights if not is_closed[name]}),
        Metric(COLLAPSE, {name: 1.0 for name in is_closed if not is_closed[name]}, of="collapsed"),
        Metric(CLOSED_COLLAPSE, {n: 1.0 for n in is_closed if is_closed[n]}, of="collapsed"),
    ]


def whole_score(metrics: Sequence[Metric]) -> Metric:
    """Return a benchmark's whole score among its metrics."""
    return next(metric for metric in metrics if metric.name in TOTALS)


def _by_category(questions: Sequence[Question]) -> list[Metric]:
    names = dict.fromkeys(question.category for question in questions)
    metrics = [Metric(n, {q.id: 1.0 for q in questions if q.category == n}) for n in names]
    return [*metrics, Metric("total", {question.id: 1.0 for question in questions})]


def collapsed(words: pd.Series) -> pd.Series:
    """Return 1 for answers of three words or fewer, 0 for others, missing for missing ones."""
    return (words <= SHORT_WORDS).where(words.notna()).astype(float)


def per_answer(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return one row per answer: its score averaged over repeats, and whether it collapsed.

    A further column `training` says which training of its model the answer is of.  A column
    `opening` of the verdicts, if any, is kept: it tells answers apart that have the same protocol.
    """
    keys = ["model", "seed", "protocol", "question_id", "image"]
    keys += [name for name in ("opening",) if name in verdicts]
    every = verdicts.assign(training=trainings(verdicts))
    means = every.groupby(keys, as_index=False, sort=False).agg(
        score=("score", "mean"), words=("words", "first"), training=("training", "first")
    )
    return means.assign(collapsed=collapsed(means.words))


def weighted(answers: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return the answers that a metric counts, with its name and what `ratio_table` adds up.

    `top` is 100 times the weighted value and `bottom` the weight; both 0 where there is no value.
    """
    counted = answers[answers.question_id.isin(metric.weights)]
    values = counted[metric.of]
    weights = counted.question_id.map(metric.weights).astype(float).where(values.notna(), 0.0)
    tops = 100 * weights * values.fillna(0.0)
    return counted.assign(metric=metric.name, top=tops, bottom=weights)


def value(answers: pd.DataFrame, metric: Metric) -> float:
    """Return a metric, 100 times a weighted mean over the answers that have a value."""
    sums = weighted(answers, metric)[["top", "bottom"]].sum()
    return float(sums.top / sums.bottom) if sums.bottom else float("nan")


def score_table(
    verdicts: pd.DataFrame, metrics: Sequence[Metric], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return every metric per model, seed and protocol, and its mean over all seeds (`all`).

    Columns: model, seed, protocol, metric, value (0 to 100), low, high, n (answers that count),
    unscored.  Intervals of a seed are over images, those of `all` over trainings and images
    (`resampling.over_trainings`).  Where no answer counts there is no row: a benchmark that
    withholds its answers has a collapse rate and no score.
    """
    answers = per_answer(verdicts)
    whose = ["model", "seed", "protocol"]
    parts = [
        part.assign(seed=str(seed))
        for _, asked in answers.groupby(["model", "protocol"], sort=False)
        for seed, part in [*asked.groupby("seed"), ("all", asked)]
    ]
    every = stacked(parts, list(answers))
    counted = pd.concat([weighted(every, metric) for metric in metrics])
    counted = counted.assign(n=counted.bottom > 0, unscored=counted.bottom == 0)
    by = [*whose, "metric"]
    numbers = counted.groupby(by, sort=False)[["n", "unscored"]].sum().reset_index()
    found = ratio_table(counted, by, resamples=resamples, among=answers.image).merge(numbers)
    # By model, protocol and seed as they come, and then by metric.
    places = every[whose].drop_duplicates().reset_index(drop=True).reset_index(names="place")
    found = found[found.n > 0].merge(places).sort_values("place", kind="stable")
    found[["low", "high"]] = found[["low", "high"]].clip(0, 100)  # a t interval may go beyond
    return found.reset_index(drop=True)[SCORE_COLUMNS]


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
