import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.resampling import ratio
from cocoift.evaluation.benchmarks import Question, read_benchmark, read_mm_vet_grades
from cocoift.evaluation.score import (
    CLOSED_COLLAPSE,
    COLLAPSE,
    OPEN_SCORE,
    Metric,
    agreement,
    collapsed,
    infimm_metrics,
    metrics_of,
    mm_vet_metrics,
    per_answer,
    repeat_spread,
    score_table,
    value,
    weighted,
    whole_score,
)


def table(scores, *, model="m", protocol="single_round", seed=0, words=5, repeat=0, per_image=2):
    """Return verdicts of one model: scores by question, `per_image` questions an image."""
    rows = [
        (model, seed, protocol, name, f"i{n // per_image}", words, score, repeat)
        for n, (name, score) in enumerate(scores.items())
    ]
    columns = ["model", "seed", "protocol", "question_id", "image", "words", "score", "repeat"]
    return pd.DataFrame(rows, columns=columns)


def question(name, *capabilities, **more):
    return Question(id=name, images=("x",), text="?", answer="a", capabilities=capabilities, **more)


MM_VET = [question("a", "rec"), question("b", "rec", "ocr"), question("c", "ocr", "math")]


def test_a_question_counts_under_every_capability_and_one_set():
    answers = per_answer(table({"a": 1.0, "b": 0.5, "c": 0.0}))
    values = {m.name: value(answers, m) for m in mm_vet_metrics(MM_VET)}
    assert values == {"rec": 75.0, "ocr": 25.0, "math": 0.0, "total": 50.0}
    sets = {m.name: value(answers, m) for m in mm_vet_metrics(MM_VET, sets=True)}
    assert sets == {"rec": 100.0, "rec_ocr": 50.0, "ocr_math": 0.0}


def test_real_grades_give_the_figures_of_a_computation_by_hand(real):
    """LLaVA-1.5-7B graded by GPT-4: plain loops over the upstream files, nothing of ours."""
    raw = json.loads((real / "mm_vet/mm-vet.json").read_text())
    path = real / "mm_vet/results/llava-v1.5-7b_gpt-4-grade-1runs.json"
    graded = json.loads(path.read_text())
    expected, sums = {}, {}
    for name, row in raw.items():
        for capability in (*row["capability"], "total"):
            sums.setdefault(capability, []).append(graded[name]["score"][0])
    for capability, scores in sums.items():
        expected[capability] = 100 * sum(scores) / len(scores)
    questions = read_benchmark(real / "mm_vet/mm-vet.json", "mm_vet")
    grades = {name: runs[0] for name, runs in read_mm_vet_grades(path).items()}
    answers = per_answer(table({q.id: grades[q.id] for q in questions}))
    ours = {m.name: value(answers, m) for m in mm_vet_metrics(questions)}
    assert set(ours) == set(expected)
    for name in expected:
        assert ours[name] == pytest.approx(expected[name], abs=1e-9)
    by_set = mm_vet_metrics(questions, sets=True)
    assert sum(len(metric.weights) for metric in by_set) == len(questions)


def test_infimm_weighs_high_complexity_twice():
    # S = 100 * (sum over moderate + 2 * sum over high) / (n_moderate + 2 * n_high)
    questions = [
        question("a", category="deductive", complexity="moderate"),
        question("b", category="deductive", complexity="high"),
        question("c", category="abductive", complexity="high"),
    ]
    answers = per_answer(table({"a": 1.0, "b": 0.5, "c": 0.25}))
    values = {m.name: value(answers, m) for m in infimm_metrics(questions)}
    assert values["overall"] == pytest.approx(100 * (1.0 + 2 * (0.5 + 0.25)) / (1 + 2 * 2))
    assert values["deductive"] == pytest.approx(100 * (1.0 + 2 * 0.5) / 3)
    assert values["abductive"] == pytest.approx(25.0)


def test_unscored_answers_are_left_out_and_counted_never_zero():
    verdicts = table({"a": 1.0, "b": None, "c": 0.5})
    scores = score_table(verdicts, [mm_vet_metrics(MM_VET)[-1]], resamples=50)
    row = scores[scores.seed == "all"].iloc[0]
    assert (row.value, row.n, row.unscored) == (75.0, 2, 1)


def test_the_collapse_rate_is_the_share_of_answers_of_three_words_or_fewer():
    assert collapsed(pd.Series([0, 1, 3, 4, None])).tolist()[:4] == [1, 1, 1, 0]
    assert np.isnan(collapsed(pd.Series([None], dtype=float)).iloc[0])
    verdicts = pd.concat([table({"a": 1.0}, words=3), table({"b": 1.0}, words=4)])
    asked = [replace(q, answer="a long red car") for q in MM_VET]
    (rate,) = [m for m in metrics_of("mm_vet", asked) if m.name == COLLAPSE]
    assert value(per_answer(verdicts), rate) == 50.0


