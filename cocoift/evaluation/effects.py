"""Effects: paired differences of models and protocols, and differences of such differences.

A conclusion about models rests on one of these with its interval and its sign on every seed, never
on two intervals side by side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from cocoift.core.frames import stacked
from cocoift.core.resampling import ratio_table
from cocoift.evaluation.protocols import (
    AFTER,
    ALONE,
    FIGURE_1,
    OTHER_PICTURE,
    TRUE_REPLY,
    WRONG_REPLY,
)
from cocoift.evaluation.score import Metric, per_answer, weighted

COLUMNS = ("metric", "contrast", "seed", "difference", "low", "high", "n")


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of one metric over (model, protocol) pairs; the weights add up to 0."""

    name: str
    weights: Mapping[tuple[str, str], float]

    def minus(self, other: "Contrast") -> "Contrast":
        """Return this contrast less another one."""
        keys = dict.fromkeys((*self.weights, *other.weights))
        weights = {key: self.weights.get(key, 0.0) - other.weights.get(key, 0.0) for key in keys}
        return Contrast(f"{self.name} - {other.name}", weights)


def change(model: str, after: str = AFTER) -> Contrast:
    """Return what a model gains by the rounds before: after them (the short round) minus alone."""
    name = f"change of {model}" + ("" if after == AFTER else f", {after}")
    return Contrast(name, {(model, after): 1.0, (model, ALONE): -1.0})


def versus(model: str, other: str, protocol: str) -> Contrast:
    """Return one model minus another one under the same protocol."""
    weights = {(model, protocol): 1.0, (other, protocol): -1.0}
    return Contrast(f"{model} - {other}, {protocol}", weights)


def sighted(model: str) -> Contrast:
    """Return what a question's own image adds to a model, against another image."""
    weights = {(model, ALONE): 1.0, (model, OTHER_PICTURE): -1.0}
    return Contrast(f"own picture of {model}", weights)


def misled(model: str) -> Contrast:
    """Return what a wrong reply in the opening round costs a model, against a right one."""
    weights = {(model, WRONG_REPLY): 1.0, (model, TRUE_REPLY): -1.0}
    return Contrast(f"wrong reply of {model}", weights)


def effect_table(
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    contrasts: Sequence[Contrast],
    *,
    resamples: int = 2_000,
) -> pd.DataFrame:
    """Return every contrast of every metric, per seed and over all seeds together (`all`).

    Differences are in points.  A question counts only where it has a value in every part of the
    contrast, so an answer that is unscored on one side is left out of all; `n` counts the rest,
    per part.  Intervals resample images, the same draws for every part.  Contrasts of models or
    protocols that are not there are left out, and those in which no question counts.
    """
    answers = per_answer(verdicts)
    answers = answers.assign(seed=answers.seed.astype(str)).sort_values("seed", kind="stable")
    groups = {metric.name: _by_group(answers, metric) for metric in metrics}
    parts = []
    for contrast, (metric, counted) in product(contrasts, groups.items()):
        if counted.keys() >= contrast.weights.keys():
            sides = [weight * counted[key].top for key, weight in contrast.weights.items()]
            paired = (
                counted[next(iter(contrast.weights))].assign(top=sum(sides)).dropna(subset="top")
            )
            paired = paired.reset_index().assign(metric=metric, contrast=contrast.name)
            parts += [paired, paired.assign(seed="all")]
    by = ["metric", "contrast", "seed"]
    every = stacked(parts, [*by, "image", "top", "bottom"])
    found = ratio_table(every, by, resamples=resamples).rename(columns={"value": "difference"})
    numbers = every.groupby(by, sort=False).size().rename("n").reset_index()
    return found.merge(numbers)[list(COLUMNS)]


def _by_group(answers: pd.DataFrame, metric: Metric) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the answers that a metric has a value for, by model and protocol."""
    counted = weighted(answers, metric)
    counted = counted[counted.bottom > 0].set_index(["seed", "question_id"])
    return dict(iter(counted.groupby(["model", "protocol"])))


def rows_of(effects: pd.DataFrame, contrast: str, metric: str) -> pd.DataFrame:
    """Return the rows of one contrast and metric: one per seed, and `all`."""
    return effects[(effects.contrast == contrast) & (effects.metric == metric)]


def sign(rows: pd.DataFrame) -> int:
    """Return the sign of an effect that is shown, 0 where it is not.

    It is shown when the interval over all seeds excludes 0 and every seed has that sign.
    """
    whole = rows[rows.seed == "all"]
    if whole.empty:
        return 0
    found = 1 if whole.low.iloc[0] > 0 else -1 if whole.high.iloc[0] < 0 else 0
    return found if (rows[rows.seed != "all"].difference * found > 0).all() else 0


def describe(rows: pd.DataFrame, *, unit: str = " points") -> str:
    """Return an effect with its interval and on how many seeds its sign is that of the whole.

    One without a number, since no question has a score in all of its parts, is `not measured`.
    """
    whole, seeds = rows[rows.seed == "all"].iloc[0], rows[rows.seed != "all"]
    if np.isnan(whole.difference):
        return "not measured"
    same = int((seeds.difference * whole.difference > 0).sum())
    on = f", same sign on {same} of {len(seeds)} seeds" if len(seeds) > 1 else ""
    return f"{whole.difference:+.1f}{unit} [{whole.low:+.1f}, {whole.high:+.1f}]{on}"


LAYOUT = change("mix").minus(change("merged"))
ASKED_ALONE = versus("merged", "mix", ALONE)
# What the prompt on terse turns adds to the merge.
INSTRUCTED_ALONE = versus("instructed", "mix", ALONE)
INSTRUCTED_AFTER = versus("instructed", "merged", AFTER)
# In the paper's own dialog the short round comes second, and two open ones follow.
PAPERS_DIALOG = change("mix", FIGURE_1).minus(change("merged", FIGURE_1))


def headline(models: Sequence[str]) -> list[Contrast]:
    """Return the contrasts that notebook 05 reports: changes, their difference, model on model."""
    return [
        *map(change, models),
        LAYOUT,
        change("mix").minus(change("instructed")),
        ASKED_ALONE,
        versus("merged", "mix", AFTER),
        INSTRUCTED_ALONE,
        INSTRUCTED_AFTER,
        versus("merged", "base", AFTER),
        versus("instructed", "base", AFTER),
        *(change(model, FIGURE_1) for model in models),
        PAPERS_DIALOG,
        *map(misled, models),
    ]
