"""Samples that are not random: a number of items, evenly spread over all of them."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return up to `count` of the items in their order, evenly spread over all of them."""
    return [items[place] for place in places(len(items), count)]


def places(total: int, count: int) -> list[int]:
    """Return up to `count` ascending indices below `total` whose distances differ by at most 1."""
    chosen = min(total, count)
    return [number * total // chosen for number in range(chosen)]
