import random

import msgspec
import numpy as np
import pytest
from files import FORMATS, llava, write
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.text import question_key
from cocoift.lint import check
from cocoift.lint.columns import TURN
from cocoift.lint.cue import cue_strength
from cocoift.lint.findings import CHECKS, Limits
from cocoift.lint.wording import states_form
from cocoift.sources.refcoco import LOCATE

SHORT = "Answer the question using a single word or phrase."


def found(result):
    return {finding.name: finding for finding in result.findings}


def talk(*pairs, image="a/1.jpg", **more):
    turns = []
    for place, (question, answer) in enumerate(pairs):
        turns.append({"from": "human", "value": ("" if place else "<image>\n") + question})
        turns.append({"from": "gpt", "value": answer})
    return {"image": image, "conversations": turns} | more


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_leads_to_the_same_findings(tmp_path, name):
    result = check(write(tmp_path, name))
    by_name = found(result)
    assert set(by_name) == {"unasked", "first_turn_only", "all_terse", "both_ways"}
    assert by_name["unasked"].total.count == 3 and by_name["unasked"].total.of == 6
    assert by_name["first_turn_only"].total.count == by_name["all_terse"].total.count == 1
    (example,) = by_name["both_ways"].total.examples
    assert (example.question, example.answer) == ("What color is it?", "black")
    assert result.total.placed["first turn only"] == 1


def test_each_fault_is_found_in_its_record_and_in_no_other(tmp_path):
    full = ("What is there?", "A cat sits on the chair.")
    rows = {
        "held_out": talk(full, image="coco/val2014/COCO_val2014_000000000042.jpg"),
        "against": talk(full, image="coco/train2017/000000000025.jpg"),
        "empty_answer": talk(("Why is it?", "")),
        "repeated": talk(full, full),
        "roles": {"conversations": [{"from": "gpt", "value": "x"}]},
        "marker_missing": {
            "image": "a/1.jpg",
            "conversations": talk(full, full)["conversations"][2:],
        },
        "marker_extra": talk(("<image> Who?", "A cat sits on it.")),
        "fine": talk(full),
    }
    path = write(tmp_path, "x.json", [row | {"id": name} for name, row in rows.items()])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000000025.jpg").touch()
    by_name = found(check(path, against=tmp_path / "images"))
    assert set(by_name) == set(rows) - {"fine"}
    for name, finding in by_name.items():
        assert finding.total.count == 1 and finding.total.examples[0].id == name


def test_placements_are_told_apart(tmp_path):
    asked, bare = (f"What is it?\n{SHORT}", "cat"), ("Which animal?", "dog")
    rows = [talk(bare, bare), talk(asked, bare), talk(asked, asked), talk(bare, asked),
            talk(asked, asked, bare), talk(asked), talk(("Why?", "So it is, I say."))]  # fmt: skip
    placed = check(write(tmp_path, "x.json", rows)).total.placed
    assert placed == {"no turn": 1, "first turn only": 1, "some terse turns": 2,
                      "every terse turn": 1}  # fmt: skip


def test_findings_are_by_source_the_worst_first(tmp_path):
    bare = ("Which animal?", "dog")
    rows = [talk(bare, source="bad"), talk(("Why?", "It is so because."), source="mixed"),
            talk(bare, source="mixed")]  # fmt: skip
    unasked = found(check(write(tmp_path, "x.json", rows)))["unasked"]
    assert [(c.source, c.count, c.of) for c in unasked.sources] == [("bad", 1, 1), ("mixed", 1, 2)]


def test_conversations_longer_than_the_context_are_counted_with_a_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"w": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = [talk(("q", "w " * count)) for count in (30, 50)]
    path = write(tmp_path, "x.json", rows)
    limits = Limits(context_tokens=100, image_tokens=40, record_tokens=5, turn_tokens=5)
    result = check(path, tokenizer=tmp_path / "tokenizer.json", limits=limits)
    assert found(result)["too_long"].total.count == 1  # 1 + 50 + 50 tokens
    assert "too_long" not in found(check(path, limits=limits))


def test_records_beyond_recognition_are_counted_and_named(tmp_path):
    rows = [*llava(), {"id": "odd"}, {"id": "odder"}]
    unread = found(check(write(tmp_path, "x.json", rows)))["unread"]
    assert (unread.total.count, unread.total.of) == (2, 5)
    assert [example.place for example in unread.total.examples] == ["x.json[3]", "x.json[4]"]
    with pytest.raises(DataError, match="none of its records"):
        check(write(tmp_path, "y.json", rows[3:]))


