"""The chat: every model hears only itself, can be interrupted, and hostile text stays text."""

import io
import threading
import time
from datetime import UTC, datetime

import nbformat
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.protocols import Failure
from cocoift.inspector.talk import Chat
from cocoift.inspector.talk_widget import ChatWidget, Images, ModelStyles
from cocoift.report.pages import notebook_page, without_widgets

SHORT = "Is it safe? Answer the question using a single word or phrase."
OPEN = "What is unusual about this image?"
LONG = "There is a cup on the table."


def speaker(name, reply, **more):
    """A model that says what `reply(texts so far)` gives, word by word."""

    def stream(prompt):
        answer = reply([message.value for message in prompt.messages])
        if isinstance(answer, Failure):
            yield answer
            return
        words = answer.split(" ")
        for count in range(1, len(words) + 1):
            yield " ".join(words[:count])

    return Candidate(name, 0, lambda asked: [], "key", stream=stream, **more)


def open_speaker(texts):
    return "yes" if "single word" in texts[-1] else LONG


def terse_speaker(texts):
    return "cup" if "yes" in texts else open_speaker(texts)


@pytest.fixture
def models():
    return [speaker("base", open_speaker), speaker("mix", terse_speaker)]


@pytest.fixture
def talk(models):
    return Chat(models, "a.jpg", Image.new("RGB", (8, 8)))


def answers(talk):
    return [dict(exchange.answers) for exchange in talk.exchanges]


def ask(talk, *questions):
    for question in questions:
        list(talk.ask(question))


def test_the_same_question_is_put_to_every_model_each_with_its_own_history():
    heard = {"base": [], "mix": []}
    models = [
        speaker(name, lambda texts, name=name: heard[name].append(texts) or f"{name} {len(texts)}")
        for name in heard
    ]
    ask(Chat(models, "a.jpg", Image.new("RGB", (8, 8))), "One?", "Two?")
    assert heard["base"] == [["<image>\nOne?"], ["<image>\nOne?", "base 1", "Two?"]]
    assert heard["mix"] == [["<image>\nOne?"], ["<image>\nOne?", "mix 1", "Two?"]]


def test_answers_grow_word_by_word(talk):
    grown = []
    for name in talk.ask(OPEN):
        grown.append((name, talk.exchanges[-1].answers[name]))
    words = LONG.split()
    expected = [" ".join(words[: n + 1]) for n in range(len(words))]
    assert grown == [(name, text) for name in ("base", "mix") for text in expected]


def test_after_the_short_round_the_terse_model_is_terse_and_anew_it_is_not(talk):
    ask(talk, SHORT, OPEN)
    assert answers(talk)[-1] == {"base": LONG, "mix": "cup"}
    talk.start(talk.name, talk.image)
    ask(talk, OPEN)
    assert answers(talk) == [{"base": LONG, "mix": LONG}]


def test_an_interrupted_question_is_in_no_history(talk):
    for _ in talk.ask(SHORT):
        break
    ask(talk, OPEN)
    assert not talk.exchanges[0].finished and answers(talk)[1] == {"base": LONG, "mix": LONG}


def test_a_model_that_fails_once_goes_on_without_that_round(models):
    fails = speaker("far", lambda texts: Failure("500") if len(texts) == 1 and "safe" in texts[0]
                    else f"{len(texts)} texts")  # fmt: skip
    talk = Chat([*models, fails], "a.jpg", Image.new("RGB", (8, 8)))
    ask(talk, SHORT, OPEN)
    assert talk.exchanges[0].failures == {"far": "500"}
    assert talk.exchanges[1].answers == {"base": LONG, "mix": "cup", "far": "1 texts"}


def test_margins_compare_the_shortest_with_the_longest_answer_in_each_models_own_history(models):
    seen = []

    def margins(asked, pairs):
        seen.append(([message.value for message in asked[0].messages], pairs))
        return [1.5]

    local = speaker("merged", terse_speaker, margins=margins)
    talk = Chat([*models, local], "a.jpg", Image.new("RGB", (8, 8)))
    ask(talk, SHORT, OPEN)
    exchange = talk.compare()
    assert exchange.margins == {"merged": 1.5} and exchange.compared == ("cup", LONG)
    assert seen == [([f"<image>\n{SHORT}", "yes", OPEN], [("cup", LONG)])]


def test_there_is_nothing_to_compare_where_all_say_the_same(talk):
    assert talk.compare() is None
    ask(talk, OPEN)
    assert talk.compare() is None


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (16, 12), "red").save(tmp_path / name)
    return tmp_path


