from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.spread import places, spread


@given(st.integers(0, 3_000), st.integers(0, 3_000))
def test_a_sample_reaches_from_the_first_item_to_the_last_at_even_distances(total, count):
    chosen = places(total, count)
    assert len(chosen) == min(total, count)
    if chosen:
        assert chosen[0] == 0
        distances = {after - before for before, after in pairwise([*chosen, total])}
        assert distances <= {total // len(chosen), -(-total // len(chosen))}


def test_more_than_half_of_the_items_are_not_the_first_of_them():
    assert spread("abcde", 3) == ["a", "b", "d"]
    assert spread(range(280), 150)[-1] == 278
