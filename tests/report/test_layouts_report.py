"""What the mixtures differ in, the four cells of the 2 x 2, and the dose that is half the way."""

import numpy as np
import pandas as pd
import pytest
from kept_turns import IMAGE

from cocoift.merge.export import write_mixture
from cocoift.merge.layouts import LAYOUTS, records
from cocoift.report import layouts

DOSES = (0, 25, 50, 75, 100)


def levels(ablation, rows):
    """Rows (setting, seed, protocol, metric, value) of the table of notebook 07."""
    columns = ["setting", "seed", "protocol", "metric", "value"]
    return pd.DataFrame(rows, columns=columns).assign(ablation=ablation, low=0.0, high=0.0)


def doses(**curves):
    """Levels after the short round: {metric: {seed: values along DOSES}}."""
    return levels("dose", [
        (f"{dose} %", seed, "multi_round", metric, value)
        for metric, by_seed in curves.items()
        for seed, values in by_seed.items()
        for dose, value in zip(DOSES, values, strict=True)
    ])  # fmt: skip


def test_half_of_the_rise_is_interpolated_between_doses_on_every_seed():
    table = doses(collapse={"0": (0, 10, 40, 60, 80), "1": (10, 60, 70, 80, 90),
                            "all": (5, 35, 55, 70, 85)})  # fmt: skip
    found = layouts.dose_points(table, "collapse").set_index("seed").half
    # 40 of 80 at 50 %; 50 lies 40 of 50 on the way from 0 to 25 %; 45 half way from 25 to 50 %.
    assert found.to_dict() == pytest.approx({"0": 50, "1": 20, "all": 37.5})


def test_the_scores_cliff_is_where_it_falls_most_and_is_told_with_the_seeds_that_agree():
    table = doses(collapse={"0": (0, 0, 40, 60, 80), "all": (0, 0, 40, 60, 80)},
                  total={"0": (60, 58, 57, 30, 29), "1": (60, 40, 38, 37, 36),
                         "all": (60, 49, 47.5, 33.5, 32.5)})  # fmt: skip
    text = layouts.dose_sentence(table, "total")
    assert "(+80.0 points) is reached at 50 % of the images, by linear interpolation" in text
    assert "The score falls most from 50 to 75 % (-14.0 points, on 1 of 2 seeds" in text


def test_doses_without_a_change_or_without_two_ends_have_no_half():
    assert layouts.dose_points(doses(collapse={"all": (5, 9, 9, 9, 5)}), "collapse").empty
    one = levels("dose", [("50 %", "all", "multi_round", "collapse", 3.0)])
    assert layouts.dose_points(one, "collapse").empty
    assert layouts.dose_sentence(one, "total") == ""
    missing = doses(collapse={"all": (np.nan, 9, 9, 9, 5)})
    assert layouts.dose_points(missing, "collapse").empty


def factors():
    """The rises of four variants on two seeds."""
    rises = {"first turn, apart": (50, 40), "first turn, mixed": (2, 0),
             "every turn, apart": (9, 5), "every turn, mixed": (0, -2)}  # fmt: skip
    rows = [(cell, seed, protocol, metric, value) for cell, values in rises.items()
            for seed, value in zip(("0", "1", "all"), (*values, sum(values) / 2), strict=True)
            for protocol, metric in (("difference", "collapse"), ("multi_round", "collapse"),
                                     ("difference", "total"))]  # fmt: skip
    return levels("factors", rows)


def test_the_four_cells_are_shown_per_seed_with_their_mean_last():
    table = layouts.cells_by_seed(factors())
    assert table.seed.tolist() == ["0", "1", "all"]
    assert table["first turn, apart"].tolist() == [50, 40, 45]
    assert list(table) == ["seed", "first turn, apart", "first turn, mixed", "every turn, apart",
                           "every turn, mixed"]  # fmt: skip


def test_cells_are_told_by_the_place_of_the_prompt_and_by_mixing():
    rows = layouts.cells(factors())
    assert len(rows) == 12 and set(rows.setting) == {"first turn", "every turn"}
    chosen = rows[(rows.setting == "every turn") & (rows.sources == "apart")]
    assert chosen.value.tolist() == [9, 5, 7]
    none = factors().assign(ablation="dose")
    assert layouts.cells(none).empty and layouts.cells_by_seed(none).empty


def test_the_mixtures_differences_are_counted_and_each_names_the_arm_that_answers(tmp_path):
    for name in ("mix", "merged"):
        made = records([IMAGE], layout=LAYOUTS[name], budget=1000, image_dir="train2017")
        write_mixture(made, tmp_path, name=name)
    labels = {"mix": "LLaVA-style", "merged": "merged"}
    table = layouts.differences(tmp_path, labels, steps=1).set_index("difference")
    # Eight turns: four LLaVA-style records of two, one merged record of eight from four sources.
    assert table.loc["rounds a record", ["LLaVA-style", "merged"]].tolist() == ["2.0", "8.0"]
    assert table.loc["sources a record", ["LLaVA-style", "merged"]].tolist() == ["1.0", "4.0"]
    assert table.loc["records a step", ["LLaVA-style", "merged"]].tolist() == ["4.0", "1.0"]
    assert table["answered for in notebook 07 by"].notna().all()
    assert "tokens read" not in table.index
