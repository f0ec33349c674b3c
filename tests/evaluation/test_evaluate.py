"""What notebook 05 is made of: verdict tables, sanity checks, the paper's numbers, conclusions."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from cocoift.core.files import DataError
from cocoift.evaluation import effects, score
from cocoift.evaluation.adherence import CLOSED, held_out_benchmark
from cocoift.evaluation.benchmarks import (
    Benchmark,
    BenchmarkFiles,
    GradedAnswers,
    Question,
    benchmarks_for,
    read_benchmarks,
)
from cocoift.evaluation.effects import change
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.endpoint_judge import EndpointJudge, OpenAiJudge
from cocoift.evaluation.judging import OfflineJudge, ToJudge, verdict_table
from cocoift.evaluation.protocols import Failure
from cocoift.evaluation.reference_judge import NO_ANSWER, SENTENCES, Claims
from cocoift.evaluation.rollout import Rollout, Round, Run
from cocoift.evaluation.sanity import HeldOutRound, check_table, halves
from cocoift.report import evaluation as report
from cocoift.report import trust
from cocoift.report.told import conclusion, finding, told
from minicoco.benchmark import graded_scenes
from minicoco.sight import claims_by_image

QUESTIONS = [
    Question(id=f"q{n}", images=(f"{n}.png",), text="What?", answer="red", capabilities=("rec",))
    for n in range(3)
]


def benchmark(tmp_path):
    return Benchmark("mm_vet", "mm_vet", QUESTIONS, tmp_path, "d")


def run(bench, protocol, *answers, model="mix"):
    rollouts = [
        Rollout(q.id, list(q.images), [] if a is None else [Round(q.text, a)],
                "HTTP 500" if a is None else "")
        for q, a in zip(bench.questions, answers, strict=True)
    ]  # fmt: skip
    return Run(bench, model, 0, protocol, rollouts)


def test_every_dialog_gets_a_row_and_those_that_failed_say_why(tmp_path):
    table = verdict_table(
        [run(benchmark(tmp_path), "single_round", "A red car.", None, "blue")], OfflineJudge()
    )
    assert list(table.question_id) == ["q0", "q1", "q2"]
    assert table.score.tolist()[0] == 1.0 and table.score.tolist()[2] == 0.0
    assert pd.isna(table.score[1]) and table.reason[1] == "HTTP 500"
    assert table.words.tolist()[0] == 3 and pd.isna(table.words[1])


def test_wrong_claims_about_a_picture_take_off(tmp_path):
    judge = OfflineJudge(lambda image, answer: Claims(1, 1))
    table = verdict_table([run(benchmark(tmp_path), "p", *["red"] * 3)], judge)
    assert table.score.tolist() == pytest.approx([2 * 0.5 / 1.5] * 3)


def test_too_many_unscored_answers_stop_and_few_are_listed(tmp_path):
    runs = [run(benchmark(tmp_path), "single_round", "red", None, "red")]
    table = verdict_table(runs, OfflineJudge())
    assert report.check_scored(table, most_unscored=0.5).values.tolist() == [
        ["mm_vet", "HTTP 500", 1, 1]
    ]
    with pytest.raises(DataError, match=r"mm_vet: 33% .* most often: HTTP 500; see to the model"):
        report.check_scored(table, most_unscored=0.1)
    unjudged = table.assign(answer="red", reason="HTTP 401 (3 attempts)", score=None)
    with pytest.raises(DataError, match=r"100% .* HTTP 401 \(3 attempts\); see to the judge"):
        report.check_scored(unjudged, most_unscored=0.1)


def test_questions_that_nobody_can_score_are_listed_and_stop_nothing(tmp_path):
    """A sentence as the right answer and none at all are no fault of the judge."""
    sentence = "the man irons his shirt on the roof of a taxi"
    wanted = ["red", sentence, ""]
    questions = [replace(q, answer=answer) for q, answer in zip(QUESTIONS, wanted, strict=True)]
    bench = Benchmark("mm_vet", "mm_vet", questions, tmp_path, "d")
    runs = [run(bench, name, "red", "taxi", "a") for name in ("single_round", "multi_round")]
    table = verdict_table(runs, OfflineJudge())
    assert report.check_scored(table, most_unscored=0.0).values.tolist() == [
        ["mm_vet", SENTENCES, 1, 2],
        ["mm_vet", NO_ANSWER, 1, 2],
    ]
    total = score.mm_vet_metrics(questions)[-1]
    shown = score.score_table(table, [total], resamples=10)
    assert shown.value.tolist() == [100.0] * 4
    assert shown.n.tolist() == [1] * 4 and shown.unscored.tolist() == [2] * 4


def test_a_benchmark_without_any_score_is_called_unmeasured(tmp_path):
    questions = [replace(q, answer="") for q in QUESTIONS]
    bench = Benchmark("mm_vet", "mm_vet", questions, tmp_path, "d")
    runs = [
        run(bench, name, "red", "red car here now", "a", model=model)
        for model in ("mix", "merged") for name in ("single_round", "multi_round")
    ]  # fmt: skip
    table = verdict_table(runs, OfflineJudge())
    metrics = {"mm_vet": score.metrics_of("mm_vet", questions)}
    scores = report.all_scores(table, metrics, judge="reference", resamples=10)
    models = ["mix", "merged"]
    found = report.all_effects(table, metrics, effects.headline(models), resamples=10)
    assert set(scores.metric) == {"collapse"}
    assert scores[scores.metric == "collapse"].value.tolist() == pytest.approx([200 / 3] * 8)
    assert report.changes_of(found, models).empty
    changes = effects.change("mix").name
    texts = told(found[found.contrast == changes]), conclusion(found, "total")
    assert "score" not in texts[0] and "no difference shown in collapse" in texts[0]
    assert texts[1].startswith("No question has a score")
    assert not any("nan" in text for text in texts)


def test_the_dialogs_that_fell_most_come_first_and_those_that_did_not_are_left_out(tmp_path):
    bench = benchmark(tmp_path)
    runs = [run(bench, "single_round", "red", "red", "blue"),
            run(bench, "multi_round", "red", "a", "red")]  # fmt: skip
    verdicts = verdict_table(runs, OfflineJudge())
    ((name, dialogs),) = report.changed_most(runs, verdicts, model="mix", count=3)
    assert name == "q1" and dialogs["multi-round"].answer == "a"
    halved = verdicts.assign(score=verdicts.score.where(verdicts.question_id != "q0", 0.5))
    halved.loc[halved.protocol == "single_round", "score"] = 1.0
    found = report.changed_most(runs, halved, model="mix", count=3)
    assert [name for name, _ in found] == ["q1", "q0"]


def test_the_papers_tables_are_as_printed(root):
    mm_vet = report.paper_table(root / "data/paper_results.yaml", "mm_vet")
    rows = mm_vet.set_index(["model", "protocol"])
    assert rows.total["LLaVA-1.5-13B", "multi_round"] == 29.2
    assert rows.know["COCO-tuned", "multi_round"] == 27.4
    infimm = report.paper_table(root / "data/paper_results.yaml", "infimm_eval")
    assert infimm.overall.tolist() == [32.62, 28.22, 35.56, 36.77]
    assert report.paper_table(root / "data/paper_results.yaml", "other").empty


def test_hand_given_scores_stand_beside_the_judges(root, tmp_path):
    table = trust.trust_table(root / "data/judge_trust.json", benchmark(tmp_path), OfflineJudge())
    assert table.part.value_counts().to_dict() == {
        "model": 60, "collapsed": 60, "misleading": 60}  # fmt: skip
    assert table.hand.between(0, 1).all() and (table.spread == 0).all()
    known = OfflineJudge(claims_by_image(graded_scenes(pixels=64)))
    table = trust.trust_table(root / "data/judge_trust.json", benchmark(tmp_path), known)
    for part in ("model", "collapsed"):
        ranks = table[table.part == part][["hand", "judge"]].rank()
        assert ranks.hand.corr(ranks.judge) > 0.9
    sentence = trust.trust_sentence(table)
    assert sentence.count("rank correlation") == 3 and "60 answers written to mislead" in sentence


def test_agreement_with_gpt4s_grades_is_the_rank_correlation_of_both(tmp_path):
    bench = benchmark(tmp_path)
    ids = [question.id for question in bench.questions]
    wanted = [question.answer for question in bench.questions]
    answers = dict(zip(ids, [wanted[0], "no idea", wanted[2]], strict=True))
    scored = [{"score": [1.0, -1.0]}, {"score": [0.0]}, {"score": [0.9]}]  # -1: no grade in it
    grades = dict(zip(ids, scored, strict=True)) | {"q9": {"score": [-1.0]}}
    for name, content in (("a.json", answers), ("g.json", grades)):
        (tmp_path / name).write_text(json.dumps(content))
    files = [GradedAnswers(answers="a.json", grades="g.json")]
    (row,) = trust.grades_table(files, [bench], OfflineJudge(), raw=tmp_path).to_dict("records")
    assert row["n"] == 3 and row["unscored"] == 0
    assert row["mean absolute error"] == pytest.approx(0.1 / 3)
    # All have one or two words: two of one word, of which one gets 0.1 more than GPT-4 gives.
    assert row["more on short"] == pytest.approx(0.05) and row["more on long"] == 0
    # Ours rank 2.5, 1, 2.5, GPT-4's 3, 1, 2: covariance 0.75, deviations sqrt(0.75) and 1.
    assert row["rank correlation"] == pytest.approx(0.75 / 0.75**0.5)


def test_answers_that_the_judge_leaves_unscored_are_counted_and_compared_with_nothing(tmp_path):
    sentence = "the man irons his shirt on the roof of a taxi"
    questions = [QUESTIONS[0], QUESTIONS[1], replace(QUESTIONS[2], answer=sentence)]
    bench = Benchmark("mm_vet", "mm_vet", questions, tmp_path, "d")
    (tmp_path / "a.json").write_text(json.dumps({q.id: "red" for q in questions}))
    (tmp_path / "g.json").write_text(json.dumps({q.id: {"score": [1.0]} for q in questions}))
    files = [GradedAnswers(answers="a.json", grades="g.json")]
    (row,) = trust.grades_table(files, [bench], OfflineJudge(), raw=tmp_path).to_dict("records")
    assert (row["n"], row["unscored"], row["mean absolute error"]) == (2, 1, 0.0)


def test_models_without_any_benchmark_are_told_before_anything_is_trained(tmp_path):
    files = BenchmarkFiles(format="mm_vet", questions="mm-vet/q.json", images="b")
    with pytest.raises(DataError, match=r"no benchmark for base: there is no .*mm-vet/q\.json"):
        benchmarks_for(["base"], {"x": files}, tmp_path)
    assert benchmarks_for([], {"x": files}, tmp_path) == []


def test_the_whole_bill_counts_the_headline_as_often_as_it_is_judged(tmp_path):
    where = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    bench = benchmark(tmp_path)
    (tmp_path / "prompt.txt").write_text("{question}")
    options = {"endpoint": where, "prompts": {"mm_vet": "prompt.txt"}, "prices": (10.0, 0.0)}

    def cost(repeats, models=3):
        settings = OpenAiJudge(**options, repeats=repeats, max_cost=1.0)
        judge = EndpointJudge(settings, root=tmp_path, cache=tmp_path / "c.sqlite")
        asked = [ToJudge("mm_vet", bench.questions, name, models) for name in protocols]
        return judge.whole_cost(asked)[1]

    protocols = ["single_round", "multi_round", "after_long", "blank_picture"]
    five = cost(5)
    assert five == pytest.approx(cost(1) * 12 / 4)
    # Each question is about 4 tokens and its answer counts as 100: 10 per million.
    assert five == pytest.approx(3 * 12 * 3 * 104 * 10 / 1e6, rel=0.05)
    with pytest.raises(DataError, match=r"takes about [\d,]+ calls for \d+, max_cost is 1;"):
        cost(5, models=3000)


def test_only_the_headline_is_judged_repeatedly(tmp_path):
    where = Endpoint(base_url="http://127.0.0.1:9/v1", model="m")
    (tmp_path / "prompt.txt").write_text("{question}")
    settings = OpenAiJudge(endpoint=where, prompts={"mm_vet": "prompt.txt"}, repeats=5)
    judge = EndpointJudge(settings, root=tmp_path, cache=tmp_path / "c.sqlite")
    bench = benchmark(tmp_path)
    runs = [run(bench, name, "red", "red", "red") for name in ("single_round", "after_long")]
    # The three answers are judged by one text, so each repeat is one call.
    assert list(judge.bill(runs).calls) == [5, 1]
    assert judge.label.startswith("m, prompt ")


def test_absent_benchmarks_are_left_out(tmp_path):
    assert read_benchmarks({"x": BenchmarkFiles(format="mm_vet", questions="a", images="b")},
                           tmp_path) == []  # fmt: skip


def rounds(mixture):
    names = sorted(path.name for path in (mixture / "train2017").iterdir())[:10]
    closed = [
        HeldOutRound(f"train2017/{n}", "phrase", "What? Answer the question with a short phrase.",
                     "red") for n in names
    ]  # fmt: skip
    free = [HeldOutRound(f"train2017/{n}", "free", "What?", "It is red all over.") for n in names]
    terse = [HeldOutRound(f"train2017/{n}", "free", "what", "red") for n in names]
    return [*closed, *free, *terse]


def test_gates_ask_closed_and_opening_questions_and_no_open_ones(mixture):
    asked = []

    def answer(asks):
        for number, prompt in enumerate(asks):
            text = prompt.messages[0].value
            asked.append(text)
            yield number, "red" if "Answer" in text else "It is red all over."

    table = check_table(answer, rounds(mixture), opening=["Where? Answer!"], image_root=mixture)
    assert table.value.tolist() == [1.0, 1.0] and table.passed.all()
    assert table.n.tolist() == [10, 10] and all("Answer" in text for text in asked)


def test_a_gate_fails_for_a_model_that_is_never_short_and_without_answers(mixture):
    def long(asks):
        return ((number, "It is red all over.") for number in range(len(asks)))

    def broken(asks):
        return ((number, Failure("HTTP 500")) for number in range(len(asks)))

    options = {"opening": ["Where?"], "image_root": mixture}
    assert not check_table(long, rounds(mixture), **options).passed.any()
    assert not check_table(broken, rounds(mixture), **options).passed.any()


def test_gates_and_outcomes_are_measured_on_different_images(mixture):
    chosen, others = ({asked.image for asked in part} for part in halves(rounds(mixture)))
    assert len(chosen) == len(others) == 5 and not chosen & others


def test_held_out_questions_and_gates_are_spread_over_all_images(mixture):
    held_out = rounds(mixture)
    asked = held_out_benchmark(held_out, image_root=mixture, count=6)
    images = [held_out_round.image for held_out_round in held_out[:10]]
    chosen = [images[place] for place in (0, 1, 3, 5, 6, 8)]
    assert [question.images[0] for question in asked.questions] == chosen * 2
    shown = []

    def answer(asks):
        for number, prompt in enumerate(asks):
            shown.append(prompt.key)
            yield number, "red"

    check_table(answer, held_out, opening=["Where?"], image_root=mixture, count=6)
    assert shown == chosen * 2


def test_adherence_is_counted_on_closed_questions_and_collapse_on_open_ones(mixture):
    asked = held_out_benchmark(rounds(mixture), image_root=mixture)
    assert [q.text for q in asked.questions].count("what") == 0  # terse upstream: neither of both
    replies = {q.id: "red" if q.id.endswith(("0", "1", "2")) else "It is red all over."
               for q in asked.questions}  # fmt: skip
    dialogs = [
        Rollout(q.id, list(q.images), [Round(q.text, replies[q.id])]) for q in asked.questions
    ]
    made = Run(asked, "mix", 0, "single_round", dialogs)
    table = report.adherence_scores([made], resamples=50)
    whole = table[table.seed == "all"].set_index("metric")
    assert whole.value.to_dict() == {"obedience": 30.0, "collapse": 30.0}
    assert whole.n.tolist() == [10, 10]


def test_what_a_round_does_to_adherence_is_paired_question_by_question(mixture):
    asked = held_out_benchmark(rounds(mixture), image_root=mixture)
    runs = []
    for protocol, short in (("single_round", "0123456789"), ("multi_round", "0123")):
        dialogs = [
            Rollout(q.id, list(q.images), [Round(q.text, "red" if q.id[-1] in short
                    and q.wording == CLOSED else "It is red all over.")])
            for q in asked.questions
        ]  # fmt: skip
        runs.append(Run(asked, "mix", 0, protocol, dialogs))
    table = report.adherence_effects(runs, [change("mix")], resamples=200)
    whole = table[table.seed == "all"].set_index("metric")
    assert whole.difference.to_dict() == {"obedience": -60.0, "collapse": 0.0}
    assert whole.low["obedience"] < -60 < whole.high["obedience"] < 0
    assert set(table.benchmark) == {"held_out"}
    assert list(report.adherence_effects([], [change("mix")], resamples=9).columns) == list(table)


def test_the_gate_sentence_names_what_fails():
    rows = [
        ("mix", "short-answer compliance", True),
        ("base", "no short answers on request yet", False),
    ]
    table = pd.DataFrame(rows, columns=["model", "gate", "passed"])
    assert (
        "1 of 2 sanity checks fail (base model: no short answers on request yet)"
        in report.sanity_sentence(table)
    )
    assert report.sanity_sentence(table.head(1)) == "All 1 sanity checks pass."


def test_where_a_mixture_teaches_unasked_short_answers_is_told(mixture):
    table = report.unasked_table(mixture, ["merged", "mix"], titles={}).set_index("mixture")
    assert table["most of the short ones from"].eq("vqav2").all()
    assert table["their share"].eq(1.0).all()
    assert table["short among them"]["merged"] == table["short among them"]["mix"]
    # In `mix` every round is a first one; merged records open with a short question here.
    assert table["short among first rounds"]["merged"] == 1.0


def test_the_finding_holds_each_models_numbers_and_the_change_with_its_interval():
    rows = [
        ("mm_vet", model, "all", protocol, metric, value, 240, "reference")
        for model, metric, values in (
            ("mix", "rec", (1, 1)), ("mix", "total", (48, 25)), ("mix", "collapse", (14, 77)),
            ("merged", "total", (40, 47)), ("merged", "collapse", (22, 10)),
        )
        for protocol, value in zip(("single_round", "multi_round"), values, strict=True)
    ]  # fmt: skip
    columns = ["benchmark", "model", "seed", "protocol", "metric", "value", "n", "judge"]
    effects = pd.DataFrame(
        [("mm_vet", "total", contrast, seed, *values)
         for contrast, values in (("change of mix", (-23, -26, -19)),
                                  ("change of merged", (7, 4, 9)),
                                  ("change of mix - change of merged", (-30, -34, -26)),
                                  ("merged - mix, single_round", (-8, -12, -4)))
         for seed in ("0", "all")],
        columns=["benchmark", "metric", "contrast", "seed", "difference", "low", "high"],
    )  # fmt: skip
    labels = {"mix": "LLaVA-style", "merged": "merged"}
    brief = [("held_out", "mix", "all", "single_round", "obedience", 96, 50, "none")]
    found = finding(pd.DataFrame([*rows, *brief], columns=columns), effects, labels=labels)
    assert list(found["table"][0].values()) == [
        "LLaVA-style", "48", "25", "14 %", "77 %", "96 %", "-23.0 [-26.0, -19.0]"]  # fmt: skip
    assert (
        "the difference of the changes. In single round, the merged mixture is worse"
        in found["conclusion"]
    )
    assert "one training" in found["sentence"]
    assert "240 answers" in found["sentence"] and "reference" in found["sentence"]
    assert finding(pd.DataFrame(rows, columns=columns), effects.head(0), labels=labels) is None
