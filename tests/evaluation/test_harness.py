"""The pair of protocols in other harnesses: their tasks ask what ours do, their logs come back."""

import importlib.util
import json

import msgspec
import pandas as pd
import pytest
import yaml
from PIL import Image

from cocoift.core.files import DataError
from cocoift.evaluation.answers import LoggedAnswers
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.harness import lmms_eval_task
from cocoift.evaluation.harness.logs import logged_run
from cocoift.evaluation.harness.tasks import Tasks, write_tasks
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import read_log
from cocoift.study import asking, open_study, steps

SHORT = "Is it safe? Answer the question using a single word or phrase."
ALONE = Protocol(name="single_round")
AFTER = Protocol(name="multi_round", opening=(SHORT,))
GIVEN = Protocol(name="given", opening=(SHORT,), replies=({"a.png": "yes", "b.png": "no"},))


@pytest.fixture
def benchmark(tmp_path):
    """Two questions, the second about two pictures."""
    (tmp_path / "images").mkdir()
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (6, 4), colour).save(tmp_path / "images" / name)
    answered = {"q0": (("a.png",), "What is it's colour?", "red"),
            "q1": (("b.png", "a.png"), 'Which is "blue"?', "the first")}  # fmt: skip
    questions = [
        Question(id=name, images=images, text=text, answer=answer)
        for name, (images, text, answer) in answered.items()
    ]
    return Benchmark("mm_vet", "mm_vet", questions, tmp_path / "images", "digest")


@pytest.fixture
def out(benchmark, tmp_path):
    return write_tasks(Tasks(benchmark=benchmark, protocols=[ALONE, AFTER, GIVEN]), tmp_path / "o")


def rows(out, name):
    """Return a task's rows as lmms-eval loads them: with `datasets`, where the task says."""
    datasets = pytest.importorskip("datasets")
    task = yaml.load(  # its tags name functions
        (out / f"lmms_eval/cocoift_mm_vet_{name}.yaml").read_text(), Loader=_Loader
    )
    cache = str(out.parent / "cache")
    files = task["dataset_kwargs"]["data_files"]
    return task, list(datasets.load_dataset("parquet", data_files=files, cache_dir=cache)["test"])


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_constructor("!function", lambda loader, node: node.value)


def played(doc, reply):
    """Answer a dialog as lmms-eval's chat models do, and return what it logs of it."""
    replies, over, chat = [], False, lmms_eval_task.doc_to_messages(doc)
    while not over:
        replies.append(reply(chat))
        chat, over, _, _ = lmms_eval_task.doc_to_messages(
            doc, round_idx=len(replies), previous_output=replies
        )
    return lmms_eval_task.process_results(doc, [replies])


def texts(chat):
    return [
        (turn["role"], part["text"]) for turn in chat for part in turn["content"] if "text" in part
    ]


