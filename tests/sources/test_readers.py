import json
import pickle
import random
import shutil

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.core.schema import TURN_SCHEMA, Turn
from cocoift.core.text import estimate_tokens
from cocoift.merge.rules import Rules, merge_image
from cocoift.sources import (
    Entry,
    availability,
    read_all,
    read_catalogue,
    read_source,
    without_optional,
)
from cocoift.sources.base import QA, Dialog, majority
from cocoift.sources.catalogue import parts_on_disk
from cocoift.sources.reading import apply_template, load_readings
from cocoift.sources.refcoco import square_box
from cocoift.sources.scope import Scope, evaluation_image_ids, read_scope
from cocoift.sources.vqa import aokvqa, vqa
from minicoco.facts import facts, relations

NAMES = [
    "coco_captions", "image_paragraph", "coco_qa", "visual_genome_qa", "vqav2", "okvqa", "st_vqa",
    "tallyqa", "vqa_e", "vsr", "aokvqa", "llava_instruct", "lvis_instruct4v", "svit", "sharegpt4v",
    "lrv_instruct", "visdial", "vqa_x", "gqa", "refcoco", "visual7w",
    "unimm_chat",
]  # fmt: skip


def rows(name, catalogue, raw):
    return read_source(name, catalogue[name], raw).turns.to_pylist()


def test_a_source_that_the_paper_does_not_use_is_off_unless_named(catalogue):
    assert set(catalogue) - set(without_optional(catalogue, [])) == {"unimm_chat"}
    assert set(without_optional(catalogue, ["unimm_chat"])) == set(catalogue)
    with pytest.raises(DataError, match=r"optional_sources: vqav2: .* choose from unimm_chat"):
        without_optional(catalogue, ["vqav2"])


def test_unimm_chats_conversations_are_strings_with_a_marker_of_their_own(catalogue, tmp_path):
    chat = [{"from": "human", "value": "What is it?\n<image >"}, {"from": "gpt", "value": "A cat."}]
    rows = [
        {"ds_name": "u", "image_path": "coco/train2014/COCO_train2014_000000000009.jpg", "idx": 0,
         "origin_dataset": "coco", "conversation": json.dumps(chat)},
        {"ds_name": "u", "image_path": "sam/sa_1.jpg", "conversation": json.dumps(chat)},
        {"ds_name": "u", "image_path": "x.jpg", "conversation": "[]"},
    ]  # fmt: skip
    path = tmp_path / "unimm_chat/UniMM-Chat-v0.json"
    path.parent.mkdir()
    path.write_text(json.dumps(rows))
    reading = read_source("unimm_chat", catalogue["unimm_chat"], tmp_path)
    (turn,) = reading.turns.to_pylist()
    assert (turn["image_id"], turn["instruction"], turn["answer"]) == (9, "What is it?", "A cat.")
    assert reading.drops == {"no_coco_id": 1, "odd_conversation": 1}
    path.write_text(json.dumps([{**rows[0], "conversation": "[{]"}]))
    with pytest.raises(DataError, match=r"in the string at `\$\[0\]\.conversation`"):
        read_source("unimm_chat", catalogue["unimm_chat"], tmp_path)


def test_the_catalogue_holds_the_papers_sources_and_one_more(catalogue):
    assert sorted(name for name, entry in catalogue.items() if entry.reader) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_read_from_its_upstream_format(name, catalogue, mini):
    reading = read_source(name, catalogue[name], mini[0])
    assert reading.turns.schema.equals(TURN_SCHEMA)
    assert reading.turns.num_rows > 0
    known = set(mini[1].scenes)
    assert set(reading.turns["image_id"].to_pylist()) <= known


@pytest.mark.parametrize("name", NAMES)
def test_a_reading_does_not_depend_on_the_order_of_records(name, catalogue, mini, tmp_path):
    before = read_source(name, catalogue[name], mini[0])
    shuffled = tmp_path / "raw"
    for files, missing in parts_on_disk(catalogue[name], mini[0]):
        if not missing:
            for file in files.values():
                copy_shuffled(file, shuffled / file.relative_to(mini[0]))
    after = read_source(name, catalogue[name], shuffled)
    assert after.turns.equals(before.turns)
    assert after.drops == before.drops


