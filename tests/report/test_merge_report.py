"""What notebook 02 says of the merge: no division by nothing, one of a thing in the singular."""

import pandas as pd
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
    ("number", "said"),
    [
        (1, "1 round"),
        (2, "2 rounds"),
        (0, "0 rounds"),
        (1.5, "1.5 rounds"),
        (118287, "118,287 rounds"),
    ],
)
def test_one_of_a_thing_is_in_the_singular(number, said):
    assert counted(number, "round") == said


def test_without_conversations_nothing_is_divided_by_nothing():
    none = pd.DataFrame({"source": [], "turns": [], "prompted": [], "share": []})
    assert report.prompted_sentence(none) == "`instructed` therefore holds what `merged` holds."
    some = pd.DataFrame({"source": ["visdial"], "turns": [10], "prompted": [1], "share": [0.1]})
    assert "1 turn of conversations, 10.0% of them" in report.prompted_sentence(some)


def test_conflicts_are_announced_as_there_are():
    said = [report.conflict_sentence(pd.DataFrame({"question": ["?"] * n})) for n in (0, 1, 2)]
    assert said == ["No question got contradicting answers.",
                    "1 question got contradicting answers.",
                    "2 questions got contradicting answers. The first ones:"]  # fmt: skip


def test_records_are_told_in_full_sentences():
    kept = pd.DataFrame([(9, 0, 1, 1, 700)],
                        columns=["image_id", "record", "rounds", "sources", "tokens"])  # fmt: skip
    options = {"context": 2048, "how": "estimated"}
    assert report.records_sentence(kept, **options) == (
        "1 image became 1 record. Half of them have at most 700 of 2,048 tokens (estimated). "
        "Medians per record: 1 round of 1 source."
    )
    more = pd.concat([kept, kept.assign(record=1)])
    said = report.records_sentence(more, **options)
    assert "2 records. 1 of these holds what did not fit the first one" in said


def record(number, sources):
    turns = [(Message("human", "What?" if n else "<image>\nWhat?"), Message("gpt", "red"))
             for n in range(len(sources))]  # fmt: skip
    image = f"train2017/{number:012d}.jpg"
    return Record(f"{number:012d}", image, [one for turn in turns for one in turn], sources)


def test_examples_have_a_picture_where_any_record_has_one(tmp_path):
    made = [record(n, ["a", "b", "c"] if n < 6 else ["a", "b"]) for n in range(1, 9)]
    write_mixture(made, tmp_path, name="merged")
    (tmp_path / "train2017").mkdir()
    path = tmp_path / "merged.parquet"
    ids = [one.id for one in report.example_records(path, count=3, image_root=tmp_path)]
    assert ids == [made[n].id for n in (0, 1, 3)]
    for n in (4, 7):
        Image.new("RGB", (8, 8)).save(tmp_path / made[n].image)
    found = report.example_records(path, count=3, image_root=tmp_path)
    assert [one.id for one in found] == [made[4].id, made[7].id]
    page = record_card(record(5, ["a"]), image_root=tmp_path, names={})
    assert "1 round, 1 source<" in page and "no picture" not in page


def test_a_source_without_turns_is_in_no_overlap():
    def reading(*images):
        rows = {"image_id": list(images), "source": ["s"] * len(images)}
        return Reading(pa.table(rows), {"no_coco_id": 3})

    shared = analysis.overlap({"a": reading(1, 2), "b": reading(2), "empty": reading()})
    assert list(shared.index) == ["a", "b"] == list(shared.columns)
