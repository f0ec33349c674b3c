import pandas as pd

from cocoift.evaluation.score import Metric
from cocoift.report import evaluation
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
    assert "no clear difference in score (+0.0" in texts["known"]
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
