"""What is told, shown and listed of forced choices."""

import re
from itertools import product

import pandas as pd

from cocoift.evaluation.choice import choice_effects, choice_table
from cocoift.evaluation.effects import change
from cocoift.report import bias as report
from cocoift.report.study_figures import knows_and_says
from cocoift.report.tables import PROTOCOLS
from cocoift.report.told import bias_answer, choice_answer

LABELS = {"mix": "LLaVA-style mixture", "merged": "merged mixture"}


def choices(first, words, *, seeds=(0,), other=25):
    """Forced choices of 40 items: percent first alone and after, own words alone and after."""
    rows = []
    for model, shares in first.items():
        shown = {"single_round": shares[0], "multi_round": shares[1], "other_picture": other}
        said = dict(zip(shown, (*words[model], float("nan")), strict=True))
        for seed, (protocol, share), n in product(seeds, shown.items(), range(40)):
            truth = -1.0 - seed / 10 if n < share * 40 / 100 else -9.0
            rows.append(
                (model, seed, protocol, f"q{n}", f"i{n}", said[protocol], truth, -5, -6, -7)
            )
    columns = ["model", "seed", "protocol", "question_id", "image", "words", "truth"]
    return pd.DataFrame(rows, columns=[*columns, "colour", "place", "object"])


def known(table):
    """What is told of forced choices."""
    contrasts = [change(name) for name in table.model.unique()]
    effects = choice_effects(table, contrasts, resamples=200)
    return choice_answer(choice_table(table, resamples=200), effects, labels=LABELS)


def test_a_collapsed_model_that_ranks_the_truth_first_knows_more_than_it_says():
    first = {"mix": (90, 80), "merged": (95, 95)}
    text = known(choices(first, {"mix": (9, 1), "merged": (9, 9)}))
    assert "(chance 25 %)" in text and "With another image: 25 to 25 %." in text
    assert re.search(r"LLaVA-style mixture 90 → 80 % \(-10\.0 points \[-2", text)
    assert "merged mixture 95 → 95 % (+0.0 points" in text
    assert re.search(r"LLaVA-style mixture answers 0 → 100 % .* first in 80 % \[\d+, \d+\] ", text)
    assert "it knows more than it says." in text and "merged mixture answers" not in text
    assert text.endswith("one training, 95 % intervals over images.")


def test_one_that_guesses_is_not_said_to_know_nor_one_that_another_picture_serves_as_well():
    text = known(choices({"mix": (90, 30)}, {"mix": (9, 1)}))
    assert "no more than guessing is shown." in text
    text = known(choices({"mix": (90, 80)}, {"mix": (9, 1)}, other=80))
    assert "no more than guessing is shown." in text


def test_choices_of_models_that_do_not_collapse_are_told_without_that():
    text = known(choices({"mix": (90, 90)}, {"mix": (9, 9)}, seeds=(0, 1)))
    assert "None collapses." in text and "means over 2 trainings" in text


def test_where_no_rise_is_shown_the_model_that_collapses_most_is_told_of():
    """One of two seeds collapses whole, the other not at all: the interval holds zero."""
    first = {"mix": (90, 90), "merged": (90, 90)}
    table = choices(first, {"mix": (9, 9), "merged": (9, 9)}, seeds=(0, 1))
    after = table.protocol.eq("multi_round")
    table.loc[after & table.model.eq("mix") & table.seed.eq(1), "words"] = 1
    table.loc[after & table.model.eq("merged") & table.question_id.eq("q0"), "words"] = 1
    text = known(table)
    assert "LLaVA-style mixture answers 0 → 50 %" in text and "merged mixture answers" not in text


def test_the_answer_holds_what_was_chosen_and_nothing_where_nothing_was():
    empty = [pd.DataFrame()] * 2
    assert choice_answer(*empty, labels=LABELS) == ""
    told_of = known(choices({"mix": (90, 80)}, {"mix": (9, 1)}))
    lengths, *nothing = [pd.DataFrame({"protocol": [], "model": []})] * 4
    text = bias_answer(lengths, pd.DataFrame(), *nothing, labels=LABELS, known=told_of)
    assert f"- {told_of}" in text.splitlines()


def test_the_table_of_ranks_has_a_row_per_model_and_protocol():
    table = choice_table(choices({"mix": (90, 80)}, {"mix": (9, 1)}), resamples=200)
    shown = report.ranked(table).set_index("protocol")
    assert list(shown.columns)[1:] == ["truth_first", "low", "high", "colour", "place", "object",
                                       "collapse", "known_unsaid"]  # fmt: skip
    assert shown.truth_first.to_dict() == {"single_round": 90, "multi_round": 80,
                                           "other_picture": 25}  # fmt: skip
    assert shown.known_unsaid["multi_round"] == 80 and pd.isna(shown.collapse["other_picture"])


def test_the_figure_shows_says_beside_knows_with_the_mark_of_chance():
    table = choice_table(choices({"mix": (90, 80)}, {"mix": (9, 1)}), resamples=200)
    figure = knows_and_says(table, models=LABELS, protocols=PROTOCOLS)
    says, knows = figure.axes
    assert [text.get_text() for text in knows.texts] == ["chance"]
    assert 25 in [line.get_xdata()[0] for line in knows.lines if len(line.get_xdata()) == 2]
    assert [label.get_text().replace("\n", " ") for label in says.get_yticklabels()] == [
        "single-round", "after one short-answer round", "single-round, another image",
    ]  # fmt: skip
