"""Models and judges behind an endpoint, asked over real HTTP by the real client."""

import json
import re
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from loopback import completion, events, serving
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.candidates import EndpointModel
from cocoift.evaluation.endpoint import Endpoint, ask_endpoint, stream_reply, to_openai
from cocoift.evaluation.endpoint_judge import EndpointJudge, OpenAiJudge, grade, prompt_text
from cocoift.evaluation.protocols import ALONE, Failure, Prompt
from cocoift.evaluation.rollout import Rollout, Round, Run

PROMPT = "Q: {question} T: {ground_truth} A: {answer} Grade:"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def endpoint(server, **more):
    return Endpoint(**{"base_url": server.url, "model": "m", "timeout": 5.0, "retries": 2} | more)


def test_a_conversation_becomes_chat_messages_with_pictures_as_data():
    messages = [
        Message("human", "<image>\nWhere?"),
        Message("gpt", "Here."),
        Message("human", "So?"),
    ]
    pictures = [Image.new("RGB", (2, 2), "red")] * 2
    system, first, second, third = to_openai(messages, pictures, system="Be kind.")
    assert system == {"role": "system", "content": "Be kind."}
    kinds = [part["type"] for part in first["content"]]
    assert kinds == ["image_url", "image_url", "text"] and first["content"][-1]["text"] == "Where?"
    assert first["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert (second["role"], second["content"], third["content"]) == ("assistant", "Here.", "So?")


def asked(server, count, **more):
    chats = [partial(lambda n: [{"role": "user", "content": f"{n}"}], n) for n in range(count)]
    return dict(ask_endpoint(endpoint(server, **more), chats, new_tokens=8))


@pytest.mark.parametrize("many", [8, 64])
def test_many_requests_are_at_work_at_once_and_answers_find_their_questions(many):
    together = threading.Barrier(many, timeout=30)

    def reply(body, number):
        together.wait()  # nobody is answered before so many have asked
        return f"answer to {body['messages'][0]['content']}"

    with serving(reply) as server:
        replies = asked(server, 3 * many, concurrency=many, timeout=60.0)
    assert replies == {n: f"answer to {n}" for n in range(3 * many)}
    assert server.most_at_once == many
    assert len(server.requests) == 3 * many


def test_the_client_retries_and_what_stays_broken_is_a_failure():
    seen = {}

    def reply(body, number):
        text = body["messages"][0]["content"]
        seen[text] = seen.get(text, 0) + 1
        if text == "0" and seen[text] < 3:
            return 429, b'{"error": {"message": "slow down"}}'
        if text == "1":
            return 200, b"<html>hello</html>"
        return "" if text == "2" else "fine"

    with serving(reply) as server:
        replies = asked(server, 4)
    assert replies[0] == "fine" and replies[3] == "fine" and seen["0"] == 3
    assert isinstance(replies[1], Failure) and isinstance(replies[2], Failure)
    assert replies[2].reason == "empty reply"


def test_a_server_that_quotes_the_key_does_not_get_it_into_the_reason():
    refusal = b'{"error": {"message": "Incorrect API key provided: sk-secret"}}'
    with serving(lambda body, number: (401, refusal)) as server:
        (reply,) = asked(server, 1, retries=0).values()
    assert "Incorrect API key provided: ***" in reply.reason and "sk-secret" not in reply.reason


@pytest.mark.parametrize("key", ["x", "-ab", "abc123"])
def test_a_short_key_is_blacked_out_where_it_stands_alone(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    refusal = json.dumps({"error": {"message": f"the key {key} expired"}}).encode()
    with serving(lambda body, number: (401, refusal)) as server:
        (reply,) = asked(server, 1, retries=0).values()
    assert reply.reason.endswith("the key *** expired")
    assert "OPENAI_API_KEY" in reply.reason and reply.status == 401


@pytest.mark.parametrize(
    ("address", "reason"),
    [("localhost:8000/v1", "write scheme, host and path, e.g. http://localhost:8000/v1"),
     ("ftp://host/v1", "write scheme"), ("http:///v1", "write scheme"),
     ("http://host:port/v1", "write scheme"), ("http://[::1/v1", "write scheme"),
     ("https://me:sk-secret@host/v1", "holds a user name or password"),
     ("https://host/v1?key=sk-secret", "holds a query")],
)  # fmt: skip
def test_an_address_without_a_scheme_or_with_a_key_in_it_is_refused(address, reason):
    with pytest.raises(ValueError, match=re.escape(reason)) as refused:
        Endpoint(base_url=address, model="m")
    assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_a_time_out_is_above_0(value):
    with pytest.raises(ValueError, match="must be above 0"):
        Endpoint(base_url="http://host/v1", model="m", timeout=value)


def test_ten_equal_failures_in_a_row_stop_and_others_do_not():
    full = b'{"error": {"message": "busy, request %d"}}'

    def down_after_five(body, number):
        return "fine" if number < 5 else (400, full % number)

    with (
        serving(down_after_five) as server,
        pytest.raises(DataError, match=r"stopped after 10 equal failures in a row: HTTP 400: busy"),
    ):
        asked(server, 100, concurrency=1)
    assert 15 <= len(server.requests) <= 16  # one may be on its way
    with serving(lambda body, number: "fine" if number % 10 == 9 else (400, full % 0)) as server:
        replies = asked(server, 100, concurrency=1)
    assert sum(isinstance(reply, Failure) for reply in replies.values()) == 90


def test_failures_are_counted_over_all_that_a_model_is_asked():
    with serving(lambda body, number: "") as server:
        where = endpoint(server, concurrency=1)
        answer = EndpointModel(endpoint=where, system="", new_tokens=8).answer
        prompts = [Prompt("a", (Image.new("RGB", (2, 2)),), [Message("human", "<image>\nSo?")])] * 4
        assert len(list(answer(prompts))) == len(list(answer(prompts))) == 4
        with pytest.raises(DataError, match="10 equal failures in a row: empty reply"):
            list(answer(prompts))


def test_who_stops_reading_does_not_wait_for_the_replies_under_way():
    released = threading.Event()

    def reply(body, number):
        return "fine" if number == 0 or released.wait(30) else ""

    with serving(reply) as server:
        chats = [lambda: [{"role": "user", "content": "?"}]] * 20
        replies = ask_endpoint(endpoint(server, concurrency=2, timeout=60.0), chats)
        next(replies)
        replies.close()
        assert not released.is_set()
        released.set()


def test_an_error_of_making_a_conversation_reaches_the_caller():
    def broken():
        raise DataError("no picture on disk")

    with serving(lambda body, number: "fine") as server, pytest.raises(DataError, match="no pic"):
        dict(ask_endpoint(endpoint(server), [broken]))


def test_without_a_key_the_variable_is_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(DataError, match="set the environment variable OPENAI_API_KEY"):
        Endpoint(base_url="http://127.0.0.1:9/v1", model="m").client()


@pytest.mark.parametrize(
    ("reply", "value"),
    [("0.7", 0.7), ("1", 1.0), (" 0.0\n", 0.0), ("Grade: 0.4", 0.4), ("**0.5**", 0.5), ("1.", 1.0),
     ("1.5", None), ("-0.1", None), ("7/10", None), ("I cannot judge this.", None), ("", None),
     ("between 0.2 and 0.4", None), ("<html>", None), ("nan", None), ("0.7 because", None)],
)  # fmt: skip
def test_a_grade_is_one_number_from_0_to_1(reply, value):
    assert grade(reply) == value


QUESTIONS = [
    Question(id=f"q{n}", images=("x",), text=f"What is {n}?", answer="a<AND>b", steps=("s1", "s2"))
    for n in range(12)
]
ANSWERS = [f"answer {n}" for n in range(12)]


def a_judge(server, folder, prompt=PROMPT, **more):
    (folder / "prompt.txt").write_text(prompt)
    settings = {"endpoint": endpoint(server), "prompts": {"mm_vet": "prompt.txt"}} | more
    return EndpointJudge(OpenAiJudge(**settings), root=folder, cache=folder / "c.sqlite")


def judged(judge, questions=QUESTIONS, answers=ANSWERS):
    return judge.verdicts("mm_vet", questions, answers, ALONE)


def due(judge, questions=QUESTIONS, answers=ANSWERS):
    """Return the bill of judging this, as a row."""
    rounds = [
        Rollout(q.id, ["x"], [Round("?", a)]) for q, a in zip(questions, answers, strict=True)
    ]
    bench = Benchmark("b", "mm_vet", questions, Path(), "d")
    return judge.bill([Run(bench, "m", 0, ALONE, rounds)]).iloc[0]


def test_the_prompts_places_are_filled_and_an_official_prompt_gets_a_row():
    text = prompt_text("{question}|{ground_truth}|{steps}|{answer}", QUESTIONS[0], "{steps}")
    assert text == "What is 0?|a <AND> b|(1) s1 (2) s2|{steps}"
    official = prompt_text("Compare the ground truth...\nQ | T | A | C", QUESTIONS[0], "so")
    assert official.endswith("\nWhat is 0? | a <AND> b | so |")


def test_every_answer_gets_its_own_verdict_and_nothing_is_paid_twice(tmp_path):
    def reply(body, number):
        text = body["messages"][0]["content"]
        return f"0.{int(text.split('answer ')[1].split()[0]) % 10}"

    with serving(reply) as server:
        judge = a_judge(server, tmp_path, repeats=2, prices=(1.0, 1.0))
        before, found, again, after = due(judge), judged(judge), judged(judge), due(judge)
    assert before.calls == 24 and before.cost > 0 and after.calls == 0
    assert found == again and len(server.requests) == 24
    assert [[v.score for v in pair] for pair in found] == [[n % 10 / 10] * 2 for n in range(12)]
    assert [v.repeat for v in found[0]] == [0, 1]


def test_an_equal_answer_of_another_model_is_judged_once(tmp_path):
    with serving(lambda body, number: "0.5") as server:
        found = judged(a_judge(server, tmp_path), [QUESTIONS[0]] * 3, ["same"] * 3)
    assert len(server.requests) == 1 and [v[0].score for v in found] == [0.5] * 3


def test_a_judge_that_fails_ten_times_in_a_row_is_not_asked_further(tmp_path):
    with serving(lambda body, number: (401, b'{"error": "no"}') if number > 4 else "0.5") as server:
        judge = a_judge(server, tmp_path, endpoint=endpoint(server, concurrency=1))
        with pytest.raises(DataError, match="10 equal failures in a row: HTTP 401, the key in"):
            judged(judge, MANY, ["a"] * 60)
        assert due(judge, MANY, ["a"] * 60).calls == 55
    assert len(server.requests) in (15, 16)  # one may be on its way


def test_another_prompt_model_or_temperature_is_another_judgement(tmp_path):
    with serving(lambda body, number: "0.5") as server:
        other = endpoint(server, model="other")
        for more in ({}, {"temperature": 1.0}, {"prompt": PROMPT + "!"}, {"endpoint": other}):
            judged(a_judge(server, tmp_path, **more), QUESTIONS[:1], ["a"])
    assert len(server.requests) == 4


def test_what_upstream_gives_no_answer_to_is_not_asked(tmp_path):
    bare = Question(id="q", images=("x",), text="?")
    with serving(lambda body, number: "0.5") as server:
        ((verdict,),) = judged(a_judge(server, tmp_path), [bare], ["a"])
    assert verdict.score is None and not server.requests


def test_a_bill_above_the_limit_stops_before_the_first_call(tmp_path):
    with serving(lambda body, number: "0.5") as server:
        judge = a_judge(server, tmp_path, prices=(1e6, 1e6), max_cost=1.0)
        with pytest.raises(DataError, match=r"12 calls for about \d+\.\d+, .*max_cost is 1\.00"):
            judged(judge)
    assert not server.requests


def test_judging_stops_when_what_was_paid_reaches_the_limit(tmp_path):
    # The server counts 104 tokens a call, more than the estimate foresees.
    with serving(lambda body, number: "0.5", delay=0.01) as server:
        one_by_one = endpoint(server, concurrency=1)
        options = {"endpoint": one_by_one, "prices": (1.0, 1.0)}
        limit = due(a_judge(server, tmp_path, **options)).cost
        with pytest.raises(DataError, match="max_cost reached"):
            judged(a_judge(server, tmp_path, **options, max_cost=limit))
    assert 0 < len(server.requests) < 12


def test_empty_replies_that_the_server_bills_count_towards_the_limit(tmp_path):
    with serving(lambda body, number: "") as server:
        where = endpoint(server, concurrency=1)
        judge = a_judge(server, tmp_path, endpoint=where, prices=(100.0, 0.0), max_cost=0.05,
                        attempts=3)  # fmt: skip
        for _ in range(2):  # what was paid is remembered by the next run
            with pytest.raises(DataError, match=r"judging has cost 0\.05|0\.05 are spent"):
                judged(judge)
    assert len(server.requests) == 5  # of 100 tokens each


def test_the_limit_holds_over_several_models_and_runs(tmp_path):
    with serving(lambda body, number: "0.5") as server:
        where = endpoint(server, concurrency=1)
        judge = a_judge(server, tmp_path, endpoint=where, prices=(1000.0, 0.0), max_cost=1.5)
        judged(judge)
        # Twelve calls of 100 tokens have cost 1.2; three more are within the limit.
        with pytest.raises(DataError, match=r"judging has cost 1\.50, max_cost reached"):
            judged(judge, QUESTIONS, [f"{a} again" for a in ANSWERS])
        judged(judge)
    assert len(server.requests) == 15


class Unruly:
    """A judge that misbehaves in three of ten calls, each time otherwise."""

    faults = (
        (429, b'{"error": {"message": "rate"}}'), (500, b"oops"), "TIMEOUT",
        (200, b"<html></html>"), (200, b'{"choices": ['), "I cannot", "1.5", "",
    )  # fmt: skip

    def __init__(self):
        self.count, self.lock, self.graded = 0, threading.Lock(), {}

    def __call__(self, body, number):
        with self.lock:
            self.count += 1
            turn = self.count
        text = body["messages"][0]["content"]
        if turn % 10 < 3:
            fault = self.faults[(turn // 10 * 3 + turn % 10) % len(self.faults)]
            if fault == "TIMEOUT":
                time.sleep(1.5)
                return 200, completion("0.5")
            return fault
        self.graded[text] = self.graded.get(text, 0) + 1
        return "0.5"


MANY = [Question(id=f"q{n}", images=("x",), text=f"What is {n}?", answer="a") for n in range(60)]


def test_an_unruly_judge_leaves_every_answer_scored_or_unscored_with_a_reason(tmp_path):
    unruly = Unruly()
    with serving(unruly) as server:
        where = endpoint(server, timeout=0.5, retries=1)
        judge = a_judge(server, tmp_path, endpoint=where, attempts=2)
        found = judged(judge, MANY, [q.id for q in MANY])
    verdicts = [verdict for (verdict,) in found]
    assert len(verdicts) == 60 and sum(v.score == 0.5 for v in verdicts) > 40
    assert all(v.reason and "2 attempts" in v.reason for v in verdicts if v.score is None)
    assert all(v.score in (0.5, None) for v in verdicts)
    assert set(unruly.graded.values()) == {1}


CHILD = """
import sys
from pathlib import Path
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.endpoint_judge import EndpointJudge, OpenAiJudge
many = [Question(id=f"q{n}", images=("x",), text=f"What is {n}?", answer="a") for n in range(60)]
where = Endpoint(base_url=sys.argv[1], model="m", concurrency=4)
settings = OpenAiJudge(endpoint=where, prompts={"mm_vet": "prompt.txt"})
judge = EndpointJudge(settings, root=Path(sys.argv[2]), cache=Path(sys.argv[2]) / "c.sqlite")
judge.verdicts("mm_vet", many, ["x"] * 60, "single_round")
"""


def test_a_killed_run_of_the_judge_loses_nothing_and_pays_nothing_twice(tmp_path):
    answered = []

    def reply(body, number):
        answered.append(body["messages"][0]["content"])
        return "0.5"

    with serving(reply, delay=0.05) as server:
        where = Endpoint(base_url=server.url, model="m", concurrency=4)
        judge = a_judge(server, tmp_path, prompt="{question}", endpoint=where)
        child = subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(tmp_path)])
        while len(answered) < 20:
            time.sleep(0.01)
        child.kill()
        child.wait()
        time.sleep(0.2)
        before = len(answered)
        missing = due(judge, MANY, ["x"] * 60).calls
        found = judged(judge, MANY, ["x"] * 60)
    # What was at work when the kill came (four at once) may be asked again, nothing else.
    assert 20 <= before < 60 and len(answered) - before == missing <= 60 - before + 4
    assert all(verdict.score == 0.5 for (verdict,) in found)


def test_the_key_is_in_no_file(tmp_path):
    with serving(lambda body, number: "0.5") as server:
        judged(a_judge(server, tmp_path))
    assert not [p for p in tmp_path.iterdir() if b"sk-secret" in p.read_bytes()]


def streamed(server, **more):
    chat = [{"role": "user", "content": "Where?"}]
    return list(stream_reply(endpoint(server, **more), chat, new_tokens=8))


def test_a_reply_is_streamed_word_by_word():
    with serving(lambda body, number: "in the park") as server:
        assert streamed(server) == ["in", "in the", "in the park"]
        assert server.requests[0]["stream"] and server.requests[0]["temperature"] == 0


def test_a_stream_that_breaks_off_keeps_what_was_said_and_tells_why():
    broken = events("in the")[: -len("data: [DONE]\n\n")] + b"data: {not json}\n\n"
    with serving(lambda body, number: (200, broken)) as server:
        *texts, failure = streamed(server)
    assert texts == ["in", "in the"] and "JSONDecodeError" in failure.reason


def test_a_stream_that_fails_or_says_nothing_is_a_failure_without_the_key():
    with serving(lambda body, number: (401, b'{"error": "bad key sk-secret"}')) as server:
        (failure,) = streamed(server)
    assert "401" in failure.reason and "sk-secret" not in failure.reason
    with serving(lambda body, number: (200, b"data: [DONE]\n\n")) as server:
        assert streamed(server) == [Failure("empty reply")]