def test_each_protocol_is_a_task_whose_functions_are_there(out):
    spec = importlib.util.spec_from_file_location("utils", out / "lmms_eval/utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    kinds = {}
    for name in ("single_round", "multi_round", "given"):
        task, _ = rows(out, name)
        kinds[name] = task["output_type"]
        named = [task[f"doc_to_{what}"] for what in ("visual", "text", "messages")]
        named += [task["process_results"], *(row["aggregation"] for row in task["metric_list"])]
        assert all(hasattr(utils, function.removeprefix("utils.")) for function in named)
    assert kinds == {"single_round": "generate_until", "given": "generate_until",
                     "multi_round": "generate_until_multi_round"}  # fmt: skip
    group = yaml.safe_load((out / "lmms_eval/cocoift_mm_vet.yaml").read_text())
    assert group["task"] == [f"cocoift_mm_vet_{name}" for name in kinds]


def test_a_dialog_goes_on_with_the_models_own_short_answer(out):
    _, (doc, _) = rows(out, "multi_round")
    heard = []
    logged = played(doc, lambda chat: heard.append(chat) or "yes")
    assert texts(heard[0]) == [("user", SHORT)]
    assert texts(heard[1]) == [("user", SHORT), ("assistant", "yes"),
                               ("user", "What is it's colour?")]  # fmt: skip
    assert heard[1][0]["content"][0]["url"].getpixel((0, 0)) == (255, 0, 0)
    assert logged["collapse"]["words"] == 1 and len(logged["collapse"]["rounds"]) == 2
    terse = logged["collapse"] | {"closed": False}
    assert lmms_eval_task.share_collapsed([terse]) == 1
    empty = {"words": 0, "closed": False}  # no reply, so no short one either
    closed = {"words": 1, "closed": True}  # a short answer is a right one
    assert lmms_eval_task.share_collapsed([{"words": 9, "closed": False}, empty, closed]) == 0
    assert lmms_eval_task.mean_words([{"words": 9}, empty]) == 9


def test_a_references_replies_stand_in_the_chat(out):
    _, (_, doc) = rows(out, "given")
    chat = lmms_eval_task.doc_to_messages(doc)
    assert texts(chat) == [("user", SHORT), ("assistant", "no"), ("user", 'Which is "blue"?')]
    assert [part["type"] for part in chat[0]["content"]] == ["image", "image", "text"]


def test_models_that_take_a_text_get_the_history_as_llavas_json(out):
    _, (doc, _) = rows(out, "multi_round")
    assert lmms_eval_task.doc_to_text(doc) == SHORT
    pictures, text, over, _, _ = lmms_eval_task.doc_to_text(
        doc, round_idx=1, previous_output=[["yes"]]
    )
    assert len(pictures) == 1 and not over
    assert [turn["value"] for turn in json.loads(text)] == [
        f"<image>\n{SHORT}", "yes", "What is it's colour?"
    ]  # fmt: skip
    assert lmms_eval_task.doc_to_text(doc, round_idx=2, previous_output=[["yes"], ["red"]])[2]


def log_of(out, name, reply, path):
    _, docs = rows(out, name)
    path.write_text("".join(f"{json.dumps(played(doc, reply))}\n" for doc in docs))
    return LoggedAnswers(name="theirs", benchmark="mm_vet", protocol=name, file=path.name)


def test_lmms_evals_log_comes_back_as_rollouts(out, benchmark, tmp_path):
    logged = log_of(out, "multi_round", lambda chat: f"{len(chat)} turns", tmp_path / "l.jsonl")
    run = logged_run(logged, benchmark, AFTER, raw=tmp_path, folder=tmp_path / "rollouts")
    assert [dialog.question_id for dialog in run.rollouts] == ["q0", "q1"]
    assert [(r.question, r.answer, r.by) for r in run.rollouts[0].rounds] == [
        (SHORT, "1 turns", "model"), ("What is it's colour?", "3 turns", "model")
    ]  # fmt: skip
    assert read_log(run.file)[1] == run.rollouts


def test_vlmevalkits_predictions_come_back_as_rollouts(out, benchmark, tmp_path):
    for protocol, answers in ((AFTER, [["yes", "it's\t\"red\""], ["no", "the\nfirst"]]),
                              (ALONE, ["red", "the first"])):  # fmt: skip
        path = tmp_path / f"{protocol.name}.tsv"
        sent = pd.read_csv(out / f"vlmevalkit/cocoift_mm_vet_{protocol.name}.tsv", sep="\t")
        predicted = sent.drop(columns="image").assign(prediction=answers)
        predicted.to_csv(path, sep="\t", index=False)
        logged = LoggedAnswers(name="x", benchmark="mm_vet", protocol=protocol.name, file=path.name)
        run = logged_run(logged, benchmark, protocol, raw=tmp_path, folder=tmp_path)
        expected = [reply[-1] if isinstance(reply, list) else reply for reply in answers]
        assert [dialog.answer for dialog in run.rollouts] == expected


def test_vlmevalkit_gets_no_protocol_whose_replies_are_given(out):
    names = sorted(path.name for path in (out / "vlmevalkit").iterdir())
    assert names == ["cocoift_mm_vet_multi_round.tsv", "cocoift_mm_vet_single_round.tsv"]


def test_a_log_of_another_protocol_or_benchmark_is_refused(out, benchmark, tmp_path):
    logged = log_of(out, "single_round", lambda chat: "red", tmp_path / "l.jsonl")
    where = {"raw": tmp_path, "folder": tmp_path}
    with pytest.raises(DataError, match="'q0' was not asked as protocol multi_round does"):
        logged_run(logged, benchmark, AFTER, **where)
    del benchmark.questions[0]
    with pytest.raises(DataError, match="question 'q0' is not in benchmark mm_vet"):
        logged_run(logged, benchmark, ALONE, **where)


def test_questions_that_a_log_leaves_out_or_that_failed_have_no_answer(benchmark, tmp_path):
    path = tmp_path / "p.tsv"
    failed = {"index": "q0", "question": "What is it's colour?",
              "prediction": "Failed to obtain answer via API. 500"}  # fmt: skip
    pd.DataFrame([failed]).to_csv(path, sep="\t", index=False)
    logged = LoggedAnswers(name="x", benchmark="mm_vet", protocol="single_round", file="p.tsv")
    run = logged_run(logged, benchmark, ALONE, raw=tmp_path, folder=tmp_path)
    assert [(dialog.answer, dialog.failure[:16]) for dialog in run.rollouts] == [
        (None, "Failed to obtain"), (None, "not in the log")
    ]  # fmt: skip
    pd.DataFrame([failed | {"prediction": " "}]).to_csv(path, sep="\t", index=False)
    run = logged_run(logged, benchmark, ALONE, raw=tmp_path, folder=tmp_path)
    assert run.rollouts[0].answer is None and run.rollouts[0].failure == "empty reply"


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(benchmark, tmp_path):
    other = Protocol(name="other_picture", picture="other")
    with pytest.raises(DataError, match="other_picture shows another image"):
        write_tasks(Tasks(benchmark=benchmark, protocols=[other]), tmp_path / "o")
    (benchmark.images / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png: no image on disk"):
        write_tasks(Tasks(benchmark=benchmark, protocols=[ALONE]), tmp_path / "o")
    assert not (tmp_path / "o").exists()
    with pytest.raises(DataError, match="is not empty"):
        write_tasks(Tasks(benchmark=benchmark, protocols=[ALONE]), tmp_path)


def test_notebooks_05_and_06_get_logged_answers_as_those_of_any_model(out, benchmark, tmp_path):
    rows = {q.id: {"imagename": q.images[0], "question": q.text, "answer": q.answer,
                   "capability": ["rec"]} for q in benchmark.questions}  # fmt: skip
    (tmp_path / "mm-vet.json").write_text(json.dumps(rows))
    logged = log_of(out, "multi_round", lambda chat: "yes", tmp_path / "l.jsonl")
    preset = {
        "checkpoint": "none", "raw_dir": str(tmp_path), "work_dir": str(tmp_path / "work"),
        "evaluation": {
            "logged": [msgspec.to_builtins(logged)],
            "protocols": {"single_round": {}, "multi_round": {"opening": [SHORT]}},
            "benchmarks": {"mm_vet": {"format": "mm_vet", "questions": "mm-vet.json",
                                      "images": "images"}}},
    }  # fmt: skip
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(preset))
    study = open_study(str(tmp_path / "p.yaml"))
    assert study.models == ["theirs"] and study.labels["theirs"] == "theirs"
    (run,) = asking.roll_out(study, study.benchmarks_to_ask())
    assert (run.model, run.protocol, len(run.rollouts)) == ("theirs", "multi_round", 2)
    every, _ = steps.all_answers(study, study.benchmarks())
    assert set(every.model) == {"theirs"} and every[every["last"]].answer.tolist() == ["yes", "yes"]
