"""Protocols and rollouts: what is asked, what is kept, and what a killed run repeats (nothing)."""

import json
from dataclasses import replace

import msgspec
import pytest
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.evaluate import evaluate
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import (
    Factorial,
    Failure,
    Prompt,
    Protocol,
    ProtocolSettings,
    compared_openings,
    factorial_protocols,
    read_protocols,
    single_openings,
)
from cocoift.evaluation.rollout import Head, read_log, roll_out
from cocoift.tuning.model import load_model, load_processor
from minicoco import CHAT
from minicoco.draw import draw
from minicoco.facts import facts
from minicoco.scenes import sample_scenes

OPENING = "Where is it? Answer with one word."
SINGLE = Protocol(name="single_round")
MULTI = Protocol(name="multi_round", opening=(OPENING,))


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    return folder


QUESTIONS = [Question(id=f"q{n}", images=(f"{n % 3}.png",), text=f"What is {n}?") for n in range(7)]


class Parrot:
    """An answerer that notes what it is asked and answers with the colour it is shown."""

    def __init__(self, fail=lambda prompt: False, stop_after=None):
        self.asked, self.fail, self.stop_after = [], fail, stop_after

    def __call__(self, asked):
        for number, prompt in enumerate(asked):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(prompt)
            red, green, blue = prompt.pictures[0].getpixel((0, 0))
            reply = f"{red} {green} {blue} to {prompt.messages[-1].value[-10:]}"
            yield number, Failure("HTTP 500") if self.fail(prompt) else reply


def rolled(pictures, tmp_path, answer, protocol=SINGLE, **more):
    head = Head(more.pop("key", "k"), "parrot", protocol.name)
    options = {"file": tmp_path / "r" / "x.jsonl", "image_root": pictures} | more
    return roll_out(QUESTIONS, protocol, answer, head=head, **options)


def test_a_single_round_asks_the_question_alone(pictures, tmp_path):
    parrot = Parrot()
    dialogs = rolled(pictures, tmp_path, parrot)
    assert [d.question_id for d in dialogs] == [q.id for q in QUESTIONS]
    assert all(len(d.rounds) == 1 for d in dialogs)
    assert parrot.asked[0].messages[0].value == "<image>\nWhat is 0?"
    assert dialogs[1].answer.startswith("0 128 0 to ")


def test_what_a_protocol_appends_is_asked_and_kept_and_openings_stay_as_they_are(
    pictures, tmp_path
):
    parrot = Parrot()
    full = Protocol(name="full", opening=(OPENING,), appended="Answer in a full sentence.")
    dialogs = rolled(pictures, tmp_path, parrot, full)
    assert [played.question for played in dialogs[2].rounds] == [
        OPENING, "What is 2? Answer in a full sentence."]  # fmt: skip
    last = next(p for p in parrot.asked if "What is 2?" in p.messages[-1].value)
    assert last.messages[-1].value == "What is 2? Answer in a full sentence."


def test_multi_round_keeps_the_models_own_reply_and_asks_it_once_a_picture(pictures, tmp_path):
    parrot = Parrot()
    dialogs = rolled(pictures, tmp_path, parrot, MULTI)
    openings = [prompt for prompt in parrot.asked if len(prompt.messages) == 1]
    assert len(openings) == 3 and len(parrot.asked) == 3 + len(QUESTIONS)
    last = next(prompt for prompt in parrot.asked if prompt.messages[-1].value == "What is 4?")
    asked, reply, _ = last.messages
    assert asked.value == f"<image>\n{OPENING}" and reply == Message("gpt", "0 128 0 to  one word.")
    assert [r.by for r in dialogs[4].rounds] == ["model", "model"]
    assert [r.question for r in dialogs[4].rounds] == [OPENING, "What is 4?"]


def test_a_reference_history_is_kept_in_place_of_the_models_reply(pictures, tmp_path):
    replies = ({"0.png": "red", "1.png": "green", "2.png": "blue"},)
    protocol = Protocol(name="reference", opening=(OPENING,), replies=replies)
    parrot = Parrot()
    dialogs = rolled(pictures, tmp_path, parrot, protocol)
    assert len(parrot.asked) == len(QUESTIONS)
    assert dialogs[2].rounds[0].answer == "blue" and dialogs[2].rounds[0].by == "reference"
    with pytest.raises(DataError, match=r"no reference reply for image 1\.png"):
        protocol = Protocol(name="r", opening=(OPENING,), replies=({"0.png": "red"},))
        rolled(pictures, tmp_path, Parrot(), protocol, key="other")


