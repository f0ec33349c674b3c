"""One question before a thousand: each cause of a refusal is told apart, and its remedy named."""

import re

import pytest
from loopback import serving

from cocoift.core.files import DataError
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.server_check import check_server


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-secret")


def checked(url, **more):
    return check_server(Endpoint(base_url=url, model="m", key_variable="MY_KEY", **more))


def blind(body, number):
    content = body["messages"][-1]["content"]
    pictures = [part for part in content if part["type"] == "image_url"]
    return (400, b'{"message": "m is not a multimodal model"}') if pictures else "hello"


def wordy(body, number):
    cut = b'{"choices": [{"index": 0, "finish_reason": "length", "message": {"content": null}}]}'
    return 200, cut


@pytest.mark.parametrize(
    ("reply", "models", "reason"),
    [
        ((401, b'{"error": {"message": "Incorrect key: sk-secret"}}'), None,
         "HTTP 401, the key in MY_KEY is refused: Incorrect key: ***"),
        ((404, b'{"error": {"message": "The model `m` does not exist."}}'), ["llava", "qwen"],
         "it has no model 'm'; it has: llava, qwen"),
        ((400, b'{"error": {"message": "Invalid model name"}}'), ["llava"],
         "it has no model 'm'; it has: llava"),
        ((404, b"<html><h1>404 Not Found</h1></html>"), None,
         "HTTP 404, no such address or model: 404 Not Found"),
        ((400, b'{"error": {"message": "max_tokens is too large"}}'), ["m"],
         "HTTP 400: max_tokens is too large"),
        (blind, ["m"], "serve a model that takes images (llama.cpp: with --mmproj); HTTP 400: m"),
        ((429, b'{"error": {"message": "quota exceeded"}}'), None, "lower the concurrency"),
        ("", ["m"], "empty reply to a question about an image"),
        (wordy, ["m"], "empty reply (ended by: length) to a question about an image"),
        ((200, b"<html><body>Welcome</body></html>"), None, "is this the address of the API?"),
        ((200, b'{"error": {"message": "in the body"}}'), None, "in the body"),
        ((200, b"{"), None, "not a chat completion (JSONDecodeError"),
    ],
)  # fmt: skip
def test_each_refusal_is_told_with_its_cause_after_two_requests_at_most(reply, models, reason):
    play = reply if callable(reply) else lambda body, number: reply
    with serving(play, models=models) as server:
        with pytest.raises(DataError, match=re.escape(reason)) as refused:
            checked(server.url)
        assert str(refused.value).startswith(f"{server.url}: ")
    assert "sk-secret" not in str(refused.value) and len(server.requests) <= 2


def test_an_address_without_v1_is_told_the_likely_one():
    with serving(lambda body, number: (404, b"{}")) as server:
        host = server.url.removesuffix("/v1")
        for wrong in (host, f"{host}/", f"{server.url}/chat/completions"):
            with pytest.raises(DataError, match=f"mostly ends in /v1: {server.url}$"):
                checked(wrong)


def test_a_port_where_nothing_listens_and_a_slow_server_are_told_apart():
    with pytest.raises(DataError, match=r"cannot connect \(.*refused\): is the server running"):
        checked("http://127.0.0.1:9/v1")
    with (
        serving(lambda body, number: "late", delay=1.0) as server,
        pytest.raises(DataError, match=r"no reply within 0.2 s: allow a longer timeout"),
    ):
        checked(server.url, timeout=0.2)


def test_without_a_key_nothing_is_asked(monkeypatch):
    monkeypatch.delenv("MY_KEY")
    with serving(lambda body, number: "x") as server, pytest.raises(DataError, match="MY_KEY"):
        checked(server.url)
    assert not server.requests


def test_a_server_that_answers_is_asked_once_about_one_picture():
    with serving(lambda body, number: "A red square.") as server:
        assert checked(server.url) == "A red square."
    (request,) = server.requests
    (message,) = request["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
