"""The inspector's data: an image is read as it is, and filters find the right images."""

import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from cocoift.core.files import DataError
from cocoift.core.schema import KEPT_SCHEMA
from cocoift.inspector.data import ByImage, Filter, open_inspection
from cocoift.inspector.raw_annotations import raw_annotations
from cocoift.merge.export import image_licences, write_extras
from cocoift.merge.partitioned import MergeInputs, merge_tables
from cocoift.merge.rules import Rules
from cocoift.sources import read_all
from cocoift.sources.instances import INSTANCE_SCHEMA, read_listed, write_instances
from cocoift.sources.scope import read_scope


@pytest.fixture(scope="module")
def folder(mini, catalogue, tmp_path_factory):
    """A merged mini-COCO with its instances by image."""
    raw, _ = mini
    work = tmp_path_factory.mktemp("work")
    read_all(catalogue, raw, work / "turns")
    tables = sorted((work / "turns").glob("*.parquet"))
    rules = Rules(context_tokens=600, image_tokens=16)
    lists = [raw / f"annotations/instances_{split}2017.json" for split in ("train", "val")]
    inputs = MergeInputs(rules=rules, scope=read_scope(lists, []))
    merge_tables(tables, out=work / "merged/turns.parquet", inputs=inputs)
    licences = image_licences(work / "merged/turns.parquet", inputs.scope)
    write_extras(work / "merged", names=["merged"], card="", licences=licences)
    write_instances(read_listed(lists[:1]), work / "instances.parquet")
    return work


@pytest.fixture(scope="module")
def opened(folder, mini):
    raw, _ = mini
    return open_inspection(
        folder / "merged", image_root=raw / "images", instances=folder / "instances.parquet"
    )


@pytest.fixture(scope="module")
def turns(folder):
    return pq.read_table(folder / "merged/turns.parquet").to_pandas()


def test_an_image_tells_its_licence(opened, mini):
    rows = json.loads((mini[0] / "annotations/instances_train2017.json").read_bytes())["images"]
    under = {row["id"]: row["license"] for row in rows}
    for image_id in opened.turns.ids[::40]:
        expected = {1: "CC BY-NC-SA 2.0", 4: "CC BY 2.0", 8: "United States Government Work"}
        if (number := under.get(int(image_id))) in expected:
            assert opened.view(int(image_id)).licence == expected[number]


def test_an_image_is_read_as_the_whole_table_has_it(opened, turns):
    for image_id in turns.image_id.unique()[::40]:
        expected = turns[turns.image_id == image_id]
        assert opened.turns.rows(image_id) == expected.to_dict("records")
    assert opened.turns.rows(-1) == []


