"""The finding in plain words: what is said of a model follows from its effect."""

import pandas as pd
import pytest

from cocoift.report import plain

SCORES = ["benchmark", "model", "seed", "metric", "protocol", "value"]
EFFECTS = ["benchmark", "metric", "contrast", "seed", "difference", "low", "high"]


def run(alone, after, low, high, metrics=("total", "open", "collapse")):
    """Tables of two models, both of these totals, two of the trainings of each."""
    values = {"total": (alone, after), "open": (9, 9), "collapse": (1.4, 48.6)}
    scores = [("b", model, seed, metric, protocol, value)
              for model in ("mix", "merged") for seed in ("0", "1", "all") for metric in metrics
              for protocol, value in zip(("single_round", "multi_round"), values[metric],
                                         strict=True)]  # fmt: skip
    effects = [("b", "total", f"change of {model}", "all", after - alone, low, high)
               for model in ("mix", "merged")]  # fmt: skip
    return pd.DataFrame(scores, columns=SCORES), pd.DataFrame(effects, columns=EFFECTS)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((61.2, 28.4, -38, -27), "loses 33 of 61 points"),
        ((58, 61, 1, 5), "gains 3 points on 58"),
        ((58, 61, -1, 7), "goes from 58 to 61 points (no change is shown)"),
        ((58.4, 58.1, -2, 1), "stays at 58 points (no change is shown)"),
        ((61.2, 28.4, -60, 1), "goes from 61 to 28 points (no change is shown)"),
    ],
)
def test_a_loss_is_said_only_where_it_is_shown(numbers, expected):
    first, second, _ = plain.bullets(*run(*numbers))
    short = "and answers 49 % of the open questions in three words or fewer (asked alone: 1 %)."
    assert first == f"After one short answer, the LLaVA-style model {expected} {short}"
    assert second == first.replace("LLaVA-style", "merged")


def test_the_last_sentence_tells_how_many_trainings_the_numbers_are_means_of():
    *_, both = plain.bullets(*run(61, 28, -38, -27))
    assert both == (
        "Asked alone, the LLaVA-style model has 61 and the merged model has 61 points; each number "
        "is the mean of two trainings."
    )
    scores, effects = run(61, 28, -38, -27)
    *_, one = plain.bullets(scores[scores.seed != "1"], effects)
    assert one.endswith("each number is that of one training.")


def test_what_questions_earn_that_need_a_round_before_them_is_told_where_they_were_asked():
    scores, effects = run(61, 28, -38, -27)
    rows = [("dialogs", model, "all", "single_round", "total", value)
            for model, value in (("base", 87.4), ("mix", 75), ("merged", 54))]  # fmt: skip
    columns = ["benchmark", "model", "seed", "protocol", "metric", "value"]
    asked = pd.concat([scores, pd.DataFrame(rows, columns=columns)])
    assert plain.bullets(asked, effects)[-2] == (
        "A second question that needs the first earns the base model 87 points, the LLaVA-style "
        "model 75 points and the merged model 54 points."
    )
    assert len(plain.bullets(scores, effects)) == 3


def test_without_one_of_the_two_models_or_without_a_score_there_are_no_bullets():
    scores, effects = run(61, 28, -38, -27)
    assert plain.bullets(scores[scores.model == "mix"], effects) == []
    assert plain.bullets(scores[scores.metric == "collapse"], effects) == []
    assert plain.bullets(scores.head(0), effects.head(0)) == []


def verdicts(*rows):
    columns = ["question_id", "closed", "model", "protocol", "words", "score", "answer"]
    return pd.DataFrame(rows, columns=columns).assign(benchmark="b", seed=0, wording="")


def dialog(name, *, closed=False, collapsed=1, short_score=0.2, full=1.0, said="no"):
    """Four answers to a question: all of nine words but that of `mix` after the short round."""
    both = ("single_round", "multi_round")
    rows = [(name, closed, model, protocol, 9, full, "A red cup.")
            for model in ("mix", "merged") for protocol in both]  # fmt: skip
    rows[1] = (*rows[1][:4], collapsed, short_score, said)
    return rows


def test_the_dialog_shown_is_an_open_question_that_only_one_model_collapses_on():
    table = verdicts(*dialog("closed", closed=True), *dialog("long", collapsed=9),
                     *dialog("worse", full=0.5), *dialog("senseless", short_score=0.0),
                     *dialog("rare", said="Bo.", short_score=1.0), *dialog("best"),
                     *dialog("best too"))  # fmt: skip
    shown = plain.example(table)
    assert set(shown.question_id) == {"best"} and len(shown) == 4
    assert plain.example(table[table.question_id == "long"]).empty
    assert plain.example(table[table.model == "mix"]).empty
    assert plain.example(table.head(0)).empty
