"""The bootstrap over images: answers about one image are correlated, so images are resampled."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


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


def ratio(
    images: pd.Series, top: pd.Series, bottom: pd.Series, *, resamples: int
) -> tuple[float, float, float]:
    """Return sum(top) / sum(bottom) and its 95 % interval over resampled images.

    The series have one entry per answer.  Resamples whose `bottom` is 0 do not count; without any
    that counts there is no number.
    """
    return _ratio(images, top, bottom, *image_draws(images, resamples=resamples))


def ratio_table(
    answers: pd.DataFrame, by: list[str], *, resamples: int, among: Iterable[str] = ()
) -> pd.DataFrame:
    """Return `ratio` per group, in the order in which groups appear: `by`, value, low, high.

    `answers` has the columns of `by`, image, top and bottom.  Images are drawn from those of the
    group, or from those `among` which the answers of all groups are.
    """
    every, known, rows = frozenset(among), {}, []
    for key, group in answers.groupby(by, sort=False):
        images = every or frozenset(group.image)
        if images not in known:
            known[images] = image_draws(images, resamples=resamples)
        rows.append((*key, *_ratio(group.image, group.top, group.bottom, *known[images])))
    return pd.DataFrame(rows, columns=[*by, "value", "low", "high"])


def _ratio(
    images: pd.Series, top: pd.Series, bottom: pd.Series, names: list[str], draws: np.ndarray
) -> tuple[float, float, float]:
    places = pd.Index(names).get_indexer(images)
    tops, bottoms = (
        np.bincount(places, part.to_numpy(float), minlength=len(names)) for part in (top, bottom)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (draws @ tops) / (draws @ bottoms)
        return float(tops.sum() / bottoms.sum()), *interval(drawn)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values, NaNs left out."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return float("nan"), float("nan")
    low, high = np.quantile(usable, (0.025, 0.975))
    return float(low), float(high)