def made_turns(after_short, otherwise, *, n=4_000, seed=0):
    """Return conversations of two turns, the second short with a chance by the first's length."""
    rng = random.Random(seed)
    turns = np.zeros(2 * n, TURN)
    for record in range(n):
        first, second = turns[2 * record], turns[2 * record + 1]
        first["record"] = second["record"] = record
        begins = record % 2
        short = rng.random() < (0.8, 0.2)[begins]
        first["asked"], first["words"] = True, 1 if short else 9
        chance = (after_short if short else otherwise) + 0.3 * begins
        second["position"], second["beginning"] = 1, 7 + begins
        second["words"] = 1 if rng.random() < chance else 9
    return turns


def test_cue_strength_is_what_the_answers_were_drawn_with():
    turns = made_turns(0.5, 0.1)
    cue = cue_strength(turns, np.ones(len(turns), bool))
    assert cue.low < 40 < cue.high and cue.high - cue.low < 12
    assert cue.turns == 4_000


def test_questions_that_differ_in_length_by_themselves_are_no_cue():
    """Short answers follow short ones here only because each kind of question goes with one."""
    turns = made_turns(0.1, 0.1)
    cue = cue_strength(turns, np.ones(len(turns), bool))
    assert cue.low < 0 < cue.high
    second = turns[turns["position"] == 1]
    first = turns[turns["position"] == 0]
    short = second["words"] == 1
    crude = 100 * (short[first["words"] == 1].mean() - short[first["words"] == 9].mean())
    assert abs(crude) > 12 and abs(cue.strength) < 5


def test_without_anything_to_compare_there_is_no_cue(tmp_path):
    assert check(write(tmp_path, "x.json", [talk(("Why?", "cat"))])).total.cue is None


def test_prompts_that_follow_one_cure_the_cue():
    """The same answers, but the questions say so: nothing unprompted is left to compare."""
    turns = made_turns(1.0, 0.0)
    turns["asked"] |= turns["words"] == 1
    cue = cue_strength(turns, np.ones(len(turns), bool))
    assert cue is None or abs(cue.strength) < 1


@pytest.mark.parametrize(
    ("question", "stated"),
    [(f"What is it?\n{SHORT}", True), ("What is it? Give a very brief answer.", True),
     ("Is it red? Answer yes or no.", True), ("What is it?\nKeep it short and to the point.", True),
     ("Who is it?\nShort answer required.", True), ("Offer a terse response. Who?", True),
     ("Reply in one word: who?", True), ("Which?\nA. red\nB. blue", True),
     (LOCATE.format(question="the cat"), True), ("Answer concisely: what is it?", True),
     ("Your answer should be very brief. Who?", True), ("Describe it in two sentences.", True),
     ("Is the man short?", False), ("What word is on the sign?", False), ("What is it?", False),
     ("How many people wear short sleeves?", False), ("Is the letter B on the box?", False),
     ("Can you describe the picture in detail?", False), ("Is it true that it rains?", False),
     ("Which number is on the bus?", False), ("What is in the brief case?", False)],
)  # fmt: skip
def test_a_stated_form_is_told_from_a_question_with_the_same_words(question, stated):
    assert states_form(question, question_key(question)) == stated


def test_near_duplicate_pictures_are_found(tmp_path):
    pytest.importorskip("imagehash", reason="ImageHash is not installed")
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 255, (8, 8, 3), np.uint8) for _ in range(3)]
    for folder in ("ours", "theirs"):
        (tmp_path / folder).mkdir()
    for number, pixels in enumerate(small):
        Image.fromarray(pixels).resize((200, 160)).save(tmp_path / f"ours/{number}.png")
    copy = Image.fromarray(small[1]).resize((150, 120))
    copy.save(tmp_path / "theirs/benchmark.jpg", quality=60)
    rows = [talk(("Who?", "A cat sits on it."), image=f"{n}.png", id=f"{n}") for n in range(3)]
    rows += [talk(("Who?", "A cat sits on it."), image="../theirs/benchmark.jpg", id="outside")]
    path = write(tmp_path, "x.json", rows)
    by_name = found(check(path, images=tmp_path / "ours", against=tmp_path / "theirs"))
    assert [example.id for example in by_name["near_duplicate"].total.examples] == ["1"]
    assert by_name["near_duplicate"].total.count == 1


def test_without_imagehash_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagehash", None)
    path = write(tmp_path, "llava.json")
    with pytest.raises(DataError, match="pip install ImageHash"):
        check(path, images=tmp_path, against=tmp_path)


def test_every_check_says_what_to_do():
    assert all(check.advice and check.title for check in CHECKS.values())
    assert msgspec.to_builtins(CHECKS)["unasked"]["unit"] == "turns"
