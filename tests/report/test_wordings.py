import pandas as pd
import pytest

from cocoift.evaluation.score import Metric
from cocoift.report import evaluation, study_figures
from cocoift.report.told import told

TOTAL = Metric("total", {str(number): 1.0 for number in range(8)})


def verdicts(wording_of):
    """Answers of two models to eight questions: alike on the first four, merged worse on others."""
    rows = []
    for model in ("base", "merged"):
        for number in range(8):
            lost = model == "merged" and number > 3
            rows.append(
                {"model": model, "seed": 0, "protocol": "multi_round", "image": f"i{number}",
                 "question_id": str(number), "wording": wording_of(number), "repeat": 0,
                 "closed": wording_of(number) == "short sources",
                 "score": 0.25 if lost else 0.75, "words": 2 if lost else 9}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_loss_on_one_wording_is_told_apart_from_the_others():
    asked = verdicts(lambda number: "known" if number < 4 else "never tuned on")
    effects = evaluation.wording_effects(asked, TOTAL, resamples=50)
    texts = {wording: told(rows) for wording, rows in effects.groupby("wording")}
    assert "merged minus base model, after one short-answer round" in texts["known"]
    assert "no difference shown in score (+0.0" in texts["known"]
    assert "lower score (-50.0" in texts["never tuned on"]


def test_nothing_is_said_of_questions_without_wordings():
    effects = evaluation.wording_effects(verdicts(lambda number: ""), TOTAL, resamples=50)
    assert effects.empty


def test_the_table_has_score_and_collapse_of_every_wording():
    table = evaluation.wording_table(verdicts(lambda number: "known" if number < 4 else "new"))
    cells = table.set_index(["model", "wording"])
    assert cells.loc[("merged", "new"), "score, multi_round"] == 0.25
    assert cells.loc[("merged", "new"), "collapse, multi_round"] == 1
    assert cells.loc[("base", "new"), "collapse, multi_round"] == 0


def test_short_answers_to_closed_questions_are_no_collapse_in_the_table():
    table = evaluation.wording_table(verdicts(lambda n: "new" if n < 4 else "short sources"))
    cells = table.set_index(["model", "wording"])
    assert cells.loc[("merged", "short sources"), "closed_collapse, multi_round"] == 1
    assert pd.isna(cells.loc[("merged", "short sources"), "collapse, multi_round"])
    assert cells.loc[("merged", "new"), "collapse, multi_round"] == 0


def test_levels_tell_each_training_apart_and_leave_out_questions_without_a_wording():
    first = verdicts(lambda number: "known" if number < 4 else "")
    second = first.assign(seed=1, words=[2, 9, 9, 9] * 4)
    table = evaluation.wording_levels(pd.concat([first, second]))
    assert set(table.wording) == {"known"} and set(table.n) == {4} and set(table.closed) == {0}
    short = table.set_index(["model", "seed"]).short
    assert short.to_dict() == {("base", 0): 0, ("merged", 0): 0,
                               ("base", 1): 25, ("merged", 1): 25}  # fmt: skip


@pytest.fixture
def levels():
    """Short answers of two models' trainings, alone and after the short round, by wording."""
    both = ("single_round", "multi_round")
    rows = [
        (wording, model, str(seed), protocol, value + seed)
        for wording in ("mine", "short sources")
        for model, values in (("mix", (0, 97)), ("merged", (1, 2)))
        for seed in range(3)
        for protocol, value in zip(both, values, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["wording", "model", "seed", "protocol", "short"])
    return table.assign(closed=100 * (table.wording == "short sources"))


def test_the_headline_figure_has_a_line_a_training_and_the_mean_after_at_its_end(levels):
    figure = study_figures.headline(levels, study_figures.ARMS)
    assert [ax.get_title(loc="left") for ax in figure.axes] == [
        "worded as in the short-answer sources\n(100 % closed questions)",
        "mine\n(0 % closed questions)"]  # fmt: skip
    for ax in figure.axes:
        lines = [list(line.get_ydata()) for line in ax.lines if len(line.get_ydata())]
        assert sorted(lines) == [[0, 97], [1, 2], [1, 98], [2, 3], [2, 99], [3, 4]]
        assert {text.get_text() for text in ax.texts} == {"98", "3"}
        assert ax.get_ylim()[0] < 0 and ax.get_ylim()[1] > 100


def test_a_model_asked_only_alone_has_no_line_and_no_number(levels):
    alone = levels[(levels.model == "mix") | (levels.protocol == "single_round")]
    figure = study_figures.headline(alone, study_figures.ARMS)
    assert {text.get_text() for text in figure.axes[0].texts} == {"98"}
