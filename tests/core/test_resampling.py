"""Means over trainings and images: what a hand computes, and how often intervals hold the truth."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cocoift.core.frames import SHARED, trainings
from cocoift.core.resampling import (
    image_draws,
    over_trainings,
    ratio,
    ratio_table,
    t_p,
    t_quantile,
)

IMAGES = [f"{n:03d}.jpg" for n in range(40)]


def rows(values, **columns):
    """Answers with these values (trainings, images), one an image."""
    parts = [
        pd.DataFrame({"image": IMAGES[: len(row)], "training": n, "top": row, "bottom": 1.0})
        for n, row in enumerate(values)
    ]
    return pd.concat(parts, ignore_index=True).assign(of="x", **columns)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 30])
def test_quantile_and_p_of_t_are_scipys(degrees):
    assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees))
    for t in (0.0, 0.7, -3.2, 12.0):
        assert t_p(t, degrees) == pytest.approx(2 * stats.t.sf(abs(t), degrees), abs=1e-12)


def test_the_error_of_a_mean_has_a_part_of_trainings_and_one_of_images():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (3, 1)) + rng.normal(0, 3, 40) + rng.normal(0, 1, (3, 40))
    (found,) = ratio_table(rows(values), ["of"], resamples=4_000).itertuples()
    by_image = values.mean(0)
    error = np.sqrt(values.mean(1).var(ddof=1) / 3 + by_image.var() / 40)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 2) * error, rel=0.03)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(values.mean()) / error, 2), rel=0.1)
    assert found.trainings == 3


def test_openings_are_a_second_factor_with_the_t_of_the_smaller_one():
    rng = np.random.default_rng(1)
    cells = rng.normal(0, 4, (5, 1, 1)) + rng.normal(0, 2, (3, 1)) + rng.normal(0, 1, (5, 3, 40))
    table = pd.concat([rows(cells[:, opening], opening=opening) for opening in range(3)])
    (found,) = ratio_table(table, ["of"], resamples=4_000).itertuples()
    by_training, by_opening = cells.mean((1, 2)), cells.mean((0, 2))
    error = np.sqrt(
        by_training.var(ddof=1) / 5 + by_opening.var(ddof=1) / 3 + cells.mean((0, 1)).var() / 40
    )
    assert found.value == pytest.approx(cells.mean())
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 2) * error, rel=0.03)


def test_one_training_has_the_percentile_interval_over_images():
    table = rows(np.random.default_rng(2).gamma(1, 1, (1, 40)))
    drawn = image_draws(IMAGES, resamples=500)[1] @ table.top / 40
    found = ratio(table.image, table.top, table.bottom, resamples=500, trainings=table.training)
    assert found == pytest.approx((table.top.mean(), *np.quantile(drawn, (0.025, 0.975))))


def test_trainings_that_differ_widen_an_interval_that_images_alone_make_narrow():
    table = rows(np.repeat([[10.0], [30.0], [50.0]], 40, axis=1))
    value, low, high = ratio(table.image, table.top, table.bottom, resamples=50)
    assert (value, low, high) == pytest.approx((30, 30, 30))
    value, low, high = ratio(
        table.image, table.top, table.bottom, resamples=50, trainings=table.training
    )
    assert value == pytest.approx(30) and low < 0 < 60 < high


def test_a_model_that_seeds_share_is_one_training_and_a_tuned_one_is_one_a_seed():
    asked = pd.DataFrame({"protocol": "p", "question_id": ["a", "b"], "words": 9, "score": 0.5})
    parts = [asked.assign(model="base", seed=seed, answer=["red", "blue"]) for seed in (0, 1)]
    parts += [asked.assign(model="mix", seed=seed, answer=["red", str(seed)]) for seed in (0, 1)]
    shuffled = pd.concat(parts).sample(frac=1, random_state=0).reset_index(drop=True)
    found = shuffled.assign(training=trainings(shuffled)).groupby("model").training.agg(set)
    assert found.to_dict() == {"base": {SHARED}, "mix": {"0", "1"}}


@pytest.mark.parametrize("count", [3, 5, 8])
@pytest.mark.parametrize("spread", [(10, 20, 20), (4, 40, 20), (10, 2, 2)])
def test_intervals_hold_the_truth_in_94_of_100_studies(count, spread):
    """Standard deviations over trainings, images and both, in points; the truth is 0."""
    of_trainings, of_images, of_both = spread
    rng, studies = np.random.default_rng(count), 700
    draws = image_draws(IMAGES, resamples=200)[1] / len(IMAGES)
    values = rng.normal(0, of_trainings, (studies, count, 1))
    values = values + rng.normal(0, of_images, (studies, 1, len(IMAGES)))
    values += rng.normal(0, of_both, values.shape)
    drawn = values @ draws.T  # studies, trainings, resamples
    means = [
        over_trainings(of.mean(1)[:, None], again.T[:, :, None])
        for of, again in zip(values, drawn, strict=True)
    ]
    assert np.mean([mean.low <= 0 <= mean.high for mean in means]) >= 0.94
