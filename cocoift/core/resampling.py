"""Means over trainings and images, with intervals over both.

Answers about one image are correlated, so images are resampled (bootstrap).  Trainings are few, so
they enter by their variance and a t quantile: the error of a mean over S trainings is
se² = s²(trainings) / S + b², where b is the bootstrap error over images of the trainings' mean.
`tests/bench/coverage.py` says how often the interval holds the truth.
"""

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd

LEVEL = 0.05  # of a test; intervals hold the rest, 95 %


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, the two-sided p of its being 0, and how many trainings."""

    value: float
    low: float
    high: float
    p: float
    trainings: int


def image_draws(
    images: Iterable[str], *, resamples: int, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """Return the distinct images, sorted, and how often each resample draws each of them.

    The draws have the shape (resamples, images).  The same images give the same draws, so that
    differences between numbers are paired.
    """
    names = sorted(set(images))
    if not names:
        return names, np.zeros((resamples, 0), int)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)
    return names, draws.astype(float)


def over_trainings(values: np.ndarray, drawn: np.ndarray) -> Mean:
    """Return the mean of `values` over trainings, and over openings where there are several.

    `values` has the shape (trainings, openings), `drawn` (resamples, trainings, openings): the
    same numbers on resampled images; NaN where a number is missing.  Trainings and openings are
    crossed random factors: se² = s²(trainings' means) / S + s²(openings' means) / O + b², with the
    t quantile of the smaller number of levels less one.  One training and one opening: the
    percentile interval over images, and p from the same resamples.
    """
    cells = np.isfinite(values)
    values, drawn = np.where(cells, values, np.nan), np.where(cells, drawn, np.nan)
    trainings, openings = int(cells.any(1).sum()), int(cells.any(0).sum())
    if not trainings:
        return Mean(*(float("nan"),) * 4, 0)
    value = float(np.nanmean(values))
    usable = drawn[~np.isnan(drawn[:, cells]).any(1)]
    means = usable[:, cells].mean(1)
    if trainings == openings == 1 or len(means) < 2:
        return Mean(value, *interval(means), _p_of_draws(means), trainings)
    levels = [
        np.nanmean(values[cells.any(1)], axis=1),
        np.nanmean(values[:, cells.any(0)], axis=0),
    ]
    varied = [level for level in levels if len(level) > 1]
    error = math.sqrt(sum(level.var(ddof=1) / len(level) for level in varied) + means.var(ddof=1))
    degrees = min(map(len, varied)) - 1
    half = t_quantile(degrees) * error
    p = t_p(value / error, degrees) if error else float(not value)
    return Mean(value, value - half, value + half, p, trainings)


def _p_of_draws(means: np.ndarray) -> float:
    """Return the two-sided p of 0 from resampled values, never less than what they can tell."""
    if not len(means):
        return float("nan")
    beyond = 1 + min((means <= 0).sum(), (means >= 0).sum())
    return min(1.0, 2 * float(beyond) / (1 + len(means)))


def t_p(t: float, degrees: int) -> float:
    """Return the two-sided p of a t statistic."""
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))


def t_quantile(degrees: int) -> float:
    """Return the t beyond which 5 % of the distribution lie, on both sides together."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 1 - LEVEL / 2))


def ratio(
    images: pd.Series,
    top: pd.Series,
    bottom: pd.Series,
    *,
    resamples: int,
    trainings: pd.Series | None = None,
) -> tuple[float, float, float]:
    """Return sum(top) / sum(bottom) and its 95 % interval, a mean `over_trainings`.

    The series have one entry per answer; without `trainings` all answers are of one.  Resamples
    whose `bottom` is 0 do not count; without any that counts there is no number.
    """
    answers = pd.DataFrame({"image": images, "top": top, "bottom": bottom, "of": 0})
    if trainings is not None:
        answers["training"] = trainings
    table = ratio_table(answers, ["of"], resamples=resamples)
    if table.empty:
        return (float("nan"),) * 3
    value, low, high = table.loc[0, ["value", "low", "high"]].astype(float)
    return value, low, high


def ratio_table(
    answers: pd.DataFrame, by: list[str], *, resamples: int, among: Iterable[str] = ()
) -> pd.DataFrame:
    """Return sum(top) / sum(bottom) per group, a mean `over_trainings`, as groups appear.

    `answers` has the columns of `by`, image, top and bottom, and may have `training` and
    `opening`, the random factors of the group's answers.  Images are drawn from those of the
    group, or from those `among` which the answers of all groups are.  Columns: `by`, then the
    fields of `Mean`.
    """
    every, known, rows = sorted(set(among)), {}, []
    names = pd.Index(every or sorted(set(answers.image)))
    numbers = {"image": names.get_indexer(answers.image)} | {
        name: pd.factorize(answers[name])[0] if name in answers else 0
        for name in ("training", "opening")
    }
    table = answers[[*by, "top", "bottom"]].assign(**numbers)
    for key, group in table.groupby(by, sort=False):
        images = len(every) or group.image.nunique()
        if images not in known:
            known[images] = image_draws(map(str, range(images)), resamples=resamples)[1]
        rows.append((*key, *astuple(_ratio(group, known[images], whole=bool(every)))))
    return pd.DataFrame(rows, columns=[*by, *Mean.__dataclass_fields__])


def _ratio(answers: pd.DataFrame, draws: np.ndarray, *, whole: bool) -> Mean:
    """Return sum(top) / sum(bottom) as a mean over trainings and openings, all given as numbers.

    The draws are from the images that the answers have, or from all there are (`whole`).
    """
    places = [np.unique(answers[name], return_inverse=True)[1]
              for name in ("image", "training", "opening")]  # fmt: skip
    places[0] = answers.image.to_numpy() if whole else places[0]
    shape = (draws.shape[1], *(int(place.max(initial=0)) + 1 for place in places[1:]))
    tops, bottoms = np.zeros(shape), np.zeros(shape)
    np.add.at(tops, tuple(places), answers.top.to_numpy(float))
    np.add.at(bottoms, tuple(places), answers.bottom.to_numpy(float))
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = np.tensordot(draws, tops, 1) / np.tensordot(draws, bottoms, 1)
        return over_trainings(tops.sum(0) / bottoms.sum(0), drawn)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values, NaNs left out."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return float("nan"), float("nan")
    low, high = np.quantile(usable, (LEVEL / 2, 1 - LEVEL / 2))
    return float(low), float(high)