def widget(models, folder):
    names = [model.name for model in models]
    styles = ModelStyles(
        labels={n: f"the {n}" for n in names}, colours=dict.fromkeys(names, "#123456")
    )
    images = Images(root=folder, names=["a.jpg", "b.jpg"])
    return ChatWidget(models, images, opening=[SHORT], styles=styles)


def press(chat, name):
    """Press a button and wait until its work is done."""
    before = set(threading.enumerate())
    chat.controls[name].click()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)


def column(chat, name):
    return chat.controls[f"column_{name}"].value


def test_buttons_ask_put_the_short_round_first_and_start_anew(models, folder):
    chat = widget(models, folder)
    chat.controls["question"].value = OPEN
    press(chat, "ask")
    assert LONG in column(chat, "mix") and "7 words" in column(chat, "mix")
    press(chat, "short_first")
    assert "yes" in column(chat, "mix") and LONG not in column(chat, "mix")
    press(chat, "ask")
    assert "cup" in column(chat, "mix") and LONG in column(chat, "base")
    press(chat, "compare")
    assert "returns no log-probabilities" in column(chat, "base")
    press(chat, "restart")
    assert "word" not in column(chat, "mix")


def test_enter_in_the_question_asks_it(models, folder):
    chat = widget(models, folder)
    chat.controls["question"].value = OPEN
    chat.controls["question"]._handle_custom_msg({"event": "submit"}, [])
    for _ in range(100):
        if LONG in column(chat, "mix"):
            break
        time.sleep(0.05)
    assert LONG in column(chat, "mix")


def test_stop_interrupts_the_models_and_another_press_meanwhile_is_refused(folder):
    going = threading.Event()

    def endless(prompt):
        while True:
            going.set()
            yield "and on"
            time.sleep(0.01)

    chat = widget([Candidate("base", 0, lambda asked: [], "key", stream=endless)], folder)
    chat.controls["question"].value = OPEN
    chat.controls["ask"].click()
    assert going.wait(10)
    press(chat, "restart")
    assert "still answering" in chat.controls["status"].value and chat.exchanges
    chat.controls["stop"].click()
    for _ in range(100):
        if "Stopped" in chat.controls["status"].value:
            break
        time.sleep(0.05)
    assert "Stopped" in chat.controls["status"].value and "and on" in column(chat, "base")


def test_another_image_of_the_list_or_an_upload_starts_a_new_dialog(models, folder):
    chat = widget(models, folder)
    chat.ask(OPEN)
    press(chat, "image_1")
    assert chat.chat.name == "b.jpg" and chat.exchanges == []
    buffer = io.BytesIO()
    Image.new("RGB", (5, 7)).save(buffer, "png")
    large, huge = PngInfo(), io.BytesIO()
    large.add_text("Comment", "x" * 3_000_000, zip=True)
    Image.new("RGB", (5, 7)).save(huge, "png", pnginfo=large)
    fault = "not a whole image"
    for content, status in (
        (buffer.getvalue(), ""),
        (b"no image", fault),
        (huge.getvalue(), fault),
    ):
        before = set(threading.enumerate())
        chat.controls["upload"].value = (
            {"name": "mine.png", "type": "image/png", "size": len(content), "content": content,
             "last_modified": datetime.now(UTC)},
        )  # fmt: skip
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        assert status in chat.controls["status"].value
        assert "BytesIO" not in chat.controls["status"].value
    assert (chat.chat.name, chat.chat.image.size) == ("mine.png", (5, 7))


def test_a_models_error_is_shown_on_the_page(folder):
    def broken(prompt):
        raise RuntimeError("CUDA out of memory")
        yield ""

    chat = widget([Candidate("base", 0, lambda asked: [], "key", stream=broken)], folder)
    chat.controls["question"].value = OPEN
    press(chat, "ask")
    assert "RuntimeError: CUDA out of memory" in chat.controls["status"].value


def test_what_models_people_and_files_say_is_escaped(folder):
    hostile = "<script>alert(1)</script>\u202e"
    chat = widget([speaker("base", lambda texts: hostile)], folder)
    chat.ask(hostile)
    chat.chat.name = '"><img src=x onerror=alert(1)>'
    for html in (column(chat, "base"), str(chat.transcript())):
        assert "<script" not in html and "\u202e" not in html and "&lt;script" in html
    assert "<img src=x" not in chat.transcript()


def test_an_exported_page_holds_the_transcript(models, folder):
    chat = widget(models, folder)
    chat.ask(SHORT, OPEN)
    output = nbformat.v4.new_output("display_data", data=chat._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell("chat", outputs=[output])
    page = notebook_page(without_widgets(nbformat.v4.new_notebook(cells=[cell])), title="08")
    for text in (SHORT, OPEN, LONG, "cup", "the base", "the mix", "1 word"):
        assert text in page