def test_a_collapsed_answer_is_one_to_an_open_question_and_closed_ones_count_apart():
    closed, open_ = replace(MM_VET[0], answer="red"), replace(MM_VET[1], answer="a long red car")
    verdicts = pd.concat([table({"a": 1.0}, words=1), table({"b": 0.5}, words=9)])
    answers = per_answer(verdicts)
    values = {m.name: value(answers, m) for m in metrics_of("mm_vet", [closed, open_])}
    assert values[COLLAPSE] == 0.0 and values[CLOSED_COLLAPSE] == 100.0
    assert values[OPEN_SCORE] == 50.0 and values["total"] == 75.0
    metrics = metrics_of("mm_vet", [closed, open_])
    assert whole_score(metrics).name == "total"
    assert [m.name for m in metrics[-4:]] == ["total", OPEN_SCORE, COLLAPSE, CLOSED_COLLAPSE]


def test_the_score_over_open_questions_keeps_the_weights_of_the_whole_score():
    # The high one counts twice: (1 * 0.4 + 2 * 1.0) / 3.
    questions = [question("a", category="deductive", complexity="moderate", steps=("so",)),
                 question("b", category="deductive", complexity="high", steps=("so",)),
                 question("c", category="deductive", complexity="high")]  # fmt: skip
    answers = per_answer(table({"a": 0.4, "b": 1.0, "c": 0.0}))
    values = {m.name: value(answers, m) for m in metrics_of("infimm_eval", questions)}
    assert values[OPEN_SCORE] == pytest.approx(80.0) and values["overall"] == pytest.approx(48.0)


scores = st.lists(st.floats(0, 1), min_size=4, max_size=30)


@given(scores)
def test_an_interval_holds_the_value_when_there_is_one_question_an_image(values):
    verdicts = table({str(n): v for n, v in enumerate(values)}, per_image=1)
    metric = Metric("total", {str(n): 1.0 for n in range(len(values))})
    answers = per_answer(verdicts)
    counted = weighted(answers, metric)
    mid, low, high = ratio(counted.image, counted.top, counted.bottom, resamples=400)
    assert low - 1e-6 <= mid <= high + 1e-6 and mid == pytest.approx(value(answers, metric))
    assert low + 1e-9 >= 0 and high <= 100 + 1e-9


def test_intervals_resample_images_not_questions():
    # Ten questions on one image agree fully: ten times the rows are no more evidence.
    once = {str(n): float(n % 2) for n in range(6)}
    often = {f"{n}-{k}": float(n % 2) for n in range(6) for k in range(10)}
    widths = []
    for values, per_image in ((once, 1), (often, 10)):
        answers = per_answer(table(values, per_image=per_image))
        metric = Metric("total", dict.fromkeys(values, 1.0))
        counted = weighted(answers, metric)
        _, low, high = ratio(counted.image, counted.top, counted.bottom, resamples=2_000)
        widths.append(high - low)
    assert widths[0] == pytest.approx(widths[1], abs=1e-6)


def test_seeds_are_taken_together_and_apart():
    verdicts = pd.concat([table({"a": 1.0, "b": 0.0}), table({"a": 0.0, "b": 0.0}, seed=1)])
    metric = Metric("total", {"a": 1.0, "b": 1.0})
    found = score_table(verdicts, [metric], resamples=20).set_index("seed").value
    assert found.to_dict() == {"0": 50.0, "1": 0.0, "all": 25.0}


def test_repeats_of_the_judge_are_averaged_and_their_deviation_told():
    verdicts = pd.concat([table({"a": 1.0}, repeat=0), table({"a": 0.5}, repeat=1)])
    metric = Metric("total", {"a": 1.0})
    assert value(per_answer(verdicts), metric) == 75.0
    assert repeat_spread(verdicts, metric) == pytest.approx(25.0)


def test_pairs_without_a_score_do_not_count_in_the_agreement():
    pairs = agreement([0.0, 0.5, 1.0, 1.0, float("nan")], [0.0, 0.5, 0.8, 1.0, 0.9])
    assert pairs == agreement([0.0, 0.5, 1.0, 1.0], [0.0, 0.5, 0.8, 1.0])


def test_agreement_is_what_a_hand_computes():
    found = agreement([0.0, 0.5, 1.0, 1.0], [0.0, 0.5, 0.8, 1.0])
    assert found["mean_absolute_error"] == pytest.approx(0.05)
    # Ranks 1 2 3.5 3.5 against 1 2 3 4: 4.5 / sqrt(4.5 * 5)
    assert found["rank_correlation"] == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
