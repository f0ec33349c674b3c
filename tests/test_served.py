"""`cocoift test` on three kinds of model, played by a loopback server."""

import json

import pytest
from loopback import serving
from PIL import Image

from cocoift.__main__ import main
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.protocols import Protocol
from cocoift.study import served

pytestmark = pytest.mark.slow
FULL = "The picture was taken at the beach. A large red car is at the top left."


def text_of(message):
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def steady(body, number):
    return "red" if "short phrase" in text_of(body["messages"][-1]) else FULL


def collapsing(body, number):
    said = [text_of(one) for one in body["messages"] if one["role"] == "assistant"]
    return "red" if any(len(one.split()) <= 3 for one in said) else steady(body, number)


def failing_now_and_then(body, number):
    return (500, b"{}") if number % 7 == 3 else steady(body, number)


def measured(play, tmp_path, monkeypatch, **more):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(play) as server:
        changes = served.served_changes(server.url, "Some Model/7b", "OPENAI_API_KEY")
        changes |= {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports"),
                    "raw_dir": str(tmp_path / "raw"), "mini_coco": {"benchmark": 6},
                    "notebooks": ["05"]} | more  # fmt: skip
        study = served.measure_served(changes)
        asked = len(server.requests)
        served.measure_served(changes)
        return study, asked, len(server.requests) - asked


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (collapsing, "One short round makes it terse: collapsed answers +100.0 points"),
        (steady, "One short round is not shown to make it terse"),
        (failing_now_and_then, "One short round is not shown to make it terse"),
    ],
)
def test_three_kinds_of_model_are_told_apart(play, said, tmp_path, monkeypatch):
    study, asked, again = measured(play, tmp_path, monkeypatch)
    assert served.verdict(study, "mm_vet").startswith(said)
    table = served.result_table(study, "mm_vet")
    assert table.loc["single_round", "obedience"].startswith("100")
    assert again == 0, "a rerun asks nothing that was answered"
    if play is not failing_now_and_then:
        assert asked == served.requests_of(study)


def test_the_command_prints_a_table_a_benchmark_and_leaves_the_report(
    tmp_path, monkeypatch, capsys
):
    photos = tmp_path / "raw/mm-vet/images"
    photos.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(photos / "v1_0.png")
    row = {"imagename": "v1_0.png", "question": "What is it?", "answer": "beach",
           "capability": ["rec"]}  # fmt: skip
    (photos.parent / "mm-vet.json").write_text(json.dumps({"v1_0": row}))
    changes = {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports"),
               "raw_dir": str(tmp_path / "endpoint/raw"),
               "mini_coco": {"benchmark": 4}}  # fmt: skip
    real = served.served_changes
    monkeypatch.setattr(served, "served_changes", lambda *where: real(*where) | changes)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(collapsing) as server:
        main(["test", "--base-url", server.url, "--model", "m"])
        asked = len(server.requests)
    said = capsys.readouterr().out
    assert f"at most {asked} requests; rerun to resume" in said
    mini, photographs = said.split("mm_vet_photos\n")
    assert "One short round makes it terse" in mini and "One short round" in photographs
    # The file of reference replies is about mini's pictures.
    assert "reference_history" in mini and "reference_history" not in photographs
    assert (tmp_path / "reports/06_bias_analysis.html").is_file()
    assert (tmp_path / "reports/index.html").is_file()


def test_requests_count_questions_and_opening_rounds_once_per_picture(tmp_path):
    questions = [Question(id=str(n), images=(f"{n // 2}.png",), text="?") for n in range(4)]
    bench = Benchmark("b", "mm_vet", questions, tmp_path, "d")
    own = Protocol(name="own", opening=("a", "b"))
    given = Protocol(name="given", opening=("a",), replies=("x",))
    # Four questions; four and two pictures times two rounds; four, since replies are given.
    assert served.requests([bench], [Protocol(name="alone"), own, given]) == 4 + 8 + 4
