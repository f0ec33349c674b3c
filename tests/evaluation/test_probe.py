"""The probe: the sign of the margin, and what it is computed from."""

import json

import pandas as pd
import pytest
import torch
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.images import pixel_values
from cocoift.core.schema import Message
from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.generation import margins
from cocoift.evaluation.probe import margin_table, probe, read_pairs
from cocoift.evaluation.protocols import Failure, Prompt, Protocol
from cocoift.tuning.chat import IGNORED, Encoding, answered_ids, prompt_ids
from cocoift.tuning.model import load_model, load_processor
from minicoco import CHAT

QUESTIONS = ("What color is the cup?", "Where is the car?", "What is at the top left?")
SHORT, FULL = ("red", "beach", "boat"), ("The cup is red.", "It is there.", "A blue boat is there.")


def prompt(text, colour):
    picture = Image.new("RGB", (64, 64), colour)
    return Prompt(f"{colour}.jpg", (picture,), [Message("human", f"<image>\n{text}")])


@pytest.fixture(scope="module")
def asked():
    return [prompt(t, c) for t, c in zip(QUESTIONS, ("red", "blue", "green"), strict=True)]


@pytest.fixture
def loaded(checkpoint):
    return load_model(checkpoint, four_bit=False, device="cpu"), load_processor(checkpoint)


def overfitted(model, processor, asked, answers):
    """Train a few steps on these answers alone."""
    encoding = Encoding(processor.tokenizer, CHAT, 16)
    model.requires_grad_(True)
    optimiser = torch.optim.Adam(model.model.language_model.parameters(), lr=3e-3)
    for _ in range(25):
        for prompt, text in zip(asked, answers, strict=True):
            ids = torch.tensor([answered_ids(prompt.messages, text, encoding)])
            labels = ids.clone()
            labels[:, : len(prompt_ids(prompt.messages, encoding))] = IGNORED
            pixels = torch.from_numpy(pixel_values(prompt.pictures, processor.image_processor))
            model(input_ids=ids, pixel_values=pixels, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
    return model.eval()


@pytest.mark.parametrize(("taught", "sign"), [(SHORT, 1), (FULL, -1)], ids=["short", "full"])
def test_a_model_overfitted_to_one_kind_of_answer_begins_that_kind(loaded, asked, taught, sign):
    model, processor = loaded
    pairs = list(zip(SHORT, FULL, strict=True))
    before = margins(model, processor, asked, pairs, chat=CHAT)
    after = margins(overfitted(model, processor, asked, taught), processor, asked, pairs, chat=CHAT)
    assert all(sign * margin > 1 for margin in after)
    assert all(sign * (late - early) > 0 for late, early in zip(after, before, strict=True))


def test_a_margin_is_that_of_the_whole_sequences_computed_without_a_cache(loaded, asked):
    model, processor = loaded
    encoding = Encoding(processor.tokenizer, CHAT, 16)
    pairs = [("red", "The cup is red."), ("The car", "The cup"), ("a", "a b")]
    found = margins(model, processor, asked, pairs, chat=CHAT, batch=2)
    for prompt, texts, margin in zip(asked, pairs, found, strict=True):
        first, second = (answered_ids(prompt.messages, text, encoding) for text in texts)
        at = next(n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
        pixels = torch.from_numpy(pixel_values(prompt.pictures, processor.image_processor))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([first[:at]]), pixel_values=pixels).logits
        log = logits[0, -1].log_softmax(-1)
        assert margin == pytest.approx(float(log[first[at]] - log[second[at]]), abs=1e-4)


def test_two_answers_that_are_the_same_cannot_be_compared(loaded, asked):
    with pytest.raises(ValueError, match="both answers are 'red'"):
        margins(*loaded, asked[:1], [("red", "red")], chat=CHAT)


@pytest.fixture
def gqa(tmp_path):
    path = tmp_path / "questions.json"
    rows = {
        f"q{n}": {"imageId": "a", "question": t, "answer": s, "fullAnswer": f, "semantic": []}
        for n, (t, s, f) in enumerate(zip(QUESTIONS, SHORT, FULL, strict=True))
    }
    rows["same"] = {"imageId": "a", "question": "?", "answer": "yes", "fullAnswer": "yes"}
    path.write_text(json.dumps(rows))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.jpg")
    return path


def test_pairs_are_read_from_gqas_format_and_equal_answers_left_out(gqa):
    pairs = read_pairs(gqa)
    assert [(p.short, p.full) for p in pairs] == list(zip(SHORT, FULL, strict=True))
    assert pairs[0].question.images == ("a.jpg",)


def test_pairs_are_spread_over_the_file_when_more_than_half_of_them_are_wanted(tmp_path):
    row = {"imageId": "a", "question": "?", "answer": "yes", "fullAnswer": "Yes, it is."}
    (tmp_path / "questions.json").write_text(json.dumps({f"q{n}": row for n in range(5)}))
    pairs = read_pairs(tmp_path / "questions.json", count=3)
    assert [pair.question.id for pair in pairs] == ["q0", "q1", "q3"]


def test_a_file_that_is_not_gqas_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"1": {"imageId": "a"}}')
    with pytest.raises(DataError, match=r"x\.json.*GQA"):
        read_pairs(tmp_path / "x.json")


def test_real_gqa_questions_are_read(real):
    (pair,) = read_pairs(real / "gqa/questions.json")
    assert (pair.short, pair.full) == ("picture", "The picture is hanging above the chalkboard.")


def scripted(fails=False):
    """A model whose margin is the number of messages it sees."""

    def answer(asked):
        for number, _ in enumerate(asked):
            yield number, Failure("refused") if fails else "beach"

    def compare(asked, texts):
        return [float(len(prompt.messages)) for prompt in asked]

    return Candidate("mix", 0, answer, "key", compare)


PROTOCOLS = (Protocol(name="alone"), Protocol(name="after", opening=("Where?",)))


def test_the_margin_after_an_opening_sees_the_models_own_reply(gqa):
    table = probe(scripted(), read_pairs(gqa), PROTOCOLS, image_root=gqa.parent)
    assert table.groupby("protocol").margin.unique().str[0].to_dict() == {"alone": 1, "after": 3}


def test_a_failed_opening_and_an_endpoint_give_no_margin(gqa):
    table = probe(scripted(fails=True), read_pairs(gqa), PROTOCOLS, image_root=gqa.parent)
    assert set(table.protocol) == {"alone"}
    endpoint = Candidate("remote", 0, scripted().answer, "key")
    assert probe(endpoint, read_pairs(gqa), PROTOCOLS, image_root=gqa.parent).empty


def test_the_shift_is_paired_by_question_and_its_interval_holds_it():
    rows = [
        ("mix", 0, protocol, f"q{n}", f"i{n}", n + 5.0 * (protocol == "after"))
        for n in range(20)
        for protocol in ("alone", "after")
    ]
    columns = ["model", "seed", "protocol", "question_id", "image", "margin"]
    table = margin_table(pd.DataFrame(rows, columns=columns), before="alone", after="after")
    shift = table.set_index("measure").loc["shift"]
    assert shift.value == pytest.approx(5) and shift.low == pytest.approx(5)
    alone = table.set_index("measure").loc["alone"]
    assert alone.value == pytest.approx(9.5)
    assert alone.low < 9.5 < alone.high
