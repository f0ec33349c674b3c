"""Effects in words: what is clear, what is not, and what was not measured."""

import pandas as pd
import pytest

from cocoift.evaluation.score import SCORE_COLUMNS
from cocoift.report.tables import LABELS, in_words
from cocoift.report.told import NOT_MEASURED, finding, told

COLUMNS = ["metric", "contrast", "seed", "difference", "low", "high"]


def effect(contrast, value, half, metric="collapse", seeds=None):
    """Rows of one contrast: value and half the width of the interval; every seed has the value."""
    each = [(metric, contrast, str(n), v, v, v) for n, v in enumerate(seeds or [value])]
    whole = (metric, contrast, "all", value, value - half, value + half)
    return pd.DataFrame([*each, whole], columns=COLUMNS)


def lines_of(effects, **how):
    """Return the lines of what is told, without the last paragraph: what intervals are over."""
    return told(effects, **how).split("\n\n")[0].splitlines()


def test_a_line_tells_direction_size_interval_and_seeds_of_every_metric():
    change = "change of mix"
    rows = [
        effect(change, -20, 4, "total", seeds=[-18, -22]),
        effect(change, 42, 3, seeds=[40, 44]),
        effect(change, 1, 2, "obedience", seeds=[3, -1]),
    ]
    assert told(pd.concat(rows)) == (
        "- **change of LLaVA-style**: "
        "lower score (-20.0 points [-24.0, -16.0], same sign on 2 of 2 seeds); "
        "higher collapse (+42.0 points [+39.0, +45.0], same sign on 2 of 2 seeds); "
        "no difference shown in short-answer compliance "
        "(+1.0 points [-1.0, +3.0], same sign on 1 of 2 seeds).\n\n"
        "*Exploratory; means over 2 trainings, 95 % intervals over trainings and images.*"
    )


def test_what_is_told_follows_the_interval_of_the_paired_difference():
    assert "lower collapse" in told(effect("sentence - short", -10, 3))
    assert "no difference shown in collapse" in told(effect("sentence - short", -10, 20))
    assert "no difference shown in collapse" in told(effect("a", -20, 26, seeds=[-41, 1]))


def test_contrasts_keep_their_order_and_unclear_ones_are_named_together_in_brief():
    table = pd.concat([effect("without b", 1, 2), effect("without a", 9, 2), effect("c", 0, 1)])
    lines = lines_of(table)
    assert [line.split("**")[1] for line in lines] == ["without b", "without a", "c"]
    assert lines_of(table, brief=True) == [
        lines[1], "- No difference shown: without b; c."]  # fmt: skip


def test_what_has_no_number_or_no_row_is_not_measured():
    none = effect("change of mix", float("nan"), 1, "total")
    text = told(pd.concat([none, effect("change of mix", 9, 1)]))
    assert "not measured: score." in text and "nan" not in text
    assert told(none.head(0)) == NOT_MEASURED


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("merged - base, multi_round", "merged minus base model, after one short-answer round"),
        ("change of mix, figure_1", "change of LLaVA-style, after the paper's dialog"),
        ("change of my-base", "change of my-base"),
        ("without mixed chats", "without mixed chats"),
    ],
)
def test_keys_are_shown_in_words_and_names_stay(name, expected):
    assert in_words(name) == expected


def test_scores_without_rows_are_no_finding():
    scores = pd.DataFrame(columns=[*SCORE_COLUMNS, "benchmark", "judge"])
    assert finding(scores, pd.DataFrame(columns=["benchmark", *COLUMNS]), labels=LABELS) is None
