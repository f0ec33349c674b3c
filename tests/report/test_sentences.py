"""No sentence claims more than the corrected interval, and every number in one is the table's."""

import re

import numpy as np
import pandas as pd
import pytest

from cocoift.evaluation import effects
from cocoift.report import histories
from cocoift.report.plain import bullets
from cocoift.report.tables import LABELS
from cocoift.report.told import bias_answer, conclusion, finding, told
from cocoift.report.verdicts import CLAIMS as EXPECTED
from cocoift.report.verdicts import REPRODUCED, verdict

NAMES = [contrast.name for contrast in effects.headline(("base", "mix", "merged", "instructed"))]
METRICS = ("total", "open", "collapse", "obedience")
CLAIMS = re.compile(
    r"\b(lower|higher|better|worse|rises with|clear|clearly|decides|costs the model|is shown)\b"
)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:\.\d+)?(?:e-\d+)?")
# Random effect tables: from none to all of their effects hold 0.
TABLES = pytest.mark.parametrize("seed", range(10))


def random_table(seed, *, changes=False):
    """Return effects as `effect_table` leaves them, with any intervals, p and families.

    A further column `zero` says whether interval or corrected test hold 0.
    """
    rng = np.random.default_rng(seed)
    pairs = {(effects.LAYOUT.name, "total"), (effects.ASKED_ALONE.name, "total")}
    pairs |= {(str(rng.choice(NAMES)), str(rng.choice(METRICS))) for _ in range(10)}
    if changes:
        pairs |= {("change of mix", "total"), ("change of merged", "total")}
    rows, wide = [], rng.choice([0.2, 1, 4])
    for contrast, metric in sorted(pairs):
        value, seeds, p = rng.normal(0, 20), int(rng.integers(1, 9)), 10 ** rng.uniform(-5, 0)
        low, high = value - rng.exponential(20 * wide), value + rng.exponential(20 * wide)
        headline = rng.random() < 0.5
        family = effects.HEADLINE if headline else effects.EXPLORATORY
        holm = min(1.0, p * rng.integers(1, 12)) if headline else None
        rows += [(metric, contrast, str(n), value + rng.normal(0, 20), low, high, 9, 1, p, family,
                  None) for n in range(seeds)]  # fmt: skip
        rows.append((metric, contrast, "all", value, low, high, 9 * seeds, seeds, p, family, holm))
    table = pd.DataFrame(rows, columns=list(effects.COLUMNS)).astype({"holm": float})
    return table.assign(zero=holds_zero(table))


def holds_zero(table):
    """Return, for each row, whether its interval or its corrected test holds 0."""
    inside = (table.low <= 0) & (table.high >= 0)
    return inside | ((table.family == effects.HEADLINE) & ~(table.holm < 0.05))


def sentences(table):
    """Return everything that is told of a table."""
    scores = pd.DataFrame({"benchmark": ["b"], "model": "mix", "seed": "all", "value": 50.0,
                           "n": 40, "protocol": "single_round", "metric": "total",
                           "judge": "j"})  # fmt: skip
    found = finding(scores, table.assign(benchmark="b"), labels=LABELS)
    texts = [told(table), told(table, brief=True), conclusion(table, "total")]
    return [*texts, found["conclusion"]] if found else texts


def rise(table):
    """Return notebook 06's sentence on which models' collapse rises."""
    nothing = pd.DataFrame({"protocol": [], "model": []})
    return bias_answer(nothing, table, *[nothing.head(0)] * 3, labels=LABELS)


@TABLES
def test_nothing_is_claimed_where_every_corrected_interval_holds_zero(seed):
    table = random_table(seed)
    whole = table[table.seed == "all"]
    unclear = whole[holds_zero(whole)]
    keys = set(zip(unclear.contrast, unclear.metric, strict=True))
    held = table[[key in keys for key in zip(table.contrast, table.metric, strict=True)]]
    for text in (*sentences(held), rise(held)):
        assert not CLAIMS.search(text.replace("no rise is shown", "")), text


@TABLES
def test_what_is_told_of_a_metric_is_what_its_corrected_interval_says(seed):
    table = random_table(seed)
    whole = table[table.seed == "all"]
    for zero, row in zip(holds_zero(whole), whole.itertuples(), strict=True):
        line = told(effects.rows_of(table, row.contrast, row.metric)).splitlines()[0]
        claim = "no difference shown in" if zero else "higher" if row.low > 0 else "lower"
        assert f": {claim} " in line and len(CLAIMS.findall(line)) == (not zero)
        if row.contrast.startswith("change of ") and row.metric == "collapse":
            label = LABELS.get(row.contrast.removeprefix("change of "), "no label")
            assert not zero or label not in rise(table)


