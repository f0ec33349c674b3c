import copy
import html
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import DataCollatorForSeq2Seq

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.core.text import visible
from cocoift.report.cards import batch_card, record_card, thumbnail
from cocoift.tuning.chat import Encoding, encode
from cocoift.tuning.model import load_processor
from minicoco import CHAT

HOSTILE = [
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    '<a href="javascript:alert(1)">x</a>',
    '"><svg onload=alert(1)>',
    "\u202egnp.exe",
    "x" * 100_000,
]


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def card(text, tmp_path, *, image="train2017/x.jpg", source="vqav2"):
    messages = [Message("human", f"<image>\n{text}"), Message("gpt", text)]
    record = Record(text[:50] or "x", image, messages, [source])
    parsed = Elements()
    parsed.feed(record_card(record, image_root=tmp_path, names={}))
    return parsed


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_as_text(text, tmp_path):
    parsed = card(text, tmp_path, source=text)
    tags = {tag for tag, _ in parsed.seen}
    assert tags <= {"section", "div", "strong", "table", "thead", "tbody", "tr", "th", "td", "p"}
    assert html.unescape(visible(text)) in parsed.text
    assert not any(name.startswith("on") for _, attrs in parsed.seen for name in attrs)


@given(st.text(min_size=1))
def test_no_text_adds_an_element(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    assert len(card(text, folder).seen) == len(card("plain", folder).seen)


def test_every_text_cell_isolates_its_direction(tmp_path):
    cells = [attrs for tag, attrs in card("\u202eabc", tmp_path).seen if tag == "td"]
    assert all(attrs["dir"] == "auto" and "isolate" in attrs["style"] for attrs in cells)


def test_a_picture_outside_the_root_is_refused_in_words(tmp_path):
    parsed = card("x", tmp_path, image="../secret.jpg")
    assert any("leaves its root" in text for text in parsed.text)
    assert not [tag for tag, _ in parsed.seen if tag == "img"]


def test_a_picture_is_carried_in_the_page(tmp_path):
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (640, 320), "red").save(tmp_path / "train2017/x.jpg")
    (image,) = [attrs for tag, attrs in card("x", tmp_path).seen if tag == "img"]
    assert image["src"].startswith("data:image/jpeg;base64,")
    assert image["alt"] == "picture train2017/x.jpg"


def test_no_picture_and_too_large_a_picture_are_told(tmp_path, monkeypatch):
    (tmp_path / "no.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"no\.jpg: not a whole image"):
        thumbnail(tmp_path / "no.jpg")
    with pytest.raises(DataError, match=r"absent\.jpg: no image on disk"):
        thumbnail(tmp_path / "absent.jpg")
    monkeypatch.setattr("cocoift.core.images.LARGEST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "big.png")
    with pytest.raises(DataError, match="10 x 10 px is too large"):
        thumbnail(tmp_path / "big.png")


class Marked(HTMLParser):
    """Collects the text that is marked as carrying loss."""

    def __init__(self):
        super().__init__()
        self.open, self.found = False, []

    def handle_starttag(self, tag, attrs):
        self.open = tag == "mark"
        self.found += [""] if self.open else []

    def handle_endtag(self, tag):
        self.open = False

    def handle_data(self, data):
        if self.open:
            self.found[-1] += data


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return load_processor(checkpoint).tokenizer


def row_of(tokenizer, *answers):
    """A conversation as LLaMA-Factory hands it to its collator: ids, labels, attention mask."""
    messages = []
    for number, answer in enumerate(answers):
        asked = "And?" if number else "<image>\nWhat is it?"
        messages += [Message("human", asked), Message("gpt", answer)]
    record = Record("r", "i.jpg", messages, [""] * len(answers))
    sample = encode(record, Encoding(tokenizer, CHAT, 4))
    ids = list(sample.input_ids)
    return {"input_ids": ids, "labels": sample.labels, "attention_mask": [1] * len(ids)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_transformers_own_collator_shows_the_answers_alone_as_carrying_loss(
    tokenizer, side
):
    """LLaMA-Factory's and ms-swift's collators pad as `DataCollatorForSeq2Seq` does."""
    padded = copy.deepcopy(tokenizer)
    padded.padding_side = side
    rows = [row_of(tokenizer, "red", "a car"), row_of(tokenizer, "It is <b>big</b>.")]
    lengths = [len(row["input_ids"]) for row in rows]
    batch = DataCollatorForSeq2Seq(padded, return_tensors="pt")(rows)
    card = batch_card(batch["input_ids"], batch["labels"], tokenizer)
    page = Marked()
    page.feed(card)
    assert [text.strip() for text in page.found] == [
        "red</s>", "a car</s>", "It is <b>big</b>.</s>"]  # fmt: skip
    assert all(f"row {n}: {length} tokens, " in card for n, length in enumerate(lengths))
    assert "&lt;image&gt; × 4" in card


def test_labels_that_are_shifted_are_refused_with_their_row_and_place(tokenizer):
    row = row_of(tokenizer, "red")
    shifted = [*row["labels"][1:], -100]
    with pytest.raises(DataError, match=r"row 0, token \d+: label .* not shifted"):
        batch_card([row["input_ids"]], [shifted], tokenizer)
