"""Effects: paired, of changes and of differences of changes, over trainings and images."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from cocoift.evaluation.effects import (
    AFTER,
    ALONE,
    ASKED_ALONE,
    COLUMNS,
    INSTRUCTED_AFTER,
    INSTRUCTED_ALONE,
    LAYOUT,
    change,
    corrected,
    describe,
    effect_table,
    headline,
    headline_family,
    rows_of,
    sign,
    versus,
    with_openings,
)
from cocoift.evaluation.score import Metric
from cocoift.report.told import conclusion

QUESTIONS = [str(n) for n in range(40)]
TOTAL = Metric("total", dict.fromkeys(QUESTIONS, 1.0))


def answers(model, protocol, scores, seed=0):
    return pd.DataFrame(
        {"model": model, "seed": seed, "protocol": protocol, "question_id": QUESTIONS,
         "image": [f"{n}.jpg" for n in QUESTIONS], "words": 9, "score": scores, "repeat": 0}
    )  # fmt: skip


def verdicts(alone, after, seeds=(0,), noise=0.0):
    """Return verdicts of models whose means are given per protocol, on the same questions."""
    rng = np.random.default_rng(0)
    easy = rng.uniform(-0.2, 0.2, len(QUESTIONS))
    return pd.concat(
        answers(model, protocol, means[model] + easy + rng.normal(0, noise, len(easy)), seed)
        for protocol, means in ((ALONE, alone), (AFTER, after))
        for model in means
        for seed in seeds
    )


def test_a_change_is_paired_question_by_question():
    table = effect_table(verdicts({"m": 0.5}, {"m": 0.4}), [TOTAL], [change("m")])
    row = table[table.seed == "all"].iloc[0]
    # The same shift everywhere has no variance, however much questions differ.
    assert (row.difference, row.low, row.high) == pytest.approx((-10, -10, -10), abs=1e-6)


def test_the_difference_of_two_changes_is_that_of_a_hand():
    found = verdicts({"mix": 0.5, "merged": 0.45}, {"mix": 0.2, "merged": 0.4})
    table = effect_table(found, [TOTAL], [LAYOUT, ASKED_ALONE, versus("merged", "mix", AFTER)])
    whole = table[table.seed == "all"].set_index("contrast").difference
    assert whole.tolist() == pytest.approx([-30 + 5, -5, 20])


def test_an_answer_that_is_unscored_on_one_side_is_left_out_of_both():
    alone, after = answers("m", ALONE, 0.5), answers("m", AFTER, 0.5)
    alone.loc[0, "score"] = 1.0  # an easy question that only single round has a score for
    after.loc[0, "score"] = None
    row = effect_table(pd.concat([alone, after]), [TOTAL], [change("m")]).iloc[-1]
    assert (row.difference, row.n) == (0.0, 39)


def test_two_significances_side_by_side_decide_nothing():
    # One change is beyond its interval, the other is not; they are the same but for a hair.
    rng = np.random.default_rng(3)
    found = verdicts({"mix": 0.5, "merged": 0.5}, {"mix": 0.45, "merged": 0.454})
    found["score"] += rng.normal(0, 0.1, len(found))
    table = effect_table(found, [TOTAL], headline(["mix", "merged"]))
    assert sign(rows_of(table, LAYOUT.name, "total")) == 0
    assert "costs either of the two tuned models more is not shown" in conclusion(table, "total")


def effects(layout, alone=(1.0, -2.0, 4.0), seeds=()):
    """Return a table that holds the two contrasts of the conclusion: value, low, high."""
    rows = [
        ("total", name, seed, *values)
        for name, (value, low, high) in ((LAYOUT.name, layout), (ASKED_ALONE.name, alone))
        for seed, values in (
            *((str(n), (level, level, level)) for n, level in enumerate(seeds or (value,))),
            ("all", (value, low, high)),
        )
    ]
    return pd.DataFrame(rows, columns=["metric", "contrast", "seed", "difference", "low", "high"])


@pytest.mark.parametrize(
    ("layout", "seeds", "expected"),
    [
        ((-20, -26, -14), (-20,), "costs the model tuned on the LLaVA-style mixture more"),
        ((-20, -26, -14), (-30, -10), "costs the model tuned on the LLaVA-style mixture more"),
        ((-20, -44, 4), (-41, 1), "costs either of the two tuned models more is not shown"),
        ((-3, -7, 1), (-3,), "costs either of the two tuned models more is not shown"),
        ((20, 14, 26), (20,), "the opposite of the paper"),
    ],
)
def test_the_conclusion_needs_the_interval_over_trainings(layout, seeds, expected):
    assert expected in conclusion(effects(layout, seeds=seeds), "total")


@pytest.mark.parametrize(
    ("alone", "expected"),
    [((5, 2, 8), "is better than"), ((-5, -8, -2), "is worse than"),
     ((1, -2, 4), "is not shown to differ from")],
)  # fmt: skip
def test_the_conclusion_tells_what_the_models_do_asked_alone(alone, expected):
    assert f"In single round, the merged mixture {expected}" in conclusion(
        effects((-20, -26, -14), alone), "total"
    )


def test_the_conclusion_tells_what_prompting_terse_turns_adds():
    rows = [("total", contrast.name, seed, *values, 40)
            for contrast, values in ((INSTRUCTED_ALONE, (1, -2, 4)), (INSTRUCTED_AFTER, (6, 3, 9)))
            for seed in ("0", "all")]  # fmt: skip
    table = pd.concat([effects((-20, -26, -14)), pd.DataFrame(rows, columns=list(COLUMNS[:7]))])
    assert "The instructed mixture is, in single round, not shown to differ from" in (
        text := conclusion(table, "total")
    )
    assert (
        "after the short-answer round, better than the merged one (+6.0 points [+3.0, +9.0])"
        in text
    )
    assert "instructed" not in conclusion(effects((-20, -26, -14)), "total")


def test_an_effect_is_told_with_the_seeds_that_share_its_sign():
    rows = rows_of(effects((-20.0, -26.0, -14.0), seeds=(-30, 4, -9)), LAYOUT.name, "total")
    assert describe(rows) == "-20.0 points [-26.0, -14.0], same sign on 2 of 3 seeds"


def test_contrasts_of_absent_models_are_left_out():
    table = effect_table(verdicts({"base": 0.5}, {"base": 0.4}), [TOTAL], headline(["base"]))
    assert set(table.contrast) == {"change of base"}
    assert conclusion(table, "total") == ""


def test_an_effect_without_a_number_is_not_measured():
    missing = dict.fromkeys(["difference", "low", "high"], float("nan"))
    rows = pd.DataFrame({"seed": ["0", "all"], **missing})
    assert (describe(rows), sign(rows)) == ("not measured", 0)


def shifted(model, protocol, shifts, answer=""):
    """Verdicts of trainings whose scores are 0.5 plus a shift each, question by question alike."""
    return [
        answers(model, protocol, 0.5 + shift, seed).assign(answer=answer or f"{seed}")
        for seed, shift in enumerate(shifts)
    ]


def test_trainings_that_differ_are_no_effect_however_sure_each_one_is():
    shifts = (-0.4, 0.1, 0.0)
    table = pd.concat([*shifted("m", ALONE, (0, 0, 0)), *shifted("m", AFTER, shifts)])
    rows = effect_table(table, [TOTAL], [change("m")]).set_index("seed")
    assert rows.difference.to_dict() == pytest.approx({"0": -40, "1": 10, "2": 0, "all": -10})
    # Every question shifts alike, so images say nothing: t with two degrees over the shifts.
    half = stats.t.ppf(0.975, 2) * np.std([-40, 10, 0], ddof=1) / 3**0.5
    assert rows.high["all"] - rows.difference["all"] == pytest.approx(half)
    p = stats.ttest_1samp([-40, 10, 0], 0).pvalue
    assert rows.p["all"] == pytest.approx(p) and rows.trainings["all"] == 3
    assert (rows.low["0"], rows.high["0"]) == pytest.approx((-40, -40))


def test_a_base_that_seeds_share_counts_once_alone_and_not_beside_a_tuned_model():
    base = [*shifted("base", ALONE, (0, 0, 0), "a"), *shifted("base", AFTER, (-0.1,) * 3, "b")]
    table = pd.concat([*base, *shifted("merged", AFTER, (0.1, 0.2, 0.3))])
    found = effect_table(table, [TOTAL], [change("base"), versus("merged", "base", AFTER)])
    whole = found[found.seed == "all"].set_index("contrast")
    assert whole.trainings.to_dict() == {"change of base": 1, "merged - base, multi_round": 3}
    assert whole.n.tolist() == [120, 120]


def test_openings_are_paired_within_themselves_and_a_factor_of_their_own():
    parts = shifted("m", ALONE, (0, 0))
    for opening, shift in (("opening_1", -0.1), ("opening_2", -0.3)):
        parts += shifted("m", opening, (shift, shift - 0.1))
    table = with_openings(pd.concat(parts), ["opening_1", "opening_2"])
    rows = effect_table(table, [TOTAL], [change("m")]).set_index("seed")
    assert rows.difference.to_dict() == pytest.approx({"0": -20, "1": -30, "all": -25})
    error = (np.var([-20, -30], ddof=1) / 2 + np.var([-15, -35], ddof=1) / 2) ** 0.5
    assert rows.high["all"] + 25 == pytest.approx(stats.t.ppf(0.975, 1) * error)


def test_headline_contrasts_are_corrected_for_each_other_and_others_are_exploratory():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "other": 0.001}
    rows = [("total", name, seed, 5.0, 1.0, 9.0, 9, 3, value, "exploratory", float("nan"))
            for name, value in p.items() for seed in ("0", "all")]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    found = corrected(table, [(name, "total") for name in ("a", "b", "c", "absent")])
    whole = found[found.seed == "all"].set_index("contrast")
    # By hand: 3 * 0.01, 2 * 0.03, and 0.04, which may not be smaller than the one before.
    assert whole.holm.dropna().to_dict() == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert whole.family.to_dict() == {**dict.fromkeys("abc", "headline"), "other": "exploratory"}
    shown = {name: sign(rows_of(found, name, "total")) for name in p}
    assert shown == {"a": 1, "b": 0, "c": 0, "other": 1}


def test_the_headline_family_is_about_ten_contrasts_that_notebook_05_measures():
    named, measured = headline_family(), {c.name for c in headline(["base", "mix", "merged",
                                                                     "instructed"])}  # fmt: skip
    assert {contrast for contrast, _ in named} <= measured
    # A benchmark has one of the two names of its whole score.
    assert len([1 for _, metric in named if metric != "overall"]) == 11
