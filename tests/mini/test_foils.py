"""Mini's foils: true sentences are true of their scene, false ones false, and of one length."""

import random
import re

import pytest

from cocoift.evaluation.choice import read_choices
from cocoift.tuning.model import load_processor
from minicoco import foils
from minicoco.benchmark import benchmark_scenes
from minicoco.corpus import conversation
from minicoco.facts import paragraph
from minicoco.scenes import CATEGORIES, COLOURS

KINDS = {"colour": "att", "place": "rel", "object": "obj"}
SENTENCE = re.compile(r"There is an? (small|large) (\w+) (.+) at the (\w+ \w+)\.")


@pytest.fixture(scope="module")
def scenes():
    return benchmark_scenes(0, pixels=64, count=200)


@pytest.fixture(scope="module")
def choices(scenes, tmp_path_factory):
    import msgspec

    folder = tmp_path_factory.mktemp("foils")
    (folder / "sugar_crepe").mkdir()
    for name, rows in foils.files(scenes, random.Random(1)):
        (folder / name).write_bytes(msgspec.json.encode(rows))
    files = {kind: folder / f"sugar_crepe/replace_{name}.json" for kind, name in KINDS.items()}
    found, dropped = read_choices(files, asked="?")
    assert dropped == {} and len(found) == 2 * len(scenes)
    return found


def said(text):
    """What a sentence says: size, colour, category, place."""
    return SENTENCE.fullmatch(text).groups()


def test_true_sentences_stand_in_the_scenes_description_and_foils_do_not(scenes, choices):
    for choice in choices:
        described = paragraph(scenes[choice.question.images[0]])
        stated = {text: "A {} {} {} is at the {}.".format(*said(text))
                  for text in (choice.truth, *choice.foils.values())}  # fmt: skip
        assert stated.pop(choice.truth) in described
        assert not [text for text, other in stated.items() if other in described]


def test_a_foil_is_false_by_the_scenes_things_and_exchanges_its_kind_alone(scenes, choices):
    for choice in choices:
        scene = scenes[choice.question.images[0]]
        things = {(t.size, t.colour, t.category, t.place) for t in scene.things}
        true = said(choice.truth)
        assert true in things
        for kind, text in choice.foils.items():
            false = said(text)
            assert false not in things
            changed = [n for n in range(4) if false[n] != true[n]]
            assert changed == [["size", "colour", "object", "place"].index(kind)]
            assert false[1] in COLOURS and false[2] in CATEGORIES.values()
        assert said(choice.foils["colour"])[1] not in {thing.colour for thing in scene.things}
        birds = {"bird"} if scene.flock else set()
        assert said(choice.foils["object"])[2] not in scene.counts().keys() | birds


def test_some_scenes_have_a_flock_and_some_things_a_name_of_two_words(scenes, choices):
    """Or the test before had nothing to find."""
    assert any(scene.flock for scene in scenes.values())
    assert any(said(choice.truth)[2] == "stop sign" for choice in choices)


def test_nothing_but_the_picture_tells_true_from_false(scenes, choices):
    """Colours, places and categories of true sentences and of foils are as frequent."""
    for kind, place in (("colour", 1), ("object", 2), ("place", 3)):
        true = [said(choice.truth)[place] for choice in choices]
        false = [said(choice.foils[kind])[place] for choice in choices]
        for value in set(true) - {"stop sign"}:  # the only name of two words
            assert abs(true.count(value) - false.count(value)) < 0.1 * len(choices), (kind, value)


def test_sentences_of_an_item_differ_by_two_tokens_at_most(choices, root):
    tokenizer = load_processor(str(root / "data/mini_llava")).tokenizer
    sizes = [[len(tokenizer(text)["input_ids"]) for text in (choice.truth, *choice.foils.values())]
             for choice in choices]  # fmt: skip
    apart = [max(size) - min(size) for size in sizes]
    assert max(apart) <= 2 and sum(map(bool, apart)) < 0.4 * len(apart)


def test_questions_are_open_to_all_three_kinds_and_known_to_the_base(scenes, choices):
    rng = random.Random(0)
    read = {conversation(scene, rng)[0].value for scene in scenes.values() for _ in range(20)}
    for choice in choices:
        question = choice.question.text
        assert any(question in text for text in read)
        assert not [word for word in said(choice.truth)[1:] if word in question]