def test_several_opening_rounds_are_played_in_order(pictures, tmp_path):
    protocol = Protocol(name="three", opening=("One?", "Two?"))
    (dialog, *_) = rolled(pictures, tmp_path, Parrot(), protocol)
    assert [r.question for r in dialog.rounds] == ["One?", "Two?", "What is 0?"]


def test_replies_may_be_given_for_some_rounds_and_left_to_the_model_in_others(pictures, tmp_path):
    protocol = Protocol(name="p", opening=("One?", "Two?"), replies=("red", None))
    parrot = Parrot()
    dialogs = rolled(pictures, tmp_path, parrot, protocol)
    assert [(r.answer, r.by) for r in dialogs[0].rounds[:2]] == [
        ("red", "reference"), ("255 0 0 to Two?", "model")]  # fmt: skip
    assert len(parrot.asked) == 3 + len(QUESTIONS)
    again = Parrot(stop_after=0)
    assert rolled(pictures, tmp_path, again, protocol) == dialogs and not again.asked


def test_concat_puts_the_opening_and_the_question_into_one_turn(pictures, tmp_path):
    parrot = Parrot()
    dialogs = rolled(
        pictures, tmp_path, parrot, Protocol(name="concat", opening=(OPENING,), joined=True)
    )
    assert parrot.asked[0].messages[0].value == f"<image>\n{OPENING} What is 0?"
    assert len(dialogs[0].rounds) == 1 and len(parrot.asked) == len(QUESTIONS)


NEEDING = [replace(q, before=("Which one?" if q.id < "q4" else "Who?",)) for q in QUESTIONS]


def test_rounds_of_a_question_come_after_the_opening_once_per_history(pictures, tmp_path):
    options = {"file": tmp_path / "x.jsonl", "image_root": pictures, "head": Head("k", "m", "p")}
    first = Sampler(stop_after=8)
    with pytest.raises(KeyboardInterrupt):
        roll_out(NEEDING, MULTI, first, chunk=2, **options)
    rest = Sampler()
    dialogs = roll_out(NEEDING, MULTI, rest, chunk=2, **options)
    assert [r.question for r in dialogs[0].rounds] == [OPENING, "Which one?", "What is 0?"]
    assert {r.by for r in dialogs[0].rounds} == {"model"}
    # An opening an image, `Which one?` and `Who?` about each of three: 3 + 6 rounds, 7 questions.
    assert len(first.asked) + len(rest.asked) == 16
    openings = {d.images[0]: set() for d in dialogs}
    for dialog in dialogs:
        openings[dialog.images[0]].add(dialog.rounds[0].answer)
    assert {len(replies) for replies in openings.values()} == {1}


def test_a_question_is_put_without_its_rounds_when_they_are_dropped(pictures, tmp_path):
    parrot = Parrot()
    options = {"file": tmp_path / "x.jsonl", "image_root": pictures, "head": Head("k", "m", "p")}
    roll_out(NEEDING, Protocol(name="d", dropped=True), parrot, **options)
    assert len(parrot.asked) == 7 and {len(p.messages) for p in parrot.asked} == {1}


def test_dialogs_are_asked_alone_after_the_short_round_and_without_their_rounds(pictures):
    dropped = Protocol(name="history_dropped", dropped=True)
    long, only = Protocol(name="long", opening=("One?",)), Protocol(name="o", only="mm_vet")
    protocols = (SINGLE, MULTI, dropped, long, only)
    asked = {
        name: [p.name for p in protocols if p.fits(Benchmark(name, "mm_vet", some, pictures, "d"))]
        for name, some in (("dialogs", NEEDING), ("mm_vet", QUESTIONS), ("other", QUESTIONS))
    }
    assert asked == {
        "dialogs": ["single_round", "multi_round", "history_dropped"],
        "mm_vet": ["single_round", "multi_round", "long", "o"],
        "other": ["single_round", "multi_round", "long"],
    }


def test_openings_are_compared_with_the_headlines_which_is_asked_only_once():
    found = single_openings(["A?", OPENING, "B?"], headline=MULTI.opening, only="mm_vet")
    assert [(p.name, p.opening) for p in found] == [("opening_1", ("A?",)), ("opening_3", ("B?",))]
    both = compared_openings({p.name: p for p in (SINGLE, MULTI, *found)})
    assert list(both) == ["multi_round", "opening_1", "opening_3"]
    assert compared_openings({"multi_round": MULTI}) == {}


