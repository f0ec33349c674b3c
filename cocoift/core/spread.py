"""Even shares that are not random: samples spread over all items, ranges of as many rows."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return up to `count` of the items in their order, evenly spread over all of them."""
    return [items[place] for place in places(len(items), count)]


def places(total: int, count: int) -> list[int]:
    """Return up to `count` ascending indices below `total` whose distances differ by at most 1."""
    chosen = min(total, count)
    return [number * total // chosen for number in range(chosen)]


def id_ranges(ids: Sequence[np.ndarray], *, rows: int) -> list[tuple[int, int]]:
    """Return ranges of ids, as first and last, that hold about `rows` rows each.

    `ids` are the ids of all rows, in any number of arrays.  The ranges depend on the ids alone, not
    on their order or on how they are split.
    """
    if not sum(map(len, ids)):
        return []
    every = np.sort(np.concatenate(ids))
    firsts = np.unique(every[::rows])
    lasts = [*(firsts[1:] - 1), every[-1]]
    return [(int(first), int(last)) for first, last in zip(firsts, lasts, strict=True)]