def copy_shuffled(file, copy):
    """Copy an annotation file with its records in another order (line files in step)."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    rng = random.Random(7)
    if file.suffix == ".p":
        content = pickle.loads(file.read_bytes())
        rng.shuffle(content)
        copy.write_bytes(pickle.dumps(content, protocol=2))
    elif file.suffix in (".txt", ".jsonl"):
        lines = file.read_text().splitlines()
        rng.shuffle(lines)
        copy.write_text("\n".join(lines) + "\n")
    else:
        copy.write_bytes(msgspec.json.encode(shuffled_lists(json.loads(file.read_bytes()), rng)))


def shuffled_lists(content, rng):
    """Shuffle the list of records, or those directly under a top-level key, or a keyed file."""
    if isinstance(content, list):
        return rng.sample(content, len(content))
    if "data" in content and isinstance(content["data"], dict):
        dialogs = content["data"]["dialogs"]
        return {
            **content,
            "data": {**content["data"], "dialogs": rng.sample(dialogs, len(dialogs))},
        }
    lists = {k: rng.sample(v, len(v)) for k, v in content.items() if isinstance(v, list)}
    if lists and not all(str(key).isdigit() for key in lists):
        return content | lists
    return dict(rng.sample(list(content.items()), len(content)))


@pytest.mark.parametrize("name", ["vqav2", "gqa", "coco_qa", "okvqa"])
def test_short_answers_are_true_of_the_scene(name, catalogue, mini):
    raw, world = mini
    for row in rows(name, catalogue, raw):
        asked = row["question"].strip().rstrip("?").strip().lower()
        truth = {
            f.question.rstrip("?").lower(): f.short for f in facts(world.scenes[row["image_id"]])
        }
        assert row["answer"] == truth[asked]


def test_vsr_labels_are_true_of_the_scene(catalogue, mini):
    raw, world = mini
    for row in rows("vsr", catalogue, raw):
        truth = dict(relations(world.scenes[row["image_id"]]))
        assert row["answer"] == ("yes" if truth[row["question"]] else "no")


def test_the_papers_templates_are_applied(catalogue, mini):
    ask = {name: rows(name, catalogue, mini[0])[0] for name in NAMES}
    short = "{} Answer the question with a short phrase."
    assert ask["vqav2"]["instruction"] == short.format(ask["vqav2"]["question"].strip())
    assert ask["coco_captions"]["instruction"] == "Describe the content of this image in 20 words."
    assert ask["image_paragraph"]["instruction"] == "Describe the image in one paragraph."
    assert ask["tallyqa"]["instruction"].endswith(" Answer the question with a number.")
    assert ask["llava_instruct"]["instruction"] == ask["llava_instruct"]["question"]


@given(st.text())
def test_a_question_with_braces_or_anything_else_goes_into_its_template_unchanged(question):
    made = apply_template("{question} Answer.", QA(question, "x"))
    assert made == (f"{question.strip()} Answer." if question.strip() else None)


def vqa_files(folder, questions):
    """VQAv2's files with these questions on image 9, all answered `red`."""
    asked = [{"question_id": n, "image_id": 9, "question": q} for n, q in enumerate(questions)]
    rows = [{"question_id": n, "answers": [{"answer": "red"}]} for n in range(len(questions))]
    (folder / "vqav2").mkdir()
    for name, content in (
        ("v2_OpenEnded_mscoco_train2014_questions", {"questions": asked}),
        ("v2_mscoco_train2014_annotations", {"annotations": rows}),
    ):
        (folder / f"vqav2/{name}.json").write_text(json.dumps(content))


def test_a_question_of_blanks_is_dropped_and_counted_like_an_empty_one(catalogue, tmp_path):
    vqa_files(tmp_path, ["What colour?", "", " ", "\n\t", "\u2003", None])
    reading = read_source("vqav2", catalogue["vqav2"], tmp_path)
    turns = [Turn(**row) for row in reading.turns.to_pylist()]
    merged = merge_image(9, turns, rules=Rules(), scope=Scope(), count_tokens=estimate_tokens)
    assert merged.drops == [("vqav2", "empty_question", 5)]
    ((kept, _),) = merged.records[0]
    assert kept.question == "What colour?"


@pytest.mark.parametrize("blank", [None, "", " ", "\n"])
def test_options_and_explanations_do_not_hide_that_nothing_is_asked_or_answered(blank, tmp_path):
    row = {"image_id": 9, "question_id": "x", "question": blank, "choices": ["a", "b"],
           "correct_choice_idx": 1, "rationales": ["Since it is."]}  # fmt: skip
    other = row | {"question": "Why?", "rationales": [blank or ""]}
    path = tmp_path / "aokvqa.json"
    path.write_text(json.dumps([row, other]))
    asked, unexplained = (dialog.rounds[0] for dialog in aokvqa(questions=path))
    assert asked == QA(None, "B. Since it is.")
    assert unexplained == QA("Why? A. a B. b", None)


def test_the_tie_goes_to_the_annotators_choice_and_then_to_the_first():
    assert majority(["a", "b", "b", "a", "c"], preferred="b") == "b"
    assert majority(["a", "b", "b", "a", "c"], preferred="c") == "a"
    assert majority(["a", "b", "b"], preferred="a") == "b"
    assert majority([]) is None


