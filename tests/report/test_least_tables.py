"""Tables of the least there can be: no variant, no score, nothing said of the questions."""

import pandas as pd
import pytest

from cocoift.evaluation import effects, score
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.report import ablations, bias, merge, trust
from cocoift.report.told import finding, told

ASKED = [Question(id=str(n), images=(f"{n}.jpg",), text="?", category="conv") for n in range(3)]
METRICS = score.metrics_of("llava_bench", ASKED)


def verdicts(value=None):
    """Three answers of one model, alone and after the short round, with this score."""
    rows = [
        {"model": "mix", "seed": 0, "protocol": protocol, "question_id": q.id, "repeat": 0,
         "image": q.images[0], "words": words, "score": value, "opening_reply": "red"}
        for protocol, words in (("single_round", 9), ("multi_round", 1))
        for q in ASKED
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"score": float})


def test_ablations_without_an_arm_of_their_own_have_tables_without_rows():
    table = ablations.variant_table([], verdicts(0.5), METRICS, resamples=10)
    assert table.empty and tuple(table) == ablations.COLUMNS
    found = ablations.compared([], verdicts(0.5), METRICS, resamples=10)
    assert found.empty and tuple(found) == ablations.EFFECT_COLUMNS


def test_answers_without_a_score_have_a_collapse_rate_and_no_other_row():
    table = score.score_table(verdicts(), METRICS, resamples=10)
    assert set(table.metric) == {score.COLLAPSE} and table.notna().all(axis=None)
    found = effects.effect_table(verdicts(), METRICS, [effects.change("mix")], resamples=10)
    assert set(found.metric) == {score.COLLAPSE} and set(found.difference) == {100.0}
    assert told(found).startswith(
        "- **change of LLaVA-style**: higher collapse (+100.0 points [+100.0, +100.0]).\n"
    )
    labelled = table.assign(benchmark="b", judge="j"), found.assign(benchmark="b")
    row = finding(*labelled, labels={"mix": "LLaVA-style"})["table"][0]
    assert row["change of collapse"].startswith("+100.0")


def test_answers_are_told_by_category_where_a_benchmark_has_no_capabilities():
    answers = verdicts().assign(origin="b", free=True, answer="a b", last=True)
    bench = Benchmark("b", "llava_bench", ASKED, None, "")
    kinds = bias.by_kind(answers, bench, resamples=10)
    assert set(zip(kinds.kind, kinds.value, strict=True)) == {("category", "conv")}
    bare = Benchmark("b", "llava_bench", [Question(id="0", images=("0.jpg",), text="?")], None, "")
    assert bias.by_kind(answers, bare, resamples=10).empty


@pytest.mark.parametrize("previous", [0, 1])
def test_what_follows_a_short_answer_is_told_of_the_mixtures_there_are(previous):
    rounds = pd.DataFrame({"words": [1, 9], "previous_words": [0, previous]})
    rounds = rounds.assign(mixture="mix", has_prompt=[True, False])
    sentence = merge.sequence_sentence(merge.after_short_table(rounds), {"mix": "LLaVA-style"})
    if previous:
        assert "is short in LLaVA-style 0%, and 0% of these turns state a format." in sentence
    else:
        assert sentence.startswith("No conversation goes on after a short answer")


def test_a_mixture_in_which_nothing_follows_a_short_answer_is_named_beside_the_others():
    rounds = pd.DataFrame({"mixture": ["mine", "mix"], "words": [9, 1], "previous_words": [0, 1],
                           "has_prompt": False})  # fmt: skip
    sentence = merge.sequence_sentence(merge.after_short_table(rounds), {"mix": "a", "mine": "b"})
    assert "in a 100%" in sentence and "; in b no answer follows a short one." in sentence


def test_a_judge_that_always_says_the_same_has_no_rank_correlation():
    table = pd.DataFrame({"part": ["model"] * 2, "judge": [0.5] * 2, "hand": [0.0, 1.0],
                          "spread": [0.0] * 2})  # fmt: skip
    assert "all scores the same and mean absolute error 0.50" in trust.trust_sentence(table)
