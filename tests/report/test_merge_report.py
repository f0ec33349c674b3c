"""What notebook 02 says of the merge: no division by nothing, one of a thing in the singular."""

import pyarrow as pa
import pytest
from PIL import Image

from cocoift.core.schema import Message, Record
from cocoift.core.text import counted
from cocoift.merge.export import write_mixture
from cocoift.report import analysis
from cocoift.report import merge as report
from cocoift.report.cards import record_card
from cocoift.sources.reading import Reading


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, "1 round"),
        (2, "2 rounds"),
        (0, "0 rounds"),
        (1.5, "1.5 rounds"),
        (118287, "118,287 rounds"),
    ],
)
def test_one_of_a_thing_is_in_the_singular(number, expected):
    assert counted(number, "round") == expected


def record(number, sources):
    turns = [(Message("human", "What?" if n else "<image>\nWhat?"), Message("gpt", "red"))
             for n in range(len(sources))]  # fmt: skip
    image = f"train2017/{number:012d}.jpg"
    return Record(f"{number:012d}", image, [message for turn in turns for message in turn], sources)


def test_examples_have_a_picture_where_any_record_has_one(tmp_path):
    made = [record(n, ["a", "b", "c"] if n < 6 else ["a", "b"]) for n in range(1, 9)]
    write_mixture(made, tmp_path, name="merged")
    (tmp_path / "train2017").mkdir()
    path = tmp_path / "merged.parquet"
    ids = [example.id for example in report.example_records(path, count=3, image_root=tmp_path)]
    assert ids == [made[n].id for n in (0, 1, 3)]
    for n in (4, 7):
        Image.new("RGB", (8, 8)).save(tmp_path / made[n].image)
    found = report.example_records(path, count=3, image_root=tmp_path)
    assert [example.id for example in found] == [made[4].id, made[7].id]
    page = record_card(record(5, ["a"]), image_root=tmp_path, names={})
    assert "1 round, 1 source<" in page and "no picture" not in page


def test_a_source_without_turns_is_in_no_overlap():
    def reading(*images):
        rows = {"image_id": list(images), "source": ["s"] * len(images)}
        return Reading(pa.table(rows), {"no_coco_id": 3})

    shared = analysis.overlap({"a": reading(1, 2), "b": reading(2), "empty": reading()})
    assert list(shared.index) == ["a", "b"] == list(shared.columns)