def test_the_factorial_varies_prompt_reply_and_place_and_nothing_else(tmp_path):
    rounds = {"question": "A cup?", "prompt": "Be brief.", "short": "yes", "long": "Yes, a cup.",
              "others": ["One?", "Two?"], "description": "d.json"}  # fmt: skip
    (tmp_path / "d.json").write_text(json.dumps({"0.png": "A red car."}))
    found = factorial_protocols(msgspec.convert(rounds, Factorial), tmp_path, only="mm_vet")
    assert len(found) == 8 and {p.only for p in found.values()} == {"mm_vet"}
    cell = found["factor_prompt_short_last"]
    assert cell.opening == ("One?", "Two?", "A cup? Be brief.")
    assert [cell.given(place, "0.png") for place in range(3)] == ["A red car."] * 2 + ["yes"]
    cell = found["factor_bare_long_first"]
    assert cell.opening == ("A cup?", "One?", "Two?")
    assert [cell.given(place, "0.png") for place in range(3)] == ["Yes, a cup."] + [
        "A red car."
    ] * 2
    assert len({(p.opening, str(p.replies)) for p in found.values()}) == 8


@pytest.mark.parametrize(("picture", "seen"), [("other", "0 128 0"), ("blank", "122 116 104")])
def test_controls_show_another_picture_or_none(pictures, tmp_path, picture, seen):
    dialogs = rolled(pictures, tmp_path, Parrot(), Protocol(name=picture, picture=picture))
    assert dialogs[0].answer.startswith(seen)


def test_a_failed_round_never_enters_the_history_and_is_asked_again(pictures, tmp_path):
    parrot = Parrot(fail=lambda prompt: prompt.key == "1.png" and len(prompt.messages) == 1)
    dialogs = rolled(pictures, tmp_path, parrot, MULTI)
    broken = [d for d in dialogs if d.failure]
    assert [d.question_id for d in broken] == ["q1", "q4"]
    assert broken[0].failure == "opening round 1: HTTP 500" and broken[0].answer is None
    assert not any("HTTP 500" in m.value for prompt in parrot.asked for m in prompt.messages)
    again = Parrot()
    fixed = rolled(pictures, tmp_path, again, MULTI)
    assert not [d for d in fixed if d.failure]
    assert {prompt.key for prompt in again.asked} == {"1.png"} and len(again.asked) == 3


def test_a_run_that_is_stopped_repeats_nothing(pictures, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        rolled(pictures, tmp_path, Parrot(stop_after=4))
    rest = Parrot()
    dialogs = rolled(pictures, tmp_path, rest)
    assert len(rest.asked) == len(QUESTIONS) - 4
    assert dialogs == rolled(pictures, tmp_path, Parrot(stop_after=0))
    assert read_log(tmp_path / "r" / "x.jsonl")[1] == sorted(dialogs, key=lambda d: d.images)


class Sampler(Parrot):
    """A parrot that never says the same twice, as an endpoint that samples."""

    def __call__(self, asked):
        for number, reply in super().__call__(asked):
            yield number, reply if isinstance(reply, Failure) else f"{reply} #{len(self.asked)}"


def histories(dialogs):
    """Return the opening replies that stand before each picture's questions."""
    found = {}
    for dialog in dialogs:
        found.setdefault(tuple(dialog.images), set()).add(
            tuple(r.answer for r in dialog.rounds[:-1])
        )
    return found


@pytest.mark.parametrize("chunk", [1, 2, 256], ids=["one", "two", "all at once"])
def test_a_picture_has_one_history_wherever_a_chunk_or_a_stop_cuts_its_questions(
    pictures, tmp_path, chunk
):
    protocol = Protocol(name="three", opening=("One?", "Two?"))
    first = Sampler(stop_after=9)
    with pytest.raises(KeyboardInterrupt):
        rolled(pictures, tmp_path, first, protocol, chunk=chunk)
    rest = Sampler()
    dialogs = rolled(pictures, tmp_path, rest, protocol, chunk=chunk)
    assert [d.question_id for d in dialogs] == [q.id for q in QUESTIONS]
    assert {len(replies) for replies in histories(dialogs).values()} == {1}
    openings = [a for a in (*first.asked, *rest.asked) if a.messages[-1].value.endswith("Two?")]
    assert len(openings) == 3
    # Nothing that was answered is asked again: 3 x 2 opening rounds and 7 questions.
    assert len(first.asked) + len(rest.asked) == 13


def test_a_line_that_a_kill_cut_short_is_asked_again(pictures, tmp_path):
    whole = rolled(pictures, tmp_path, Parrot())
    file = tmp_path / "r" / "x.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    parrot = Parrot()
    assert rolled(pictures, tmp_path, parrot) == whole
    assert len(parrot.asked) == 1


def test_answers_that_depend_on_something_else_are_not_reused(pictures, tmp_path):
    rolled(pictures, tmp_path, Parrot())
    parrot = Parrot()
    rolled(pictures, tmp_path, parrot, key="another adapter")
    assert len(parrot.asked) == len(QUESTIONS)


def test_a_damaged_rollout_file_is_named(pictures, tmp_path):
    rolled(pictures, tmp_path, Parrot())
    file = tmp_path / "r" / "x.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b'{"question_id": 3}\n', *lines[2:]]))
    with pytest.raises(DataError, match=r"x\.jsonl: .*delete it and run again"):
        rolled(pictures, tmp_path, Parrot())


def test_protocols_are_read_from_a_preset_and_checked(tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"0.png": "red"}))
    settings = {"a": {}, "b": {"opening": ["x"], "replies": ["r.json"], "picture": "blank"}}
    found = read_protocols(as_settings(settings), tmp_path)
    assert found["a"] == Protocol(name="a")
    assert found["b"].replies == ({"0.png": "red"},) and found["b"].picture == "blank"
    for wrong, message in (
        ({"opnening": []}, "unknown field `opnening`"),
        ({"picture": "mine"}, "Invalid enum value 'mine'"),
        ({"opening": ["x"], "replies": ["a", "b"]}, "2 replies for 1 opening rounds"),
        ({"opening": ["x"], "replies": ["a"], "joined": True}, "joined rounds have no replies"),
    ):
        with pytest.raises(msgspec.ValidationError, match=message):
            as_settings({"a": wrong})
    absent = as_settings({"a": {"opening": ["x"], "replies": ["absent.json"]}})
    with pytest.raises(DataError, match=r"absent\.json: "):
        read_protocols(absent, tmp_path)