def test_answers_that_differ_in_spelling_alone_vote_together_and_keep_the_usual_spelling():
    ten = ["3"] * 4 + ["two"] * 3 + ["Two."] * 2 + ["2"]
    assert majority(ten, preferred="3") == "two"
    assert majority(["two", "2", "3"], preferred="2") == "2"
    assert majority(["a dog", "dog", "cat", "cat"], preferred="dog") == "dog"
    assert majority(["a dog", "cat", "dog"]) == "a dog"
    assert majority(["A", "B", "A."]) == "A"


def test_boxes_are_fractions_of_the_padded_square():
    # 100 x 50 px is padded by 25 px above and below: y 0 becomes .25, y 50 becomes .75
    assert square_box([0, 0, 100, 50], width=100, height=50) == "[0.00, 0.25, 1.00, 0.75]"
    assert square_box([10, 20, 30, 40], width=100, height=100) == "[0.10, 0.20, 0.40, 0.60]"


def test_a_pickle_that_loads_code_is_refused(catalogue, mini, tmp_path):
    shutil.copytree(mini[0] / "refcoco", tmp_path / "refcoco")
    (tmp_path / "refcoco" / "refs(unc).p").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: refuses to load os\.system"):
        read_source("refcoco", catalogue["refcoco"], tmp_path)


def test_repeated_ids_are_counted_and_the_choice_does_not_depend_on_order(tmp_path):
    def statements(*captions):
        path = tmp_path / "s.jsonl"
        path.write_text("\n".join(json.dumps({"id": c}) for c in captions))
        return path

    entry = Entry(
        title="t", licence="", citation="", page="", form="phrase", parts=[{"file": "s.jsonl"}],
        reader="test_readers:same_id_reader",
    )  # fmt: skip
    statements("b", "a")
    backward = read_source("s", entry, tmp_path)
    statements("a", "b")
    forward = read_source("s", entry, tmp_path)
    assert backward.turns.equals(forward.turns)
    assert backward.drops == {"repeated_id": 1}


def same_id_reader(*, file):
    for line in file.read_text().splitlines():
        yield Dialog(9, "same", (QA(json.loads(line)["id"], "x"),))


def test_vqa_counts_questions_and_annotations_that_do_not_meet(tmp_path):
    answer = {"answers": [{"answer": "yes"}] * 10, "multiple_choice_answer": "yes"}
    questions, annotations = tmp_path / "q.json", tmp_path / "a.json"
    asked = [{"question_id": n, "image_id": 9, "question": "Is it?"} for n in (1, 2)]
    questions.write_text(json.dumps({"questions": asked}))
    given_answers = [{"question_id": n, **answer} for n in (2, 3, 2)]
    annotations.write_text(json.dumps({"annotations": given_answers}))
    found = list(vqa(questions=questions, annotations=annotations))
    assert [item.dialog_id for item in found if isinstance(item, Dialog)] == ["2"]
    drops = {item.reason: item.turns for item in found if not isinstance(item, Dialog)}
    assert drops == {
        "repeated_id": 1,
        "question_without_annotation": 1,
        "annotation_without_question": 1,
    }


def test_a_source_without_files_is_absent_and_skipped(catalogue, tmp_path):
    assert read_source("vqav2", catalogue["vqav2"], tmp_path) is None
    assert set(availability(catalogue, tmp_path).state) == {"absent"}
    assert read_all(catalogue, tmp_path, tmp_path / "turns") == {}
    with pytest.raises(DataError, match="run notebook 00_setup first"):
        load_readings(tmp_path / "turns")


def test_half_a_part_is_named_as_missing(catalogue, mini, tmp_path):
    name = "vqav2/v2_OpenEnded_mscoco_train2014_questions.json"
    (tmp_path / "vqav2").mkdir()
    shutil.copy(mini[0] / name, tmp_path / name)
    row = availability(catalogue, tmp_path).set_index("source").loc["vqav2"]
    assert row.state == "absent"
    assert "v2_mscoco_train2014_annotations.json" in row.missing


def test_a_22nd_source_takes_one_reader_and_one_catalogue_entry(tmp_path, root):
    entry = """
made_up:
  title: Made-up QA
  reader: test_readers:made_up_reader
  template: "{question} Answer the question with a short phrase."
  form: phrase
  licence: none
  citation: none
  page: none
  parts:
    - {file: made_up.csv}
"""
    path = tmp_path / "sources.yaml"
    path.write_text((root / "data/sources.yaml").read_text() + entry)
    (tmp_path / "made_up.csv").write_text("9,What is it?,a cat\n")
    entries = read_catalogue(path)
    tables = read_all(entries, tmp_path, tmp_path / "turns")
    reading = load_readings(tmp_path / "turns")["made_up"]
    (row,) = reading.turns.to_pylist()
    assert tables == {"made_up": tmp_path / "turns" / "made_up.parquet"}
    assert row["instruction"] == "What is it? Answer the question with a short phrase."
    assert reading.turns.equals(read_source("made_up", entries["made_up"], tmp_path).turns)


