"""Cue strength: how much an earlier short answer predicts that the next one is short.

A model learns from its data when to be short.  Where the question says so, that is the cue; where
it does not, the answer before can be.  Only turns whose question states no form are compared, after
a short answer with all others (after a full answer, or none), among questions that begin with the
same two words: what the question's own words and the prompt explain is taken out.  The difference
is Mantel and Haenszel's, over those strata (1959; as a difference of risks: Greenland and Robins
1985, Biometrics 41, 55-68), which sparse strata do not spoil and which stays finite where a cell is
empty, as an odds ratio does not.
"""

import msgspec
import numpy as np

from cocoift.core.resampling import t_quantile
from cocoift.lint.wording import SHORT_WORDS

# Groups of conversations for the jackknife: turns of one conversation are not independent.
_GROUPS = 20


class Cue(msgspec.Struct, frozen=True):
    """Percent of unprompted answers that are short, after a short one and otherwise, adjusted.

    `strength` is their difference in points, `low` to `high` its 95 % interval over conversations,
    `turns` those of strata in which both kinds occur; the shares are averages over these strata.
    """

    strength: float
    low: float
    high: float
    after_short: float
    otherwise: float
    turns: int


def cue_strength(turns: np.ndarray, chosen: np.ndarray) -> Cue | None:
    """Return the cue strength of the chosen turns; `None` where nothing can be compared.

    `turns` are all turns in order (`columns.TURN`), `chosen` says which of them count.
    """
    kept = chosen & ~turns["asked"] & (turns["words"] > 0)
    short = turns["words"] <= SHORT_WORDS
    after = np.zeros(len(turns), bool)
    after[1:] = short[:-1] & (turns["record"][1:] == turns["record"][:-1])
    _, stratum = np.unique(turns["beginning"][kept], return_inverse=True)
    group = turns["record"][kept] % _GROUPS
    count = int(stratum.max()) + 1 if len(stratum) else 0
    cell = (((stratum * _GROUPS + group) * 2 + after[kept]) * 2) + short[kept]
    cells = np.bincount(cell, minlength=count * _GROUPS * 4).reshape(count, _GROUPS, 2, 2)
    whole = cells.sum(1)
    both = whole.sum(2).all(1)
    if not both.any():
        return None
    cells, whole = cells[both], whole[both]
    strength, (otherwise, after_short) = _difference(whole)
    left_out = [_difference(whole - cells[:, place])[0] for place in range(_GROUPS)]
    spread = (_GROUPS - 1) / _GROUPS * np.nansum((np.array(left_out) - strength) ** 2)
    half = t_quantile(_GROUPS - 1) * np.sqrt(spread)
    low, high = np.clip([strength - half, strength + half], -100, 100)
    return Cue(strength, float(low), float(high), after_short, otherwise, int(whole.sum()))


def _difference(cells: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the difference in points, and the shares, not after a short answer and after one.

    `cells` counts turns: shape (strata, after a short answer, short).
    """
    sizes = cells.sum(2).astype(float)
    weight = sizes[:, 0] * sizes[:, 1] / np.maximum(sizes.sum(1), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(weight[:, None] > 0, cells[:, :, 1] / sizes, 0.0)
        first, second = (100.0 * (weight @ shares) / weight.sum()).tolist()
    return second - first, (first, second)
