"""Every kind of damage leads to a clear error or a counted drop, for every format."""

import json
import shutil

import pytest
from test_readers import NAMES

from cocoift.core.files import DataError
from cocoift.sources import Entry, read_source
from cocoift.sources.base import QA, Dialog, Drop
from cocoift.sources.catalogue import parts_on_disk
from cocoift.sources.dialogs import lrv
from cocoift.sources.genome import gqa, tallyqa
from cocoift.sources.scope import evaluation_image_ids
from cocoift.sources.vqa import coco_qa


def files_of(catalogue):
    """Return (source, file below raw) for every JSON file some source reads first of all."""
    return [
        (name, part[role])
        for name in NAMES
        for part in catalogue[name].parts
        for role in list(part)[:1]
        if part[role].endswith(".json")
    ]


@pytest.fixture
def copy(mini, tmp_path):
    shutil.copytree(mini[0], tmp_path / "raw", ignore=shutil.ignore_patterns("images"))
    return tmp_path / "raw"


def present(catalogue, raw):
    return [(name, file) for name, file in files_of(catalogue) if (raw / file).is_file()]


def test_truncated_json_names_file_and_fault(catalogue, copy):
    for name, file in present(catalogue, copy):
        path = copy / file
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{path.name}: Input data was truncated; fix"):
            read_source(name, catalogue[name], copy)
        path.write_bytes(whole)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_called_empty(catalogue, copy, content):
    for name, file in present(catalogue, copy):
        path = copy / file
        whole = path.read_bytes()
        path.write_text(content)
        with pytest.raises(DataError, match=rf"{path.name}: the file is empty; download it"):
            read_source(name, catalogue[name], copy)
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.json"])
def test_an_empty_list_of_evaluation_images_is_no_list_without_images(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=f"{name}: the file is empty"):
        evaluation_image_ids(tmp_path / name)


def test_malformed_json_names_the_byte(catalogue, copy):
    for name, file in present(catalogue, copy):
        path = copy / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b" x")
        with pytest.raises(DataError, match=rf"{path.name}: JSON is malformed: .*\(byte \d+\)"):
            read_source(name, catalogue[name], copy)
        path.write_bytes(whole)


def test_a_wrong_top_level_type_is_told(catalogue, copy):
    for name, file in present(catalogue, copy):
        path = copy / file
        whole = path.read_bytes()
        path.write_text('"text"')
        with pytest.raises(DataError, match=rf"{path.name}: Expected .* got `str`"):
            read_source(name, catalogue[name], copy)
        path.write_bytes(whole)


# Where the records of a file lie, and the field whose loss must be named.
RECORDS = {
    "coco_captions": ("annotations/captions_train2017.json", "annotations", "image_id"),
    "image_paragraph": ("image_paragraph/paragraphs_v1.json", None, "image_id"),
    "visual_genome_qa": ("visual_genome/question_answers.json", None, "qas"),
    "vqav2": ("vqav2/v2_mscoco_train2014_annotations.json", "annotations", "answers"),
    "okvqa": ("okvqa/OpenEnded_mscoco_train2014_questions.json", "questions", "question"),
    "st_vqa": ("st_vqa/train_task_3.json", "data", "file_name"),
    "tallyqa": ("tallyqa/train.json", None, "question_id"),
    "vqa_e": ("vqa_e/VQA-E_train_set.json", None, "explanation"),
    "aokvqa": ("aokvqa/aokvqa_v1p0_train.json", None, "choices"),
    "llava_instruct": ("llava_instruct/llava_instruct_150k.json", None, "conversations"),
    "svit": ("svit/conversation.json", None, "conversations"),
    "lrv_instruct": ("lrv/filter_cap1.json", None, "answer"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_missing_key_is_named_with_its_record(name, catalogue, copy):
    file, key, field = RECORDS[name]
    content = json.loads((copy / file).read_bytes())
    del (content[key] if key else content)[1][field]
    (copy / file).write_text(json.dumps(content))
    place = rf"`\$\.{key}\[1\]`" if key else r"`\$\[1\]`"
    with pytest.raises(DataError, match=rf"missing required field `{field}` - at {place}"):
        read_source(name, catalogue[name], copy)


@pytest.mark.parametrize(
    ("name", "file", "key", "field"),
    [
        ("coco_captions", "annotations/captions_train2017.json", "annotations", "image_id"),
        ("vqav2", "vqav2/v2_OpenEnded_mscoco_train2014_questions.json", "questions", "image_id"),
        ("tallyqa", "tallyqa/train.json", None, "question_id"),
    ],
)
def test_an_id_that_is_no_integer_is_named_with_its_record(name, file, key, field, catalogue, copy):
    content = json.loads((copy / file).read_bytes())
    (content[key] if key else content)[1][field] = "nine"
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"Expected `int`, got `str` - at .*\[1\]\.{field}"):
        read_source(name, catalogue[name], copy)


def test_a_null_answer_is_a_turn_without_answer_not_an_error(catalogue, copy):
    file = copy / "vqa_e/VQA-E_train_set.json"
    content = json.loads(file.read_bytes())
    content[0]["answers"] = None
    file.write_text(json.dumps(content))
    reading = read_source("vqa_e", catalogue["vqa_e"], copy)
    assert reading.turns["answer"].null_count == 1


def test_a_damaged_line_is_named_by_its_number(catalogue, copy):
    path = copy / "vsr/random/train.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:-5]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"train\.jsonl, line 3: "):
        read_source("vsr", catalogue["vsr"], copy)


def test_parallel_files_of_different_length_are_refused(catalogue, copy):
    path = copy / "cocoqa/train/answers.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match=r"files are not parallel .*answers\.txt"):
        read_source("coco_qa", catalogue["coco_qa"], copy)


def test_bytes_that_are_no_text_are_refused(catalogue, copy):
    (copy / "cocoqa/train/questions.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="codec can't decode"):
        read_source("coco_qa", catalogue["coco_qa"], copy)


def test_an_index_beyond_visdials_tables_is_named(catalogue, copy):
    path = copy / "visdial/visdial_1.0_train.json"
    content = json.loads(path.read_bytes())
    content["data"]["dialogs"][0]["dialog"][0]["question"] = 10**6
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"dialog of image \d+: list index out of range"):
        read_source("visdial", catalogue["visdial"], copy)


@pytest.mark.parametrize("field", ["question", "answer"])
def test_a_negative_index_into_visdials_tables_is_no_count_from_the_end(field, catalogue, copy):
    path = copy / "visdial/visdial_1.0_train.json"
    content = json.loads(path.read_bytes())
    content["data"]["dialogs"][1]["dialog"][2][field] = -1
    path.write_text(json.dumps(content))
    place = rf"Expected `int` >= 0 - at `\$\.data\.dialogs\[1\]\.dialog\[2\]\.{field}`"
    with pytest.raises(DataError, match=place):
        read_source("visdial", catalogue["visdial"], copy)


@pytest.mark.parametrize("label", [-1, 2])
def test_a_vsr_label_that_is_neither_0_nor_1_is_refused(label, catalogue, copy):
    path = copy / "vsr/random/train.jsonl"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"label": label}), *others]))
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: Invalid enum value .* `\$\.label`"):
        read_source("vsr", catalogue["vsr"], copy)


