import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.core.schema import (
    Message,
    Record,
    Turn,
    check_record,
    coco_id,
    read_records,
    to_record,
)


def turn(instruction="What is it? Answer briefly.", answer="a cat", source="vqav2"):
    return Turn(9, source, "1", 0, "What is it?", instruction, answer, "phrase")


def record(**changes):
    fields = {
        "id": "000000000009",
        "image": "train2017/000000000009.jpg",
        "conversations": [Message("human", "<image>\nWhat?"), Message("gpt", "A cat.")],
        "sources": ["vqav2"],
    }
    return Record(**fields | changes)


@pytest.mark.parametrize(
    "name",
    [
        9,
        "9",
        "000000000009",
        "000000000009.jpg",
        "train2017/000000000009.jpg",
        "coco/train2017/000000000009.jpg",
        "COCO_train2014_000000000009.jpg",
        "COCO_val2014_000000000009.jpg",
        "coco/train2017/000000000009",
    ],
)
def test_every_spelling_of_a_coco_image_is_the_same_number(name):
    assert coco_id(name) == 9


@pytest.mark.parametrize("name", ["", "v1_0.png", "sa_9.jpg", "vg/VG_100K/9.jpg", "n1", 0, -3])
def test_other_image_names_are_refused(name):
    with pytest.raises(DataError, match="not a COCO image name"):
        coco_id(name)


@given(st.integers(1, 999_999_999_999))
def test_any_id_survives_its_2014_name(number):
    assert coco_id(f"COCO_train2014_{number:012d}.jpg") == number


def test_the_image_marker_stands_once_and_in_the_first_human_turn():
    made = to_record([turn(), turn()], record_id="x", image="train2017/x.jpg")
    assert [m.value.count("<image>") for m in made.conversations] == [1, 0, 0, 0]
    assert made.conversations[0].value == "<image>\nWhat is it? Answer briefly."
    check_record(made)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"conversations": []}, "0 messages"),
        ({"conversations": [Message("human", "<image>\nWhat?")]}, "1 messages"),
        (
            {"conversations": [Message("gpt", "<image>\nA"), Message("human", "B")]},
            "message 0 is from 'gpt'",
        ),
        (
            {"conversations": [Message("human", "<image>\n"), Message("gpt", "B")]},
            "message 0 is empty",
        ),
        (
            {"conversations": [Message("human", "What?"), Message("gpt", "B")]},
            "message 0 must hold 1 image markers",
        ),
        (
            {"conversations": [Message("human", "<image>\nA"), Message("gpt", "B <image>")]},
            "message 1 must hold 0 image markers",
        ),
        ({"sources": []}, "0 sources for 1 rounds"),
        ({"image": "../secret.jpg"}, "must be relative"),
        ({"image": "/etc/passwd"}, "must be relative"),
    ],
)
def test_a_record_that_breaks_the_schema_is_named_with_its_fault(changes, fault):
    with pytest.raises(DataError, match=rf"record '000000000009'.*{fault}"):
        check_record(record(**changes))


def test_a_damaged_records_file_is_named(tmp_path):
    path = tmp_path / "merged.json"
    path.write_text('[{"id": "1"')
    with pytest.raises(DataError, match=r"merged\.json.*truncated.*run notebook 02_merge"):
        read_records(path)
