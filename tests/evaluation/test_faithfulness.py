"""Faithfulness: which categories are named that the picture does not hold."""

import json

import pandas as pd
import pytest

from cocoift.core.files import DataError
from cocoift.evaluation.faithfulness import (
    faithfulness_table,
    instance_categories,
    mention_table,
    picture_key,
    read_lexicon,
)
from minicoco.scenes import CATEGORIES, caption, paragraph


@pytest.fixture(scope="module")
def lexicon(root):
    return read_lexicon(root / "data" / "coco_synonyms.txt")


def test_the_synonyms_name_all_of_cocos_categories(lexicon, real):
    file = json.loads((real / "coco_instances/instances_train2017.json").read_text())
    assert set(lexicon.category.values()) == {one["name"] for one in file["categories"]}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Two teddy bears and a hot dog.", {"teddy bear", "hot dog"}),
        ("Men on HORSES wait for the buses.", {"person", "horse", "bus"}),
        ("a fire  hydrant", {"fire hydrant"}),
        ("There is no dog. There is a cat.", {"cat"}),
        ("It isn't a boat; a kite flies.", {"kite"}),
        ("An orangery, a carpet and a catalogue.", set()),
        ("", set()),
    ],
)
def test_names_are_whole_words_longest_first_plurals_too_denials_not(lexicon, text, named):
    assert lexicon.mentioned(text) == named


def test_a_true_description_of_a_mini_scene_names_what_is_there_and_nothing_else(lexicon, mini):
    raw, world = mini
    present = instance_categories([raw / "annotations/instances_train2017.json"])
    rng = world.rng("test")
    for scene in world.train[:200]:
        there = present[str(scene.image_id)]
        for text in (caption(scene, rng), paragraph(scene)):
            assert lexicon.mentioned(text) <= there
        assert lexicon.mentioned(paragraph(scene)) == there


def test_instances_of_the_benchmark_are_those_of_its_scenes(mini):
    from minicoco.benchmark import benchmark_scenes

    raw, world = mini
    present = instance_categories([raw / "mm_vet/instances.json"])
    for name, scene in benchmark_scenes(world.seed, pixels=64, count=40).items():
        crowd = {"bird"} if scene.flock else set()
        assert present[name] == {thing.category for thing in scene.things} | crowd
    assert set().union(*present.values()) <= set(CATEGORIES.values())


def test_a_picture_has_one_key_in_every_spelling():
    names = ("train2017/000000000009.jpg", "COCO_train2014_000000000009.jpg", "9")
    assert {picture_key(name) for name in names} == {"9"}
    assert picture_key("images/v1_3.png") == "v1_3.png"


def test_the_share_counts_categories_and_unknown_pictures_are_left_out(lexicon):
    rows = [("9", "A cat and a dog."), ("9", "A cat."), ("x.png", "A boat.")]
    table = pd.DataFrame(rows, columns=["image", "answer"]).assign(model="m")
    named = mention_table(table, lexicon, {"9": {"cat"}})
    assert list(named.mentioned) == [2, 1] and list(named.absent) == [1, 0]
    (row,) = faithfulness_table(named, ["model"], resamples=100).to_dict("records")
    assert row["absent_share"] == pytest.approx(100 / 3)
    assert row["answers"] == 2 and row["answers_with_absent"] == 50


def test_a_name_of_two_categories_and_an_empty_list_are_refused(tmp_path):
    path = tmp_path / "synonyms.txt"
    path.write_text("cup, mug\nbottle, mug\n")
    with pytest.raises(DataError, match="'mug' names cup and bottle"):
        read_lexicon(path)
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="names no category"):
        read_lexicon(path)


def test_real_instances_are_read_by_pycocotools(real):
    path = real / "coco_instances/instances_train2017.json"
    file = json.loads(path.read_text())
    names = {one["id"]: one["name"] for one in file["categories"]}
    expected = {str(image["id"]): set() for image in file["images"]}
    for row in file["annotations"]:
        expected[str(row["image_id"])].add(names[row["category_id"]])
    assert instance_categories([path]) == expected
