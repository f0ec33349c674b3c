"""`cocoift probe-server` on several kinds of model, played by a loopback server."""

import json
import re
import shutil

import pytest
from loopback import serving
from PIL import Image

from cocoift.__main__ import main
from cocoift.core.files import DataError
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.protocols import Protocol
from cocoift.study import open_study, read_preset, served, served_report, steps

FULL = "The picture was taken at the beach. A large red car is at the top left."
SLOW = pytest.mark.slow


def text_of(message):
    content = message["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def picture_of(body):
    first = next(message for message in body["messages"] if not isinstance(message["content"], str))
    return first["content"][0]["image_url"]["url"]


def steady(body, number):
    return "red" if "short phrase" in text_of(body["messages"][-1]) else FULL


def collapsing(body, number):
    replies = [text_of(message) for message in body["messages"] if message["role"] == "assistant"]
    return "red" if any(len(reply.split()) <= 3 for reply in replies) else steady(body, number)


def retrained(body, number):
    return collapsing(body, number).replace("car", "kite")


def moody(body, number):
    """A server that samples: it never says the same twice."""
    return f"{collapsing(body, number)} {number}"


def failing_now_and_then(body, number):
    return (500, b"{}") if number % 7 == 3 else steady(body, number)


def small(tmp_path, pictures=6, **more):
    """The changes that put a probe into `tmp_path`, on few pictures."""
    return {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports"),
            "raw_dir": str(tmp_path / "raw"), "mini_coco": {"benchmark": pictures},
            "notebooks": ["05"]} | more  # fmt: skip


def endpoint(server, **more):
    return Endpoint(**{"base_url": server.url, "model": "Some Model/7b", "retries": 2} | more)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The benchmarks of `small`, drawn once."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "none")
        steps.draw_benchmarks(open_study(served.PRESET, small(folder, pictures=2)))
    return folder / "raw"


@pytest.fixture
def ask(drawn, tmp_path, monkeypatch):
    """Ask one server, which plays another model each time, without running notebooks.

    Returns how many requests it was sent.
    """
    shutil.copytree(drawn, tmp_path / "raw")
    monkeypatch.setattr(served, "run_notebook", lambda *args, **more: 0.0)
    monkeypatch.setattr(served, "write_served_index", lambda *args, **more: None)
    plays = []
    with serving(lambda body, number: plays[-1](body, number)) as server:

        def asking(play, *, fresh=False):
            plays.append(play)
            before = len(server.requests)
            changes = served.served_changes(endpoint(server)) | small(tmp_path, pictures=2)
            served.measure_served(changes, fresh=fresh)
            return len(server.requests) - before

        yield asking


def test_a_rerun_says_what_it_keeps_and_asks_a_sample_again(ask, capfd):
    whole = ask(collapsing)
    assert f"at most {whole} questions; rerun to resume" in capfd.readouterr().err
    again = ask(collapsing)
    printed = capfd.readouterr().err
    assert re.search(rf"{whole} answers kept from \d{{4}}-\d\d-\d\d; --fresh asks again", printed)
    assert again == 8 and "questions; rerun" not in printed


@pytest.mark.parametrize("other", [steady, retrained])
def test_another_model_behind_the_same_name_stops_the_rerun(other, ask):
    ask(collapsing)
    with pytest.raises(DataError, match=r"another model replies .* of 8 answers") as stopped:
        ask(other)
    assert "now 'The picture was taken" in str(stopped.value)
    assert "--fresh asks everything again" in str(stopped.value)


def test_fresh_asks_everything_again(ask, capfd):
    whole = ask(collapsing)
    assert ask(steady, fresh=True) == whole
    assert "answers kept" not in capfd.readouterr().err
    assert ask(steady) == 8


def test_a_server_that_samples_is_not_taken_for_another_model(ask, capfd):
    ask(moody)
    ask(moody)
    assert "this server says something else each time" in capfd.readouterr().err


def test_a_model_that_leaves_too_much_unanswered_stops_before_the_notebooks(ask, capfd):
    def often_failing(body, number):
        return (400, b'{"error": "no"}') if number % 3 else steady(body, number)

    with pytest.raises(DataError, match=r"questions got no answer, most often: .*HTTP 400: no"):
        ask(often_failing)
    (whole,) = re.findall(r"at most (\d+) questions", capfd.readouterr().err)
    asked = ask(steady)
    (kept,) = re.findall(r"(\d+) answers kept", capfd.readouterr().err)
    due = int(whole) - int(kept)
    assert int(kept) > 20 and due < asked <= due + 8  # and the sample


def test_two_servers_and_two_models_have_folders_of_their_own():
    places = [("http://localhost:8000/v1", "my-llava"), ("http://localhost:8001/v1", "my-llava"),
              ("http://localhost:8000/v1", "my/llava"), ("https://localhost:8000/v1", "my-llava"),
              ("http://localhost:8000/v1", "my-llava-2")]  # fmt: skip
    made = [served.served_changes(Endpoint(base_url=url, model=name)) for url, name in places]
    for folder in ("work_dir", "report_dir"):
        assert len({changes[folder] for changes in made}) == len(places)
    assert re.fullmatch(r"reports/endpoint/my-llava-at-localhost-8000-\w{6}", made[0]["report_dir"])
    slash = Endpoint(base_url="http://localhost:8000/v1/", model="my-llava")
    assert served.served_changes(slash) == made[0], "a slash at the end is no other server"


def test_requests_count_questions_and_opening_rounds_once_per_picture(tmp_path):
    questions = [Question(id=str(n), images=(f"{n // 2}.png",), text="?") for n in range(4)]
    bench = Benchmark("b", "mm_vet", questions, tmp_path, "d")
    opened = Protocol(name="own", opening=("a", "b"))
    given = Protocol(name="given", opening=("a",), replies=("x",))
    # Four questions; four and two pictures times two rounds; four, since replies are given.
    asked = (Protocol(name="alone"), opened, given)
    parts = [served.Part(bench, protocol, tmp_path, [], 0) for protocol in asked]
    assert [part.requests for part in parts] == [4, 8, 4]


def test_opening_rounds_kept_without_a_dialog_leave_nothing_to_ask_again(tmp_path):
    bench = Benchmark("b", "mm_vet", [], tmp_path, "d")
    part = served.Part(bench, Protocol(name="single_round"), tmp_path / "x", [], 3)
    served.refuse_changed([part], lambda prompts: iter(()))


def test_the_old_name_and_the_old_option_still_work_and_say_so(capsys):
    with pytest.raises(SystemExit, match=r"no key for http://127.0.0.1:9/v1: set .* NOPE"):
        main(["test", "--base-url", "http://127.0.0.1:9/v1", "--model", "m",
              "--key-variable", "NOPE"])  # fmt: skip
    (note,) = capsys.readouterr().err.splitlines()
    assert "is now `cocoift probe-server`" in note
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert "probe-server" in printed and not re.search(r"^ +test\b", printed, re.M)


@pytest.mark.parametrize(
    ("more", "reason"),
    [(["--base-url", "localhost:8000/v1"], "--base-url is 'localhost:8000/v1'; write scheme"),
     (["--base-url", "http://x/v1", "--concurrency", "0"], "--concurrency is 0; it must be above"),
     (["--base-url", "http://127.0.0.1:9/v1"], "127.0.0.1:9/v1: cannot connect")],
)  # fmt: skip
def test_what_cannot_work_is_told_before_the_study_is_loaded(more, reason, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cocoift.study.served", None)
    with pytest.raises(SystemExit, match=re.escape(reason)):
        main(["probe-server", "--model", "m", *more])


def test_a_preset_refuses_an_address_with_a_key_in_it(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text("extends: endpoint\nevaluation: {endpoints: [{name: a, model: m, "
                      "base_url: 'https://me:sk-secret@host/v1'}]}\n")  # fmt: skip
    with pytest.raises(DataError, match="holds a user name or password") as refused:
        read_preset(preset)
    assert "sk-secret" not in str(refused.value)


def measured(play, tmp_path, **more):
    with serving(play) as server:
        changes = served.served_changes(endpoint(server)) | small(tmp_path, **more)
        study = served.measure_served(changes)
        return study, len(server.requests)


@SLOW
@pytest.mark.parametrize(
    ("play", "expected"),
    [
        (collapsing, "One short round makes it terse: collapsed answers +100.0 points"),
        (failing_now_and_then, "One short round is not shown to make it terse"),
    ],
)
def test_a_model_that_collapses_and_one_that_does_not_are_told_apart(play, expected, tmp_path):
    study, _ = measured(play, tmp_path)
    (benchmark, *_) = study.benchmarks()
    terse, blind = served_report.verdict(study, benchmark)
    assert terse.startswith(expected)
    assert "100% of its answers stay the same with another image" in blind
    table = served_report.result_table(study, "mm_vet")
    assert table.loc["single-round", "short-answer compliance (%)"].startswith("100")


@SLOW
def test_a_model_that_sees_is_not_told_that_it_does_not(tmp_path):
    from cocoift.core.images import image_address, open_image
    from minicoco.facts import paragraph

    seen = {}

    def seeing(body, number):
        if "short phrase" in text_of(body["messages"][-1]):
            return "red"
        return seen.get(picture_of(body), "A grey picture.")

    study = open_study(served.PRESET, small(tmp_path))
    steps.draw_benchmarks(study)
    for name, scene in study.scenes.items():
        picture = open_image(study.raw / "mm_vet/images" / name)
        seen[image_address(picture, "png")] = paragraph(scene)
    study, _ = measured(seeing, tmp_path)
    (sentence,) = served_report.verdict(study, study.benchmarks()[0])
    assert sentence.startswith("One short round is not shown to make it terse")


@SLOW
def test_the_command_prints_a_table_a_benchmark_and_leaves_a_report_without_the_key(
    tmp_path, monkeypatch, capfd
):
    photos = tmp_path / "raw/mm-vet/images"
    photos.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(photos / "v1_0.png")
    row = {"imagename": "v1_0.png", "question": "What is it?", "answer": "beach",
           "capability": ["rec"]}  # fmt: skip
    (photos.parent / "mm-vet.json").write_text(json.dumps({"v1_0": row}))
    changes = small(tmp_path, raw_dir=str(tmp_path / "endpoint/raw"), pictures=4,
                    notebooks=["05", "06"])  # fmt: skip
    real = served.served_changes
    monkeypatch.setattr(served, "served_changes", lambda where: real(where) | changes)
    with serving(collapsing) as server:
        main(["probe-server", "--base-url", server.url, "--model", "<m>"])
        asked = len(server.requests)
    printed = capfd.readouterr()
    assert f"at most {asked - 1} questions; rerun to resume" in printed.err
    drawn, photographs = printed.out.split("MM-Vet's own photographs\n")
    assert "drawn images in MM-Vet's format\n" in drawn and "mm_vet" not in printed.out
    assert "One short round makes it terse" in drawn
    # The only photograph's question has a right answer of one word.
    assert "It has no open questions" in photographs
    assert "short answers to closed questions (%)" in photographs
    # The file of reference replies is about mini's pictures.
    assert "right reply given" in drawn and "right reply given" not in photographs
    assert (tmp_path / "reports/06_bias_analysis.html").is_file()
    page = (tmp_path / "reports/index.html").read_text()
    for part in ("One short round makes it terse", "after one short-answer round", server.url,
                 "&lt;m&gt;", "The dialogs that changed most", "question v1_"):  # fmt: skip
        assert part in page
    assert re.search(r"<th>Answered</th><td>\d{4}-\d\d-\d\d</td>", page)
    assert "tiny LLaVA" not in page and "<m>" not in page
    assert not [path for path in tmp_path.rglob("*.*") if b"sk-secret" in path.read_bytes()]