def test_a_choice_beyond_the_options_is_named(catalogue, copy):
    path = copy / "aokvqa/aokvqa_v1p0_train.json"
    content = json.loads(path.read_bytes())
    content[0]["correct_choice_idx"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"question \w+: correct_choice_idx out of range"):
        read_source("aokvqa", catalogue["aokvqa"], copy)


def test_a_catalogue_path_that_climbs_out_of_the_raw_folder_is_refused(catalogue, tmp_path):
    import msgspec

    entry = msgspec.structs.replace(catalogue["vqav2"], parts=[{"questions": "../q.json"}])
    with pytest.raises(DataError, match="leaves its root"):
        list(parts_on_disk(entry, tmp_path))


def users_reader(*, rows):
    """A reader as a user writes it: it checks nothing."""
    for row in json.loads(rows.read_bytes()):
        yield Dialog(row["image"], str(row["id"]), (QA(row["question"], row["answer"]),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"image": None},
            r"rows\.json: .*users_reader failed after 2 dialogs, at Dialog.*TypeError: .*; fix",
        ),
        (
            {"question": 7},
            r"rows\.json: .* failed after 2 dialogs, at Dialog.*AttributeError: 'int' object",
        ),
        ({"answer": 7}, "source s, dialog 'x': .*; its reader must give image ids as numbers"),
        ("text", "failed after 2 dialogs: TypeError: string indices must be integers"),
        ({"answer": "gone"}, r"failed after 2 dialogs, at {'image': 9,.*: KeyError: 'answer'"),
    ],
)
def test_what_a_users_reader_stumbles_over_is_named_with_its_file(tmp_path, change, message):
    rows = [{"image": 9, "id": str(n), "question": "What?", "answer": "a"} for n in range(3)]
    rows[2] = rows[2] | {"id": "x"} | change if isinstance(change, dict) else change
    if change == {"answer": "gone"}:
        del rows[2]["answer"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    entry = Entry(title="", licence="", citation="", page="", form="phrase",
                  reader=f"{__name__}:users_reader", parts=[{"rows": "rows.json"}])  # fmt: skip
    with pytest.raises(DataError, match=message):
        read_source("s", entry, tmp_path)


def test_the_catalogue_ends_with_a_line_end_so_that_an_entry_can_be_appended(root):
    assert (root / "data/sources.yaml").read_bytes().endswith(b"\n")


# What `str.isdigit` takes for a number and `int` does not, or what is too long for `int`.
NO_NUMBERS = ("\u00b2", "1\u00b2", "9" * 5_000)


@pytest.fixture
def written(tmp_path):
    """Write JSON, or lines of text, to a file and return its path."""

    def write(name, content):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


@pytest.mark.parametrize("text", NO_NUMBERS, ids=["square", "after a digit", "long"])
def test_an_id_that_is_no_number_is_counted_or_named(written, text):
    images = written("image_data.json", [{"image_id": 1, "coco_id": 9}])
    asked = {"question": "What is it?", "answer": "a cup"}
    found = gqa(questions=written("q.json", {"7": asked | {"imageId": text}}), images=images)
    assert list(found) == [Drop("no_coco_id")]
    found = lrv(instructions=written("l.json", [asked | {"image_id": text}]), images=images)
    assert list(found) == [Drop("no_coco_id")]
    count = {"image": f"VG_100K/{text}.jpg", "image_id": 1, "question_id": 5, "answer": 2,
             "question": "How many?"}  # fmt: skip
    with pytest.raises(DataError, match=r"t\.json: question 5: image 'VG_100K/"):
        list(tallyqa(questions=written("t.json", [count]), images=images))
    files = {"questions": "what is it\n", "answers": "cup\n", "image_ids": f"{text}\n"}
    with pytest.raises(DataError, match=r"image_ids, line 1: .* is not an image id"):
        list(coco_qa(**{role: written(role, content) for role, content in files.items()}))