def as_settings(values):
    return msgspec.convert(values, dict[str, ProtocolSettings])


@pytest.fixture(scope="module")
def prompts():
    """Questions of different lengths on five pictures, some after an opening round."""
    made = []
    for number, scene in enumerate(sample_scenes(5, seed=9)):
        for place, fact in enumerate(facts(scene)[:4]):
            before = [] if place % 2 else [Message("human", "<image>\nWhere?"), Message("gpt", "x")]
            marker = "" if before else "<image>\n"
            messages = [*before, Message("human", f"{marker}{fact.question * (1 + place)}")]
            made.append(Prompt(str(number), (draw(scene),), messages))
    return made


@pytest.mark.parametrize("four_bit", [False, True], ids=["full precision", "four bits"])
def test_batched_answers_are_those_of_asking_alone(checkpoint, prompts, four_bit):
    model, processor = load_model(checkpoint, four_bit=four_bit), load_processor(checkpoint)
    options = {"chat": CHAT, "new_tokens": 12}
    together = generate(model, processor, prompts, batch=7, **options)
    alone = [generate(model, processor, [prompt], **options)[0] for prompt in prompts]
    assert together == alone and len(set(together)) > 3


def test_answers_are_those_of_transformers_own_greedy_search(checkpoint, prompts):
    import torch

    from cocoift.core.images import pixel_values
    from cocoift.tuning.chat import Encoding, prompt_ids

    model, processor = load_model(checkpoint, four_bit=False), load_processor(checkpoint)
    tokenizer = processor.tokenizer
    expected = []
    for prompt in prompts[:6]:
        ids = prompt_ids(prompt.messages, Encoding(tokenizer, CHAT, 16))
        ids = torch.tensor([ids])
        pixels = torch.from_numpy(pixel_values(prompt.pictures, processor.image_processor))
        made = model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=12,
                              do_sample=False, attention_mask=torch.ones_like(ids))  # fmt: skip
        text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
        expected.append(text.strip())
    assert generate(model, processor, prompts[:6], chat=CHAT, new_tokens=12) == expected


def test_a_model_that_is_the_same_for_several_seeds_is_asked_once(pictures, tmp_path):
    questions = Benchmark("mm_vet", "mm_vet", QUESTIONS, pictures, "d")
    runs, asked = {}, {}
    for seed, key in ((0, "same"), (1, "same"), (2, "another")):
        parrot = Parrot()
        candidate = Candidate("base", seed, parrot, key)
        [runs[seed]] = evaluate(candidate, [questions], [MULTI], folder=tmp_path / "r")
        asked[seed] = len(parrot.asked)
    assert asked == {0: 10, 1: 0, 2: 10}
    assert runs[1].rollouts == runs[0].rollouts
    assert read_log(runs[1].file)[0].model == "base-1"
