"""Effects: paired differences of models and protocols, and differences of such differences.

A conclusion about models rests on one of these with its interval over trainings and images, never
on two intervals side by side.  The headline contrasts were named before the reference run and are
corrected together; all others are exploratory.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from cocoift.core.frames import SHARED, stacked
from cocoift.core.resampling import LEVEL, ratio_table
from cocoift.evaluation.protocols import (
    AFTER,
    ALONE,
    FIGURE_1,
    OTHER_PICTURE,
    TRUE_REPLY,
    WRONG_REPLY,
)
from cocoift.evaluation.score import COLLAPSE, OPEN_SCORE, TOTALS, Metric, per_answer, weighted

COLUMNS = ("metric", "contrast", "seed", "difference", "low", "high", "n", "trainings", "p",
           "family", "holm")  # fmt: skip
HEADLINE, EXPLORATORY = "headline", "exploratory"


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
    """Return every contrast of every metric, per seed and as the mean over all seeds (`all`).

    Differences are in points.  A question counts only where it has a value in every part of the
    contrast, so an answer that is unscored on one side is left out of all; `n` counts the rest,
    per part.  Intervals of a seed are over images, the same draws for every part; those of `all`
    and `p`, two-sided, over `trainings` and images (`resampling.over_trainings`), where models
    that seeds share count once.  With a column `opening` (`with_openings`) answers are paired
    within openings, which are a further random factor.  Every contrast is exploratory until
    `corrected`.  Contrasts of models or protocols that are not there are left out, and those in
    which no question counts.
    """
    answers = per_answer(verdicts)
    answers = answers.assign(seed=answers.seed.astype(str)).sort_values("seed", kind="stable")
    keys = ["seed", "question_id", *(name for name in ("opening",) if name in answers)]
    groups = {metric.name: _by_group(answers, metric, keys) for metric in metrics}
    parts, by = [], ["metric", "contrast", "seed"]
    columns = [*by, "image", "top", "bottom", "training", *keys[2:]]
    for contrast, (metric, counted) in product(contrasts, groups.items()):
        if counted.keys() >= contrast.weights.keys():
            sides = [weight * counted[key].top for key, weight in contrast.weights.items()]
            whose = [counted[key].training for key in contrast.weights]
            training = next((of for of in whose if (of != SHARED).any()), whose[0])
            paired = counted[next(iter(contrast.weights))].assign(top=sum(sides), training=training)
            paired = paired.dropna(subset="top").reset_index()
            paired = paired.assign(metric=metric, contrast=contrast.name)[columns]
            parts += [paired, paired.assign(seed="all")]
    every = stacked(parts, columns)
    found = ratio_table(every, by, resamples=resamples).rename(columns={"value": "difference"})
    numbers = every.groupby(by, sort=False).size().rename("n").reset_index()
    table = found.merge(numbers).assign(family=EXPLORATORY, holm=float("nan"))
    return table[list(COLUMNS)]


def _by_group(
    answers: pd.DataFrame, metric: Metric, keys: Sequence[str]
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the answers that a metric has a value for, by model and protocol."""
    counted = weighted(answers, metric)
    counted = counted[counted.bottom > 0].set_index([*keys])
    return dict(iter(counted.groupby(["model", "protocol"])))


def with_openings(verdicts: pd.DataFrame, openings: Collection[str]) -> pd.DataFrame:
    """Return the verdicts of several openings as one protocol, `AFTER`, told apart by `opening`.

    `openings` are protocols; what was answered alone stands beside each of them.  The table is for
    `effect_table` and `score_table`, whose `all` is then the mean over trainings and openings.
    """
    parts = [
        verdicts[verdicts.protocol.isin([ALONE, name])].assign(opening=name) for name in openings
    ]
    every = pd.concat(parts, ignore_index=True)
    return every.assign(protocol=every.protocol.where(every.protocol == ALONE, AFTER))


def corrected(effects: pd.DataFrame, family: Collection[tuple[str, str]]) -> pd.DataFrame:
    """Return effects of one benchmark with a family of (contrast, metric) called headline.

    `holm` is the p of its members' means over seeds, corrected for each other (Holm 1979, A simple
    sequentially rejective multiple test procedure): the smallest level at which one is shown.
    """
    keys = pd.Series(zip(effects.contrast, effects.metric, strict=True), index=effects.index)
    member = keys.isin(set(family))
    p = effects.p[member & (effects.seed == "all")].dropna().sort_values(kind="stable")
    holm = (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1.0)
    return effects.assign(
        family=effects.family.mask(member, HEADLINE), holm=holm.reindex(effects.index)
    )