@TABLES
def test_a_conclusion_says_of_two_models_what_their_contrast_shows(seed):
    table = random_table(seed)
    text, whole = conclusion(table, "total"), table[(table.seed == "all")]
    zero = dict(zip(zip(whole.contrast, whole.metric, strict=True), holds_zero(whole), strict=True))
    assert ("costs either of the two" in text) == zero[effects.LAYOUT.name, "total"]
    alone = "In single round, the merged mixture is not shown to differ"
    assert (alone in text) == zero[effects.ASKED_ALONE.name, "total"]


@TABLES
def test_every_number_in_a_sentence_is_one_of_the_table(seed):
    table = random_table(seed)
    rows, seeds = table[table.seed == "all"], table[table.seed != "all"]
    known = {f"{value:+.1f}" for name in ("difference", "low", "high") for value in rows[name]}
    known |= {f"{value:.2g}" for value in rows.holm.dropna()} | {"95"}
    known |= {str(value) for value in rows.trainings}
    both = seeds.merge(rows, on=["contrast", "metric"])
    same = both.difference_x * both.difference_y > 0
    known |= {str(count) for count in same.groupby([both.contrast, both.metric]).sum()}
    for text in sentences(table):
        assert not set(NUMBER.findall(text)) - known, text


@TABLES
def test_plain_words_say_loses_or_gains_where_that_is_shown(seed):
    table = random_table(seed, changes=True).assign(benchmark="b")
    rows = [("b", model, of, protocol, "total", 50.0)
            for model in ("mix", "merged") for of in ("0", "all")
            for protocol in ("single_round", "multi_round")]  # fmt: skip
    columns = ["benchmark", "model", "seed", "protocol", "metric", "value"]
    texts = bullets(pd.DataFrame(rows, columns=columns), table)
    for contrast, text in zip(("change of mix", "change of merged"), texts, strict=False):
        (row,) = effects.rows_of(table[table.seed == "all"], contrast, "total").itertuples()
        moved = "no change is shown" if row.zero else "gains" if row.low > 0 else "loses"
        assert moved in text and len(re.findall("no change is shown|gains|loses", text)) == 1


@TABLES
def test_a_verdict_that_a_direction_holds_rests_on_an_effect_that_is_shown(seed):
    table = random_table(seed).assign(benchmark="b")
    claims = [claim for claim in EXPECTED[4] if claim.expected == "lower"]
    word, (found,) = verdict(claims, {"effects": table})
    (row,) = effects.rows_of(table[table.seed == "all"], effects.LAYOUT.name, "total").itertuples()
    assert found[1] == (not row.zero and row.high < 0)
    assert (word == REPRODUCED) == found[1]


@TABLES
def test_the_kinds_of_test_are_told_apart_by_what_is_shown(seed):
    table = random_table(seed)
    for contrast, metric in table[["contrast", "metric"]].drop_duplicates().itertuples(index=False):
        rows = effects.rows_of(table, contrast, metric)
        (row,) = rows[rows.seed == "all"].itertuples()
        text = histories.tests_sentence(
            rows.assign(contrast="merged - mix, multi_round", setting="s")
        )
        found = "not shown to differ" if row.zero else "better" if row.low > 0 else "worse"
        assert f"s: {found} (" in text


def test_the_claims_that_are_looked_for_are_those_that_sentences_make():
    row = ("total", effects.LAYOUT.name, "all", -20.0, -24.0, -16.0, 9, 3, 0.01, "exploratory")
    table = pd.DataFrame([(*row, None)], columns=list(effects.COLUMNS)).astype({"holm": float})
    assert CLAIMS.search(told(table)) and CLAIMS.search(conclusion(table, "total"))
    weak = table.assign(family="headline", holm=0.06)
    assert not CLAIMS.search(told(weak)) and not CLAIMS.search(conclusion(weak, "total"))


def test_seeds_without_anything_over_all_of_them_are_not_measured_over_all():
    rows = [("total", "change of mix", seed, 5.0, 3.0, 7.0, 9, 1, 0.01, "exploratory", None)
            for seed in ("0", "1")]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(effects.COLUMNS))
    assert "not measured: score" in told(table)
    assert "higher score (+5.0 points [+3.0, +7.0])" in told(table.head(1))
