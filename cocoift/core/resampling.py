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
    return names, rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)


def ratio_interval(
    images: pd.Series, top: pd.Series, bottom: pd.Series, *, resamples: int
) -> tuple[float, float]:
    """Return the 95 % interval of sum(top) / sum(bottom) over resampled images.

    The series have one entry per answer; resamples whose `bottom` is 0 do not count.
    """
    if not len(images):
        return float("nan"), float("nan")
    sums = pd.DataFrame({"top": top, "bottom": bottom}).groupby(images).sum()
    _, draws = image_draws(sums.index, resamples=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        return interval((draws @ sums.top.to_numpy()) / (draws @ sums.bottom.to_numpy()))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of resampled values, NaNs left out."""
    usable = values[~np.isnan(values)]
    if not len(usable):
        return float("nan"), float("nan")
    low, high = np.quantile(usable, (0.025, 0.975))
    return float(low), float(high)