def rows_of(effects: pd.DataFrame, contrast: str, metric: str) -> pd.DataFrame:
    """Return the rows of one contrast and metric: one per seed, and `all`."""
    return effects[(effects.contrast == contrast) & (effects.metric == metric)]


def sign(rows: pd.DataFrame) -> int:
    """Return the sign of an effect that is shown, 0 where it is not.

    It is shown when its interval excludes 0 and, for a headline contrast, the corrected test too.
    """
    whole = overall(rows)
    if whole is None:
        return 0
    if whole.get("family") == HEADLINE and not whole.holm < LEVEL:
        return 0
    return 1 if whole.low > 0 else -1 if whole.high < 0 else 0


def overall(rows: pd.DataFrame) -> pd.Series | None:
    """Return the row of an effect over all seeds: `all`, or the only seed's.

    None where it has no number, or several seeds and nothing over them.
    """
    whole = rows[rows.seed == "all"] if (rows.seed == "all").any() else rows
    return whole.iloc[0] if len(whole) == 1 and whole.difference.notna().all() else None


def describe(rows: pd.DataFrame, *, unit: str = " points") -> str:
    """Return an effect with its interval, on how many seeds its sign is that of the mean, and the
    corrected p of a headline contrast.

    One without a number, since no question has a score in all of its parts, is `not measured`.
    """
    whole, seeds = overall(rows), rows[rows.seed != "all"]
    if whole is None:
        return "not measured"
    same = int((seeds.difference * whole.difference > 0).sum())
    on = f", same sign on {same} of {len(seeds)} seeds" if trainings_of(rows) != (1, 1) else ""
    holm = f", Holm p {whole.holm:.2g}" if whole.get("family") == HEADLINE else ""
    return f"{whole.difference:+.1f}{unit} [{whole.low:+.1f}, {whole.high:+.1f}]{on}{holm}"


def trainings_of(rows: pd.DataFrame) -> tuple[int, int]:
    """Return over how few and how many trainings the means of these effects are.

    Tables of earlier versions do not say; there the seeds are counted.
    """
    means = rows[rows.seed == "all"] if (rows.seed == "all").any() else rows
    known = means.trainings[means.difference.notna()].dropna() if "trainings" in means else ()
    if len(known):
        return int(min(known)), int(max(known))
    seeds = max(1, rows.seed[rows.seed != "all"].nunique())
    return seeds, seeds


LAYOUT = change("mix").minus(change("merged"))
ASKED_ALONE = versus("merged", "mix", ALONE)
# What the prompt on terse turns adds to the merge.
INSTRUCTED_ALONE = versus("instructed", "mix", ALONE)
INSTRUCTED_AFTER = versus("instructed", "merged", AFTER)
# In the paper's own dialog the short round comes second, and two open ones follow.
PAPERS_DIALOG = change("mix", FIGURE_1).minus(change("merged", FIGURE_1))


# The contrasts named before the run, on the first benchmark, each with its metrics: `score` is the
# benchmark's own over all questions, `open` that over open questions, `collapse` theirs.
NAMED_BEFORE = (
    (LAYOUT, ("score", OPEN_SCORE, COLLAPSE)),
    (change("mix"), ("score", COLLAPSE)),
    (change("merged"), ("score", COLLAPSE)),
    (ASKED_ALONE, ("score",)),
    (versus("merged", "mix", AFTER), ("score",)),
    (versus("merged", "base", AFTER), ("score",)),
    (INSTRUCTED_AFTER, ("score",)),
)
# A family of its own, of one: notebook 07's interaction of prompts and mixing.
INTERACTION = (("interaction", COLLAPSE),)


def headline_family() -> list[tuple[str, str]]:
    """Return `NAMED_BEFORE` as (contrast, metric), for `corrected`."""
    return [
        (contrast.name, metric)
        for contrast, metrics in NAMED_BEFORE
        for named in metrics
        for metric in (TOTALS if named == "score" else (named,))
    ]


def headline(models: Sequence[str]) -> list[Contrast]:
    """Return all contrasts that notebook 05 reports: changes, their difference, model on model."""
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
