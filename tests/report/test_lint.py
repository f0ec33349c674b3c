"""Notebook 07's section on what the data file tells beforehand."""

import pandas as pd
import pytest

from cocoift.core.schema import Message, Record
from cocoift.evaluation.ablations import GROUPS, asked_variants, mitigation_variants
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE
from cocoift.lint.cues import Raw
from cocoift.report import lint

ASKED = [
    *asked_variants(
        ["dose", "factors", "layouts", "pretraining", "sources", "images"],
        doses=[0.0, 0.5, 1.0],
        image_counts=[50],
        groups=GROUPS,
    ),
    *mitigation_variants(["mix", "merged", "instructed"]),
]
RAW = {
    each.variant.name: Raw(alone=2.0, after=3.0 + 4 * place, answers=100)
    for place, each in enumerate(
        {each.variant.name: each for each in ASKED if lint.is_data_change(each)}.values()
    )
}


def levels(models, seeds=(0, 1)):
    """Return levels as in notebook 07: 1 + seed alone, after the round 4 points more per model."""
    rows = [
        (model, str(seed), protocol, COLLAPSE, value)
        for place, model in enumerate(models)
        for seed in seeds
        for protocol, value in ((ALONE, 1 + seed), (AFTER, 4 * place + seed))
    ]
    columns = ["model", "seed", "protocol", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def test_only_settings_that_differ_in_their_data_are_arms():
    others = lint.other_changes(ASKED)
    assert {"layouts: merged, turns masked", "cures: history dropped", "images: 0",
            "cures: loss on the last answer", "cures: sentence asked for",
            "pretraining: base, several rounds"} <= set(others)  # fmt: skip
    assert not [name for name in others if name.startswith(("dose", "factors", "sources"))]
    assert {"mix", "merged", "instructed", "first-mixed", "images-50", "apart-long"} <= set(RAW)
    assert not {"base", "last-answer", "merged-masked", "mix-several"} & set(RAW)


def test_an_arm_has_the_mean_over_its_seeds_and_every_ablation_of_its_data():
    table = pd.concat([levels(RAW), levels(["mix"], [0, 1])])  # as two ablations have it
    found = {arm.name: arm for arm in lint.arms(ASKED, table, RAW)}
    assert set(found) == set(RAW)
    mix = found["mix"]
    assert mix.alone == 1.5 and mix.after == 4 * list(RAW).index("mix") + 0.5
    assert mix.ablations == ("dose", "factors", "layouts", "cures")
    assert mix.raw_after == RAW["mix"].after


def test_the_table_has_a_row_per_ablation_and_arm_and_the_figure_one_per_arm():
    table = lint.arm_table(ASKED, lint.arms(ASKED, levels(RAW), RAW))
    assert tuple(table) == lint.COLUMNS
    assert set(table[table.arm == "merged"].ablation) == {
        "dose", "factors", "layouts", "sources", "images", "cures"
    }  # fmt: skip
    assert table.predicted_after.notna().all()
    assert ((table.low <= table.predicted_after) & (table.predicted_after <= table.high)).all()
    scatter, named = lint.arm_figure(table).axes
    assert len(named.get_yticklabels()) == len(RAW)
    assert len(scatter.get_legend().get_texts()) >= 4
    errors = lint.by_ablation(table).set_index("ablation")
    of_dose = table[table.ablation == "dose"]
    expected = (of_dose.predicted_after - of_dose.after).abs().mean()
    assert errors.after["dose"] == pytest.approx(expected)
    assert "rank correlation (Spearman) " in lint.agreement_in_words(table)


def test_with_one_ablation_nothing_is_left_out_and_it_says_so():
    asked = asked_variants(["dose"], doses=[0.0, 0.5, 1.0], image_counts=[], groups={})
    raw = {each.variant.name: Raw(1.0, 2.0, 10) for each in asked}
    table = lint.arm_table(asked, lint.arms(asked, levels(raw), raw))
    assert len(table) == 3 and table.predicted_after.isna().all()
    assert lint.by_ablation(table).empty
    assert "Nothing is left out here: of 3 arms" in lint.agreement_in_words(table)


def test_records_of_other_images_are_not_looked_at():
    said = [Message("human", "<image>\nWhat is it?"), Message("gpt", "A")]
    records = [Record(name, f"{name}.jpg", said, ["s"]) for name in ("one", "two")]
    (found,) = lint.conversations(records, ["two.jpg"])
    assert found.id == "two" and found.images == ("two.jpg",)
    assert (found.rounds[0].question, found.rounds[0].answer) == ("What is it?", "A")