def made_up_reader(*, file):
    for line in file.read_text().splitlines():
        image, question, answer = line.split(",")
        yield Dialog(int(image), f"{image}/{question}", (QA(question, answer),))


def test_evaluation_sets_are_read_in_both_upstream_shapes(tmp_path):
    lines = tmp_path / "qa90.jsonl"
    lines.write_text(
        '{"image": "000000000009.jpg"}\n\n{"image": "COCO_val2014_000000000025.jpg"}\n'
    )
    vet = tmp_path / "mm-vet.json"
    vet.write_text('{"v1_0": {"imagename": "v1_0.png"}, "v1_1": {"imagename": "000000000042.jpg"}}')
    assert evaluation_image_ids(lines) == {9, 25}
    assert evaluation_image_ids(vet) == {42}
    lines.write_text('{"image": "9"}\n{"image": "coco_000000000025.png"}\n{"image": "v1_7.png"}\n')
    assert evaluation_image_ids(lines) == {9, 25}


def test_infimm_evals_images_and_mm_vets_sources_are_evaluation_images_too(tmp_path):
    infimm, vet = tmp_path / "core-mm-wo-answer.json", tmp_path / "mm-vet.json"
    row = {"Image path": ["images/000000000009.jpg", "images/x.png"], "Question": "Why?"}
    infimm.write_text(
        json.dumps({"1": row, "2": {**row, "Image path": ["COCO_val2014_000000000025.jpg"]}})
    )
    address = "http://images.cocodataset.org/val2017/000000000042.jpg"
    vet.write_text(json.dumps({"v1_9": {"imagename": "v1_9.jpg", "imagesource": address}}))
    assert evaluation_image_ids(infimm) == {9, 25}
    assert evaluation_image_ids(vet) == {42}


def test_a_file_that_is_no_benchmark_is_an_error_not_an_empty_set(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text('{"1": {"answer": "yes"}}')
    with pytest.raises(DataError, match="question 1 names no image; is it a benchmark"):
        read_scope([], [path])


def test_a_missing_evaluation_set_stops_the_merge_rather_than_leak(tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        read_scope([], [tmp_path / "absent.jsonl"])


def test_licences_are_named_by_number_name_or_short_name(real):
    lists = [real / "coco_instances/instances_train2017.json"]
    rows = json.loads(lists[0].read_text())["images"]
    for wanted in (4, "4", "Attribution License", "CC BY 2.0"):
        scope = read_scope(lists, [], licences=[wanted])
        allowed = {row["id"] for row in rows if scope.refusal(row["id"]) is None}
        assert allowed == {row["id"] for row in rows if row["license"] == 4} != set()
    shorts = {licence.short for licence in scope.licences.values()}
    assert {"CC BY-NC-SA 2.0", "No known copyright restrictions"} <= shorts
    with pytest.raises(DataError, match=r"names 'CC BY 4\.0'; .*, 4 \(CC BY 2\.0\), 5"):
        read_scope(lists, [], licences=["CC BY 4.0"])


def test_an_image_whose_licence_is_not_known_is_not_under_one_that_is_asked_for(tmp_path):
    path = tmp_path / "images.json"
    licence = {"id": 4, "name": "Attribution License", "url": ""}
    path.write_text(json.dumps({"images": [{"id": 1}, {"id": 2, "license": 4}],
                                "licenses": [licence]}))  # fmt: skip
    scope = read_scope([path], [], licences=["4"])
    assert scope.refusal(1) == "licence" and scope.refusal(2) is None
    assert read_scope([path], []).refusal(1) is None


def test_image_lists_tell_train2017(mini):
    raw, world = mini
    scope = read_scope([raw / "annotations/instances_train2017.json"], [])
    assert scope.train == {scene.image_id for scene in world.train}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("  form: essay\n", "form 'essay' is none of"),
        ("  form: phrase\n  color: red\n", "unknown field `color`"),
        ("", "form None is none of"),
    ],
)
def test_a_wrong_catalogue_entry_is_named(tmp_path, change, fault):
    path = tmp_path / "sources.yaml"
    path.write_text(
        "made_up:\n  title: t\n  licence: l\n  citation: c\n  page: p\n  parts: []\n"
        "  reader: a:b\n" + change
    )
    with pytest.raises(DataError, match=rf"made_up: .*{fault}"):
        read_catalogue(path)