@settings(max_examples=20, deadline=None)
@given(group=st.integers(1, 40))
def test_an_image_that_spans_row_groups_is_read_whole(group, turns, tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "turns.parquet"
    some = turns[turns.image_id.isin(turns.image_id.unique()[:6])]
    table = pa.Table.from_pandas(some, KEPT_SCHEMA, preserve_index=False)
    pq.write_table(table, path, row_group_size=group)
    reader = ByImage(path, KEPT_SCHEMA, kept=1)
    for image_id, of_image in some.groupby("image_id"):
        assert [r["dialog_id"] for r in reader.rows(image_id)] == list(of_image.dialog_id)


def test_filters_let_through_what_the_table_says(opened, turns):
    by_image = turns.groupby("image_id")
    for source in opened.sources:
        expected = sorted(turns.image_id[turns.source == source].unique())
        assert list(opened.images(Filter(source=source))) == expected
    for form in opened.forms:
        expected = sorted(turns.image_id[turns.form == form].unique())
        assert list(opened.images(Filter(form=form))) == expected
    many = by_image.source.nunique()
    assert list(opened.images(Filter(least_sources=9))) == sorted(many[many >= 9].index)
    some = list(turns.image_id.unique()[:3])
    assert list(opened.images(Filter(flagged=True), flagged=some)) == sorted(some)
    assert len(opened.images(Filter())) == turns.image_id.nunique()


def test_text_is_found_in_instructions_and_answers_whatever_its_case(opened, turns):
    found = opened.images(Filter(text="KITE"))
    hits = turns.instruction.str.contains("kite", case=False)
    hits |= turns.answer.str.contains("kite", case=False)
    assert list(found) == sorted(turns.image_id[hits].unique())
    assert len(opened.images(Filter(text="no such text (.*"))) == 0


def test_images_with_conflicts_are_those_whose_dropped_turns_say_so(opened, folder):
    dropped = pq.read_table(folder / "merged/dropped.parquet").to_pandas()
    expected = set(dropped.image_id[dropped.reason == "conflict"]) & set(opened.turns.ids)
    assert set(opened.images(Filter(conflicts=True))) == expected and expected


def test_kept_and_dropped_turns_of_an_image_are_all_that_were_read(opened, folder):
    read = pd.concat(pq.read_table(p).to_pandas() for p in (folder / "turns").glob("*.parquet"))
    for image_id in opened.turns.ids[::50]:
        view = opened.view(int(image_id))
        assert len(view.turns) + len(view.dropped) == (read.image_id == image_id).sum()
        assert all(turn["reason"] for turn in view.dropped)


def test_an_image_that_is_not_there_is_named(opened, tmp_path):
    with pytest.raises(DataError, match="image 1 is not in the merged set"):
        opened.view(1)
    with pytest.raises(DataError, match="run notebook 02_merge"):
        open_inspection(tmp_path, image_root=tmp_path)


def test_instances_are_those_pycocotools_finds_crowds_included(opened, mini):
    raw, _ = mini
    coco = COCO(str(raw / "annotations/instances_train2017.json"))
    crowds = 0
    for image_id in opened.turns.ids:
        rows = opened.view(int(image_id)).instances
        expected = coco.imgToAnns[int(image_id)]
        assert [json.loads(r["segmentation"]) for r in rows] == [
            a["segmentation"] for a in expected
        ]
        assert [r["category"] for r in rows] == [
            coco.cats[a["category_id"]]["name"] for a in expected
        ]
        crowds += sum(row["iscrowd"] for row in rows)
    assert crowds


def test_real_instances_of_all_lists_are_filed_by_image(real, tmp_path):
    captions = real / "coco_captions/captions_val2017.json"
    panoptic = real / "coco_panoptic/panoptic_train2017.json"
    lists = [real / f"{name}/instances_train2017.json" for name in ("coco_mini", "coco_instances")]
    listed = read_listed([captions, lists[0], panoptic, lists[1], lists[0], tmp_path / "absent"])
    theirs = [COCO(str(path)) for path in lists]
    expected = {image: (coco, rows) for coco in theirs for image, rows in coco.imgToAnns.items()}
    assert write_instances(listed, tmp_path / "x.parquet") == 939 + 739
    reader = ByImage(tmp_path / "x.parquet", INSTANCE_SCHEMA)
    assert set(reader.ids) == {image for image, (_, rows) in expected.items() if rows}
    for image, (coco, rows) in expected.items():
        names = [coco.cats[row["category_id"]]["name"] for row in rows]
        assert [row["category"] for row in reader.rows(image)] == names


def test_of_an_image_in_two_lists_the_last_ones_boxes_count(tmp_path):
    paths = []
    for number, names in enumerate((("dog", "cat"), ("cat", "dog"))):
        ids = (5, 6 + number)
        content = {"images": [{"id": image, "height": 4, "width": 4} for image in ids],
                   "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
                   "annotations": [{"image_id": image, "category_id": 0, "bbox": [0, 0, number, 1]}
                                   for image in ids]}  # fmt: skip
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_text(json.dumps(content))
    boxes = {image: [(name, instance.bbox[2]) for instance, name in named]
             for image, named in read_listed(paths).by_image().items()}  # fmt: skip
    assert boxes == {5: [("cat", 1)], 6: [("dog", 0)], 7: [("cat", 1)]}


@pytest.mark.parametrize(
    "content",
    [{"images": [{"id": 1}]}, {"images": [], "categories": [{"id": 1, "name": "dog"}]},
     {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "A dog."}]}],
)  # fmt: skip
def test_a_list_of_images_without_boxes_gives_none_and_stops_nothing(content, tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(content))
    listed = read_listed([tmp_path / "list.json"])
    assert write_instances(listed, tmp_path / "x.parquet") == 0
    assert ByImage(tmp_path / "x.parquet", INSTANCE_SCHEMA).rows(1) == []


def test_a_damaged_box_of_a_list_is_named(tmp_path):
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"images": [], "categories": [{"id": 1, "name": "dog"}],
                                "annotations": [{"image_id": 1, "category_id": 1}]}))  # fmt: skip
    with pytest.raises(DataError, match=r"list\.json: .*`bbox` - at `\$\.annotations\[0\]`"):
        read_listed([path])


@pytest.mark.parametrize("source", ["vqav2", "gqa", "visual_genome_qa", "coco_captions", "visdial"])
def test_the_upstream_record_of_a_turn_holds_its_id_and_its_text(source, opened, mini, catalogue):
    raw, _ = mini
    image_id = int(opened.images(Filter(source=source))[2])
    turn = next(t for t in opened.view(image_id).turns if t["source"] == source)
    found = raw_annotations(catalogue[source], raw, turn)
    text = " ".join(found.values())
    assert found and turn["dialog_id"] in text
    # VisDial's records hold the numbers of texts in a table.
    part = str(image_id) if source == "visdial" else turn["answer"].split()[0].strip(".")
    assert part.lower() in text.lower()


def test_a_source_without_ids_is_found_by_its_answer(opened, mini, catalogue):
    raw, _ = mini
    image_id = int(opened.images(Filter(source="llava_instruct"))[0])
    turns = opened.view(image_id).turns
    turn = max(
        (t for t in turns if t["source"] == "llava_instruct"), key=lambda t: len(t["answer"])
    )
    (text,) = raw_annotations(catalogue["llava_instruct"], raw, turn).values()
    assert turn["answer"] in text


