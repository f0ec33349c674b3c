from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.tuning.batches import PlannedBatches, plan_batches

lengths = st.lists(st.integers(1, 400), min_size=40, max_size=200)


@given(lengths, st.integers(1, 10), st.integers(1, 2), st.integers(1, 2), st.integers(0, 5))
def test_every_sample_trains_once_an_epoch_in_batches_that_fit(sizes, steps, procs, epochs, seed):
    plan = plan_batches(
        sizes, steps=steps, batch_tokens=4_000, seed=seed, processes=procs, epochs=epochs
    )
    counts = Counter(number for batch in plan.batches for number in batch)
    assert counts == dict.fromkeys(range(len(sizes)), epochs)
    assert len(plan.batches) == steps * procs * plan.accumulation
    padded = [len(batch) * max(sizes[n] for n in batch) for batch in plan.batches]
    assert max(padded) == plan.largest <= 4_000
    assert sum(padded) == plan.padded_tokens
    assert plan.waste == pytest.approx(sum(padded) / (epochs * sum(sizes)) - 1)


@given(lengths, st.integers(0, 5))
def test_the_largest_batch_comes_first_so_that_memory_fails_at_once(sizes, seed):
    plan = plan_batches(sizes, steps=5, batch_tokens=2_000, seed=seed)
    assert len(plan.batches[0]) * max(sizes[n] for n in plan.batches[0]) == plan.largest


@given(lengths)
def test_a_plan_depends_on_its_seed_only(sizes):
    first, second = (plan_batches(sizes, steps=5, batch_tokens=2_000, seed=3) for _ in range(2))
    assert first == second


def test_mixtures_of_different_record_counts_get_the_same_steps_and_little_padding():
    rng = np.random.default_rng(0)
    merged = rng.normal(530, 120, 700).clip(100, 1_000).astype(int)
    mix = rng.lognormal(4.2, 0.5, 6_000).clip(20, 600).astype(int)
    for sizes in (merged, mix):
        plan = plan_batches(sizes, steps=233, batch_tokens=1_300, seed=0)
        assert len(plan.batches) // plan.accumulation == 233
        assert plan.waste < 0.1


def test_epochs_do_not_run_through_the_lengths_in_order():
    sizes = list(range(100, 700))
    plan = plan_batches(sizes, steps=150, batch_tokens=3_000, seed=0)
    means = [np.mean([sizes[n] for n in batch]) for batch in plan.batches]
    assert abs(np.corrcoef(range(len(means)), means)[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([], {}, "no samples to train on"),
        ([10, 5_000], {}, r"a sample of 5,000 tokens exceeds batch_tokens 1,000; raise"),
        ([10, 10], {"steps": 3}, r"2 samples cannot fill 3 batches; train for fewer steps"),
    ],
)
def test_what_cannot_be_planned_is_told_with_its_knob(sizes, options, message):
    with pytest.raises(DataError, match=message):
        plan_batches(sizes, **{"steps": 1, "batch_tokens": 1_000, "seed": 0} | options)


def test_a_process_holds_the_samples_of_its_own_batches_alone():
    batches, samples = [[0, 3], [1], [2], [4, 5]], [object() for _ in range(6)]
    shares = [PlannedBatches(batches, samples, rank=rank, processes=2) for rank in range(2)]
    assert [set(share.samples) for share in shares] == [{0, 2, 3}, {1, 4, 5}]
    # As accelerate hands them out, to processes in turn.
    for place, numbers in enumerate(batches):
        assert shares[place % 2][place] == [samples[number] for number in numbers]
