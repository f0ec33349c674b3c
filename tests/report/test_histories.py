"""What in the history triggers a collapse: contrasts and sentences against values by hand."""

import pandas as pd
import pytest

from cocoift.evaluation.ablations import mitigation_variants
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.effects import effect_table
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.score import COLLAPSE, OPEN_SCORE, Metric
from cocoift.report import histories

QUESTIONS = [
    Question(id=str(n), images=(f"i{n}",), text="?", answer="red" if n % 2 else "a long red car")
    for n in range(8)
]
SHORT = Metric(COLLAPSE, {q.id: 1.0 for q in QUESTIONS}, of="collapsed")
TOTAL = Metric("total", {q.id: 1.0 for q in QUESTIONS})


def verdicts(protocol, *, model="mix", score=0.5, short=0, seeds=(0,)):
    """Answers to eight questions, the first `short` of them of one word."""
    rows = [
        {"model": model, "seed": seed, "protocol": protocol, "image": q.images[0], "repeat": 0,
         "question_id": q.id, "score": score, "words": 1 if n < short else 9, "answer": f"{seed}"}
        for seed in seeds for n, q in enumerate(QUESTIONS)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_main_effects_and_interactions_of_the_factorial_are_those_of_a_hand():
    # Short replies collapse: 6 of 8 where they come last, 2 of 8 where they come first; the
    # prompt does nothing.
    collapsed = {("short", "last"): 6, ("short", "first"): 2}
    answers = pd.concat(
        verdicts(protocol, short=collapsed.get((cell["reply"], cell["position"]), 0))
        for protocol, cell in histories.CELLS.items()
    )
    effects = effect_table(answers, [SHORT], histories.factor_contrasts("mix"), resamples=50)
    found = effects[effects.seed == "all"].set_index("contrast").difference
    assert found.to_dict() == pytest.approx({
        "prompt instead of none, mix": 0.0,
        "short instead of long reply, mix": 100 * (6 + 2) / 2 / 8,
        "last instead of first of three, mix": 100 * (6 - 2) / 2 / 8,
        "prompt instead of none and short instead of long reply, mix": 0.0,
        "prompt instead of none and last instead of first of three, mix": 0.0,
        # Half of (75 - 25) - (0 - 0).
        "short instead of long reply and last instead of first of three, mix": 25.0,
    })  # fmt: skip
    (line,) = histories.factor_sentence(effects, ["mix", "merged"]).splitlines()
    assert line.startswith("- **LLaVA-style mixture**, collapse, from the largest effect down: "
                           "short instead of long reply +50.0 points")  # fmt: skip
    assert "; prompt instead of none +0.0 points [+0.0, +0.0] (not shown). A short" in line
    assert (
        "A short reply: more in the last place than in the first (half the difference +25" in line
    )


def test_every_cell_of_the_factorial_is_called_by_its_levels():
    scores = pd.DataFrame({"protocol": ["factor_prompt_short_last", "factor_bare_long_first"]})
    cells = histories.factor_cells(scores)
    assert list(cells.setting) == ["prompt, short reply, last", "no prompt, long reply, first"]
    assert len(set(histories.CELLS)) == 8


def test_openings_are_told_one_by_one_and_over_all_as_a_random_factor():
    openings = {f"opening_{n}": Protocol(name=f"opening_{n}", opening=(f"Q{n}?",)) for n in (1, 2)}
    answers = pd.concat([
        verdicts("single_round", score=1.0),
        verdicts("opening_1", score=0.8), verdicts("opening_2", score=0.4),
    ])  # fmt: skip
    found = histories.opening_effects(answers, [TOTAL], openings, resamples=50)
    whole = found[found.seed == "all"].set_index("opening")
    assert whole.difference.to_dict() == pytest.approx({"all": -40.0, "Q1?": -20.0, "Q2?": -60.0})
    # Two openings, -20 and -60: t with one degree of freedom times their standard error of 20.
    assert whole.high["all"] - whole.low["all"] == pytest.approx(2 * 12.706 * 20, rel=1e-3)
    assert histories.opening_effects(answers, [TOTAL], {}, resamples=50).empty


def test_the_three_tests_part_closed_from_open_and_alone_from_after():
    answers = pd.concat([
        verdicts("single_round", score=0.6), verdicts("multi_round", score=0.2),
        verdicts("single_round", model="merged", score=0.6),
        verdicts("multi_round", model="merged", score=0.7),
    ])  # fmt: skip
    levels, effects = histories.three_tests(answers, QUESTIONS, [], resamples=50)
    gains = effects[effects.seed == "all"].set_index("setting").difference
    assert gains.to_dict() == pytest.approx(
        {histories.CLOSED_ALONE: 0.0, histories.OPEN_ALONE: 0.0, histories.OPEN_AFTER: 50.0}
    )
    assert set(levels.n[levels.seed == "all"]) == {4}
    assert set(levels.metric) == {"closed", OPEN_SCORE}
    sentence = histories.tests_sentence(effects)
    assert f"{histories.OPEN_AFTER}: better (+50.0 points" in sentence
    assert f"{histories.OPEN_ALONE}: not shown to differ (+0.0" in sentence
    shown = histories.tests_plot(levels, effects)
    assert set(shown[shown.metric == "gain"].model) == {"merged"}


def test_a_mitigation_that_drops_the_history_asks_a_dialog_without_any():
    ways = {way.setting: way for way in histories.dialog_variants(mitigation_variants(["merged"]))}
    assert (ways["history dropped"].alone, ways["history dropped"].after) == (
        "history_dropped",
    ) * 2
    assert (ways["merged"].alone, ways["merged"].after) == ("single_round", "multi_round")


def test_a_reply_to_an_opening_counts_once_per_training_and_image():
    answers = pd.concat([verdicts("opening_1"), verdicts("opening_1")]).assign(opening_reply="No.")
    answers.loc[answers.image == "i0", "opening_reply"] = "There is no cup here."
    table = histories.opening_replies(answers, {"opening_1": Protocol(name="o", opening=("Q?",))})
    assert table.opening.tolist() == ["Q?"] and table.mix.tolist() == [7 / 8]
