import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cocoift.core.files import DataError, sha256
from cocoift.core.schema import coco_id_in
from cocoift.sources.dialogs import whole_records
from minicoco.annotate import add_benchmarks, drawn_files, replace_mini_coco, write_mini_coco
from minicoco.draw import draw
from minicoco.scenes import COLOURS, GRID, sample_scenes


def digests(folder):
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_mini_coco(tmp_path / name, train=12, held_out=4, seed=seed)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")


def test_every_thing_is_drawn_in_its_colour_where_the_truth_says():
    for scene in sample_scenes(40, seed=5):
        pixels = np.asarray(draw(scene)).astype(int)
        cell = scene.pixels // GRID
        for thing in scene.things:
            patch = pixels[thing.row * cell :, thing.column * cell :][:cell, :cell].reshape(-1, 3)
            distance = np.abs(patch - COLOURS[thing.colour]).sum(axis=1)
            assert (distance < 60).sum() >= 3, (scene.image_id, thing)


@pytest.fixture(scope="module")
def coco(mini):
    return COCO(str(mini[0] / "annotations/instances_train2017.json"))


def test_boxes_and_areas_are_those_pycocotools_finds(coco):
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        assert annotation["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        x, y, width, height = annotation["bbox"]
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose(found, (x, y, x + width, y + height), atol=1.5)


def test_crowds_are_run_lengths_as_in_coco(coco):
    crowds = coco.loadAnns(coco.getAnnIds(iscrowd=True))
    assert crowds
    for crowd in crowds:
        assert isinstance(crowd["segmentation"]["counts"], list)
        assert sum(crowd["segmentation"]["counts"]) == 64 * 64
        assert crowd["id"] > 900_000_000_000


def test_categories_have_cocos_ids(coco):
    assert {row["id"]: row["name"] for row in coco.loadCats(coco.getCatIds())}[16] == "bird"


def test_images_have_upstream_names_and_size(mini):
    raw, world = mini
    for split, scenes in (("train2017", world.train), ("val2017", world.held_out)):
        names = {path.name for path in (raw / "images" / split).iterdir()}
        assert names == {f"{scene.image_id:012d}.jpg" for scene in scenes}
    with Image.open(next((raw / "images/train2017").iterdir())) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def load(mini, name):
    return json.loads((mini[0] / name).read_bytes())


def test_upstreams_quirks_are_there(mini):
    image_data = load(mini, "visual_genome/image_data.json")
    assert {row["coco_id"] is None for row in image_data} == {True, False}
    captions = [
        row["caption"] for row in load(mini, "annotations/captions_train2017.json")["annotations"]
    ]
    assert any(text != text.strip() for text in captions)
    assert any("  " in text for text in captions)
    answers = load(mini, "vqav2/v2_mscoco_train2014_annotations.json")["annotations"]
    assert all(len(row["answers"]) == 10 for row in answers)
    assert any(len({a["answer"] for a in row["answers"]}) > 1 for row in answers)
    names = {row["image"].split("/")[0] for row in load(mini, "tallyqa/train.json")}
    assert names == {"train2014", "val2014", "VG_100K"}
    assert any(row["answer"] is None for row in load(mini, "lrv/filter_cap1.json"))
    mix = load(mini, "llava_mix/llava_v1_5_mix665k.json")
    assert any("image" not in row for row in mix)
    assert any(row["conversations"][0]["value"].endswith("\n<image>") for row in mix)
    assert sum(not message["value"] for row in mix for message in row["conversations"]) == 1


def test_vqav2_ties_are_settled_by_the_annotators_choice(mini, catalogue):
    from cocoift.sources import read_source

    table = read_source("vqav2", catalogue["vqav2"], mini[0]).turns.to_pylist()
    answers = {row["dialog_id"]: row["answer"] for row in table}
    ties = 0
    for split in ("train", "val"):
        for row in load(mini, f"vqav2/v2_mscoco_{split}2014_annotations.json")["annotations"]:
            given = [answer["answer"] for answer in row["answers"]]
            counts = sorted((given.count(text) for text in set(given)), reverse=True)
            if len(counts) > 1 and counts[0] == counts[1]:
                ties += 1
                assert answers[str(row["question_id"])] == row["multiple_choice_answer"]
    assert ties


def test_an_opening_reply_says_whether_the_instances_of_the_image_hold_a_cup(mini):
    right, wrong = (load(mini, f"mm_vet/{name}_replies.json") for name in ("opening", "wrong"))
    coco = load(mini, "mm_vet/instances.json")
    (cup,) = (row["id"] for row in coco["categories"] if row["name"] == "cup")
    there = {row["image_id"] for row in coco["annotations"] if row["category_id"] == cup}
    names = {row["file_name"]: row["id"] in there for row in coco["images"]}
    assert right == {name: "yes" if seen else "no" for name, seen in names.items()}
    assert wrong == {name: "no" if seen else "yes" for name, seen in names.items()}
    assert 0 < len(there) < len(names)


def test_real_data_is_never_overwritten(tmp_path):
    real = tmp_path / "raw/annotations/captions_train2014.json"
    real.parent.mkdir(parents=True)
    real.write_text("real")
    with pytest.raises(DataError, match="holds files that are not a mini-COCO"):
        replace_mini_coco(tmp_path / "raw", train=2, held_out=2, seed=0)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [real]


def test_a_mini_coco_replaces_an_earlier_one_whole(tmp_path):
    raw = tmp_path / "raw"
    replace_mini_coco(raw, train=6, held_out=2, seed=0)
    before = digests(raw)
    replace_mini_coco(raw, train=3, held_out=2, seed=0)
    assert len(list((raw / "images/train2017").iterdir())) == 3
    replace_mini_coco(raw, train=6, held_out=2, seed=0)
    assert digests(raw) == before
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


SMALL = {"train": 2, "held_out": 2, "seed": 0, "benchmark": 2}


def test_a_users_own_files_stay_when_a_mini_coco_is_drawn_again(tmp_path):
    raw = tmp_path / "raw"
    (raw / "before").mkdir(parents=True)
    (raw / "before/mine.json").write_text("{}")
    replace_mini_coco(raw, **SMALL)
    others = {
        "before/mine.json": "{}",
        "my_set/questions.json": "[]",
        "vqav2/notes.txt": "mine",
        "images/train2017/x.jpg": "x",
    }
    for name, text in others.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(text)
    replace_mini_coco(raw, **SMALL | {"seed": 1})
    assert {name: (raw / name).read_text() for name in others} == others


def test_benchmarks_drawn_alone_are_replaced_by_the_mini_coco_that_holds_them(tmp_path):
    alone, whole = tmp_path / "alone", tmp_path / "whole"
    add_benchmarks(alone, seed=1, pixels=64, count=3)
    for raw in (alone, whole):
        replace_mini_coco(raw, **SMALL)
    assert digests(alone) == digests(whole)


def test_a_users_file_in_the_way_of_a_drawn_one_is_named_and_stays(tmp_path):
    raw = tmp_path / "raw"
    replace_mini_coco(raw, **SMALL)
    drawn = drawn_files(raw)
    replace_mini_coco(raw, **SMALL | {"train": 1})
    (gone,) = {name for name in drawn if name.startswith("images/train")} - drawn_files(raw)
    (raw / gone).write_text("mine")
    with pytest.raises(DataError, match=f"{gone} is in the way of a file that the study draws"):
        replace_mini_coco(raw, **SMALL)
    assert (raw / gone).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_a_mini_coco_killed_while_it_takes_its_place_is_drawn_whole_by_the_next_run(
    tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    replace_mini_coco(whole, **SMALL)
    raw, moved, real = tmp_path / "raw", [], Path.replace
    replace_mini_coco(raw, **SMALL | {"train": 4, "seed": 1})

    def killed(path, target):
        moved.extend([target] if target.is_relative_to(raw) else [])
        if len(moved) == 9:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        replace_mini_coco(raw, **SMALL)
    replace_mini_coco(raw, **SMALL)
    assert digests(raw) == digests(whole)


def test_stage_ones_conversations_have_one_round_and_show_scenes_of_no_study(tmp_path):
    write_mini_coco(tmp_path, train=12, held_out=4, seed=1, pretraining=40)
    file = tmp_path / "llava_pretrain/blip_laion_cc_sbu_558k.json"
    records = list(whole_records(file, source="stage one"))
    assert [len(record.conversations) for record in records] == [2] * 40
    for record in records:
        image = Image.open(file.parent / "images" / record.image)
        assert image.size == (64, 64) and coco_id_in(record.image) is None
    asked = " ".join(record.conversations[0].value for record in records)
    assert "Describe" in asked and "?" in asked
    images = {sha256(path) for path in (tmp_path / "images").rglob("*.jpg")}
    assert not images & {sha256(path) for path in (file.parent / "images").rglob("*.jpg")}
