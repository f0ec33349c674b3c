"""The cures change turns that need it and nothing else, in every format."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from files import FORMATS, IMAGES, llava, rows_of, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.lint import check
from cocoift.lint.fix import Cure, fix
from cocoift.lint.messages import exchanges
from cocoift.merge.layouts import TERSE_PROMPT

TERSE, NONE, JOIN = Cure(prompts="terse"), Cure(prompts="none"), Cure(interleave=True)
SHORT = "Answer the question using a single word or phrase."


def load(path):
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text()
    return (
        list(map(json.loads, filter(None, text.split("\n"))))
        if path.suffix == ".jsonl"
        else json.loads(text)
    )


def turns(row):
    return [(exchange.question, exchange.answer) for exchange in exchanges(row)]


def without_turns(rows):
    return [{k: v for k, v in row.items() if k not in ("conversations", "messages", "texts")}
            for row in rows]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_terse_turn_is_asked_to_be_terse_and_all_else_stays(tmp_path, name):
    file, out = write(tmp_path, name), tmp_path / f"out.{name.partition('.')[2]}"
    changes = fix(file, out, TERSE)
    before, after = load(file), load(out)
    assert without_turns(before) == without_turns(after)
    for old, new in zip(before, after, strict=True):
        for (asked, answer), (asked_now, answer_now) in zip(turns(old), turns(new), strict=True):
            assert answer == answer_now
            unasked = len(answer.split()) <= 3 and SHORT not in asked
            gap = "\n" if "conversations" in old else " "
            assert asked_now == (f"{asked}{gap}{TERSE_PROMPT}" if unasked else asked)
    assert changes.counts == {"prompts added": 3}
    assert len((tmp_path / f"{out.name}.log.jsonl").read_text().splitlines()) == 3
    found = {finding.name for finding in check(out).findings}
    assert not found & {"unasked", "first_turn_only", "both_ways"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_cured_file_needs_no_cure(tmp_path, name):
    ends = name.partition(".")[2]
    once, twice = tmp_path / f"once.{ends}", tmp_path / f"twice.{ends}"
    fix(write(tmp_path, name), once, TERSE)
    assert not fix(once, twice, TERSE).counts
    assert load(once) == load(twice)


def test_markers_stay_where_they_are(tmp_path):
    rows = [{"conversations": [{"from": "human", "value": value}, {"from": "gpt", "value": "cat"}]}
            for value in ("<image>\nWho?", "Who?\n<image>")]  # fmt: skip
    fix(write(tmp_path, "x.json", rows), tmp_path / "out.json", TERSE)
    values = [row["conversations"][0]["value"] for row in load(tmp_path / "out.json")]
    assert values == [f"<image>\nWho?\n{TERSE_PROMPT}", f"Who?\n{TERSE_PROMPT}\n<image>"]


def test_a_first_prompt_is_taken_away_only_where_every_answer_is_full(tmp_path):
    full, asked = "It is a cat on a chair.", f"<image>\nWho is it?\n{SHORT}"
    rows = [{"id": str(n), "conversations": [
        {"from": "human", "value": asked}, {"from": "gpt", "value": first},
        {"from": "human", "value": "Why?"}, {"from": "gpt", "value": full}]}
        for n, first in enumerate((full, "cat"))]  # fmt: skip
    changes = fix(write(tmp_path, "x.json", rows), tmp_path / "out.json", NONE)
    values = [row["conversations"][0]["value"] for row in load(tmp_path / "out.json")]
    assert values == ["<image>\nWho is it?", asked]
    assert changes.counts == {"prompts removed": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_conversations_of_one_image_become_one_that_starts_with_it(tmp_path, name):
    file, out = write(tmp_path, name), tmp_path / f"out.{name.partition('.')[2]}"
    fix(file, out, JOIN)
    before, after = load(file), load(out)
    if name.startswith(("messages", "typed")):  # a system prompt belongs to its conversation
        assert before == after
        return
    assert [turns(row) for row in after[1:]] == [turns(before[2])]
    assert sorted(turns(after[0])) == sorted(turns(before[0]) + turns(before[1]))
    own = [turn for turn in turns(after[0]) if turn in turns(before[0])]
    assert own == turns(before[0])  # rounds in order
    assert without_turns(after) == without_turns([before[0], before[2]])
    if "conversations" in after[0]:
        values = [message["value"] for message in after[0]["conversations"]]
        assert values[0].startswith("<image>\n") and "<image>" not in "".join(values[1:])
    assert not {f.name for f in check(out).findings} & {"marker_missing", "marker_extra", "roles"}


def test_no_joined_conversation_passes_the_context(tmp_path):
    rows = [row for row in llava() for _ in range(40)]
    rows = [row | {"id": f"{n}", "image": IMAGES[0]} for n, row in enumerate(rows)]
    file, out = write(tmp_path, "x.json", rows), tmp_path / "out.json"
    fix(file, out, Cure(interleave=True, context=1_000))
    joined = load(out)
    assert 1 < len(joined) < len(rows)
    assert sorted(turn for row in joined for turn in turns(row)) == sorted(
        turn for row in rows for turn in turns(row)
    )
    for row in joined:
        characters = sum(len(message["value"]) for message in row["conversations"])
        assert characters / 3 <= 1_000 - 576
    assert [row["id"] for row in joined] == [row["id"] for row in rows[: len(joined)]]


def test_the_sources_of_rounds_follow_them(mixture, tmp_path):
    for ends in ("json", "parquet"):
        out = tmp_path / f"out.{ends}"
        fix(mixture / f"mix.{ends}", out, JOIN)
        before, after = load(mixture / f"mix.{ends}"), load(out)
        assert len(after) == 40 < len(before)
        named = {(row["image"], turns(row)[0]): row["sources"][0] for row in before}
        for row in after:
            assert row["sources"] == [named[row["image"], turn] for turn in turns(row)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
TAKEN = ("conversations", "messages", "texts", "image", "images", "sources")
OTHERS = st.dictionaries(st.text(max_size=8).filter(lambda k: k not in TAKEN), VALUES, max_size=4)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(llava()), OTHERS, OTHERS), min_size=1, max_size=4),
       st.sampled_from(["x.json", "x.jsonl"]), st.sampled_from([TERSE, NONE]))  # fmt: skip
def test_whatever_other_fields_there_are_they_stay(tmp_path, drawn, name, cure):
    rows = [others | json.loads(json.dumps(row)) for row, others, _ in drawn]
    for row, (_, _, others) in zip(rows, drawn, strict=True):
        row["conversations"][0] |= {k: v for k, v in others.items()
                                    if k not in ("from", "value", "role", "content")}  # fmt: skip
    file, out = write(tmp_path, name, rows), tmp_path / f"out-{name}"
    fix(file, out, cure)
    for old, new in zip(load(file), load(out), strict=True):
        assert list(old) == list(new)
        assert without_turns([old]) == without_turns([new])
        for before, after in zip(old["conversations"], new["conversations"], strict=True):
            assert {**before, "value": 0} == {**after, "value": 0}
            assert after["value"].startswith(before["value"])


def test_records_that_need_nothing_are_copied_byte_for_byte(tmp_path):
    odd = '{"id":1.50,  "x": 1e5, "conversations":[{"from":"human","value":"\\u0041?"},' \
          '{"from":"gpt","value":"It is an A, I am sure."}]}'  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text(f"{odd}\nnot a record\n\n{odd}\n")
    fix(path, tmp_path / "out.jsonl", TERSE)
    assert (tmp_path / "out.jsonl").read_bytes() == path.read_bytes()


def test_parquet_keeps_its_columns_types_metadata_and_the_bytes_of_images(tmp_path):
    rows = rows_of("finevision.parquet")
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": "{}"})
    file, out = tmp_path / "x.parquet", tmp_path / "out.parquet"
    pq.write_table(table, file)
    for cure in (TERSE, JOIN):
        fix(file, out, cure)
        again = pq.read_table(out)
        assert again.schema.equals(pq.read_schema(file), check_metadata=True)
        assert again["images"].to_pylist()[0][0]["bytes"] == b"\x89PNG not looked at"


@pytest.mark.parametrize(
    ("out", "cure", "told"),
    [("x.json", TERSE, "the file itself"), ("y.jsonl", TERSE, "must end in"),
     ("y.json", Cure(), "nothing to do")],
)  # fmt: skip
def test_what_cannot_be_done_is_said(tmp_path, out, cure, told):
    with pytest.raises(DataError, match=told):
        fix(write(tmp_path, "x.json", llava()), tmp_path / out, cure)


def test_a_damaged_file_leaves_nothing_behind(tmp_path):
    file = tmp_path / "x.json"
    file.write_text("[{]")
    with pytest.raises(DataError, match="malformed"):
        fix(file, tmp_path / "out.json", TERSE)
    assert list(tmp_path.iterdir()) == [file]