def test_what_is_nowhere_upstream_gives_nothing(mini, catalogue):
    raw, _ = mini
    turn = {"image_id": 1, "dialog_id": "no-such-id", "question": None, "answer": ""}
    for name, entry in catalogue.items():
        assert raw_annotations(entry, raw, turn) == {}, name


def test_a_number_that_is_a_question_here_and_an_image_there_shows_its_own_record(
    catalogue, tmp_path
):
    def rows(*numbers):
        return [{"question_id": q, "image_id": image, "question": f"Q{q}?"} for q, image in numbers]

    files = [name for part in catalogue["vqav2"].parts for name in part.values()]
    (tmp_path / "vqav2").mkdir()
    for name in files:
        ids = ((77001, 4001), (4001, 4)) if "train" in name else ((77002, 4001), (5, 4001))
        (tmp_path / name).write_text(json.dumps({"questions": rows(*ids)}))
    turn = {"image_id": 4, "dialog_id": "4001", "question": "Q4001?", "answer": "yes"}
    found = raw_annotations(catalogue["vqav2"], tmp_path, turn)
    assert set(found) == {name for name in files if "train" in name}
    assert all(json.loads(text)["question"] == "Q4001?" for text in found.values())


def test_a_captions_number_does_not_show_the_image_of_that_number(catalogue, tmp_path):
    captions = {"images": [{"id": 31, "file_name": "000000000031.jpg"}],
                "annotations": [{"id": 31, "image_id": 8, "caption": "A dog."}]}  # fmt: skip
    path = tmp_path / "annotations/captions_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(captions))
    turn = {"image_id": 8, "dialog_id": "31", "question": "", "answer": "A dog."}
    (text,) = raw_annotations(catalogue["coco_captions"], tmp_path, turn).values()
    assert json.loads(text) == captions["annotations"][0]


def test_an_image_number_that_is_an_index_in_a_dialog_shows_the_dialog_of_that_image(
    catalogue, tmp_path
):
    rounds = [{"question": 42, "answer": 7, "answer_options": [42, 7]}]
    dialogs = [{"image_id": number, "caption": "c", "dialog": rounds} for number in (9, 42, 5)]
    path = tmp_path / "visdial/visdial_1.0_train.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"split": "train", "data": {"dialogs": dialogs}}))
    turn = {"image_id": 42, "dialog_id": "42", "question": "is it red?", "answer": "yes it is"}
    (text,) = raw_annotations(catalogue["visdial"], tmp_path, turn).values()
    assert json.loads(text) == dialogs[1]


def test_a_question_that_many_images_share_shows_the_record_of_its_own(catalogue, tmp_path):
    rows = [{"img_id": n, "question": "What is it?", "answers": ["cup"] * 10,
             "explanation": [f"Number {n}  is a\ncup.", 0.7]} for n in range(1, 400)]  # fmt: skip
    path = tmp_path / "vqa_e/VQA-E_train_set.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    turn = {"image_id": 250, "dialog_id": "x", "question": "What is it?", "answer": "cup. N"}
    (text,) = raw_annotations(catalogue["vqa_e"], tmp_path, turn).values()
    assert json.loads(text) == rows[249]


def test_a_text_is_found_whatever_blanks_and_escapes_its_file_has(catalogue, tmp_path):
    chat = [{"from": "human", "value": "<image>\nWho?"},
            {"from": "gpt", "value": "A  café\n\nand its \"patron\" at the sea."}]  # fmt: skip
    rows = [{"id": "x", "image": "000000000009.jpg", "conversations": chat}]
    path = tmp_path / "llava_instruct/llava_instruct_150k.json"
    path.parent.mkdir()
    answer = 'A café and its "patron" at the sea.'
    turn = {"image_id": 9, "dialog_id": "x9", "question": "Who?", "answer": answer}
    for only_ascii in (True, False):
        path.write_text(json.dumps(rows, ensure_ascii=only_ascii))
        (text,) = raw_annotations(catalogue["llava_instruct"], tmp_path, turn).values()
        assert json.loads(text) == rows[0]
    assert raw_annotations(catalogue["llava_instruct"], tmp_path, turn | {"image_id": 8}) == {}


def test_the_richest_image_has_most_sources_among_those_on_disk(opened, tmp_path):
    counts = dict(zip(opened.turns.ids.tolist(), opened.source_counts.tolist(), strict=True))
    assert counts[opened.richest()] == max(counts.values())
    poorest = min(counts, key=lambda i: (counts[i], i))
    (tmp_path / "train2017").mkdir()
    (tmp_path / opened.file.format(poorest)).touch()
    assert replace(opened, image_root=tmp_path).richest() == poorest
    assert counts[replace(opened, image_root=tmp_path / "none").richest()] == max(counts.values())
