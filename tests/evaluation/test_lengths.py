"""Lengths: hand-computed values, scipy on fixed examples, properties."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

from cocoift.evaluation.lengths import (
    collapse_intervals,
    distance_table,
    distinct_n,
    jensen_shannon,
    wasserstein,
)

ONE, OTHER = [1, 1, 2, 8, 8, 8, 30], [1, 3, 3, 9, 12]
COUNTS = st.lists(st.integers(0, 50), min_size=4, max_size=12).filter(any)


def histogram(words):
    return np.bincount(words, minlength=40)


def answers(rows):
    """A table of answers from (model, protocol, image, text) rows; every question is free."""
    table = pd.DataFrame(rows, columns=["model", "protocol", "image", "answer"])
    return table.assign(words=table.answer.str.split().str.len(), free=True, seed="0")


def test_wasserstein_is_scipys_in_words():
    expected = wasserstein_distance(ONE, OTHER)
    assert wasserstein(histogram(ONE), histogram(OTHER)) == pytest.approx(expected)


def test_jensen_shannon_is_scipys_squared_distance_in_bits():
    first, second = histogram(ONE), histogram(OTHER)
    expected = jensenshannon(first, second, base=2) ** 2
    assert jensen_shannon(first, second) == pytest.approx(expected)


def test_a_shift_by_five_words_is_five_words_apart_and_has_no_length_in_common():
    first, second = np.eye(9)[1], np.eye(9)[6]
    assert wasserstein(first, second) == 5
    assert jensen_shannon(first, second) == 1


@given(COUNTS, st.integers(1, 5))
def test_a_distribution_is_at_no_distance_from_itself_however_many_answers_it_has(counts, times):
    shares = np.array(counts)
    assert wasserstein(shares, times * shares) == pytest.approx(0, abs=1e-9)
    assert jensen_shannon(shares, times * shares) == pytest.approx(0, abs=1e-9)


@given(COUNTS, COUNTS)
def test_distances_are_symmetric_and_divergence_is_at_most_one_bit(first, second):
    size = max(len(first), len(second))
    first, second = (np.pad(x, (0, size - len(x))) for x in (first, second))
    assert wasserstein(first, second) == pytest.approx(wasserstein(second, first))
    assert -1e-9 <= jensen_shannon(first, second) <= 1 + 1e-9


def test_distinct_n_counts_different_grams_among_all():
    texts = ["a red cup", "A red car"]
    assert distinct_n(texts, 1) == 4 / 6  # a red cup car
    assert distinct_n(texts, 2) == 3 / 4  # "a red" twice
    assert math.isnan(distinct_n(["red"], 2))


def test_collapse_median_and_one_word_share_are_those_counted_by_hand():
    table = answers([("m", "p", f"i{n}", text) for n, text in enumerate(
        ["red", "a red cup", "there is a red cup", "blue"])])  # fmt: skip
    table.loc[3, "free"] = False  # asked for a word: no collapse, but a length
    (row,) = collapse_intervals(
        table.assign(training="0"), ["model", "protocol"], resamples=200
    ).to_dict("records")
    assert row["n"] == 4 and row["median_words"] == 2 and row["one_word"] == 0.5
    assert row["collapse_rate"] == pytest.approx(100 * 2 / 3)
    assert row["low"] <= row["collapse_rate"] <= row["high"]


def test_answers_that_were_all_asked_for_a_form_have_no_collapse_rate():
    table = answers([("m", "p", "i", "red")]).assign(free=False, training="0")
    (row,) = collapse_intervals(table, ["model"], resamples=50).to_dict("records")
    assert math.isnan(row["collapse_rate"]) and math.isnan(row["low"])


def test_a_distance_has_an_interval_that_widens_with_fewer_pictures():
    rng = np.random.default_rng(0)

    def table(images):
        rows = [
            ("m", protocol, f"i{image}", "word " * int(rng.integers(1, 4) + more))
            for image in range(images)
            for protocol, more in (("alone", 8), ("after", 0))
        ]
        return distance_table(answers(rows), before="alone", after="after", resamples=400)

    few, many = (table(images).set_index("distance").loc["wasserstein"] for images in (5, 200))
    assert few.high - few.low > many.high - many.low > 0
    assert many.value == pytest.approx(8, abs=0.3)
