"""Turns come back in order, whole, and the same whatever memory they were given."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocoift.core.schema import TURN_SCHEMA, Turn
from cocoift.core.spread import id_ranges
from cocoift.sources import reading
from cocoift.sources.reading import SortedTurns


def dialog(image_id, name, answers):
    return [
        Turn(image_id, "s", name, number, "Is it?", "Is it?", answer, "phrase")
        for number, answer in enumerate(answers)
    ]


DIALOGS = st.lists(
    st.builds(
        dialog,
        st.integers(1, 30),
        st.text("ab\u00e9\U0001f600", min_size=1, max_size=2),
        st.lists(st.sampled_from(["yes", "no", None]), max_size=3),
    ),
    max_size=40,
)


def sorted_by(dialogs, folder=None, *, run_bytes, rows):
    collected = SortedTurns(folder, run_bytes=run_bytes)
    for turns in dialogs:
        collected.add(turns)
    pieces, repeated = collected.pieces(rows=rows)
    return list(pieces), repeated


def plainly(dialogs):
    """Return the rows in order, one dialog per id, with a dict and `sorted`."""
    kept = {}
    for turns in dialogs:
        name = turns[0].dialog_id if turns else None
        if turns and (name not in kept or repr(turns) < repr(kept[name])):
            kept[name] = turns
    rows = [turn for turns in kept.values() for turn in turns]
    return sorted(rows, key=lambda turn: (turn.image_id, turn.dialog_id, turn.round))


@given(dialogs=DIALOGS, rows=st.integers(1, 20))
@pytest.mark.parametrize("run_bytes", [1, 10**9])
def test_turns_come_back_in_order_whatever_the_memory(dialogs, rows, run_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BATCH_ROWS", 3)
        pieces, repeated = sorted_by(dialogs, run_bytes=run_bytes, rows=rows)
    table = pa.concat_tables([TURN_SCHEMA.empty_table(), *pieces])
    expected = plainly(dialogs)
    assert [Turn(**row) for row in table.to_pylist()] == expected
    assert repeated == sum(map(len, dialogs)) - len(expected)
    images = [set(piece["image_id"].to_pylist()) for piece in pieces]
    assert sum(map(len, images)) == len(set().union(*images))


def test_runs_leave_no_file_behind_even_while_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_BATCH_ROWS", 10)
    collected = SortedTurns(tmp_path, run_bytes=1)
    for number in range(50):
        collected.add(dialog(50 - number, str(number), ["yes"]))
    pieces, _ = collected.pieces(rows=5)
    first = next(iter(pieces))
    assert first["image_id"].to_pylist() == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_the_largest_image_id_a_table_holds_is_not_lost():
    largest = 2**63 - 1
    (piece,), _ = sorted_by([dialog(largest, "a", ["yes"])], run_bytes=10**9, rows=5)
    assert piece["image_id"].to_pylist() == [largest]


@given(ids=st.lists(st.lists(st.integers(1, 50), max_size=40), min_size=1, max_size=3))
def test_ranges_hold_every_image_once_and_about_as_many_turns(ids):
    ranges = id_ranges([np.array(column, np.int64) for column in ids], rows=7)
    every = sorted(image for column in ids for image in column)
    for image in every:
        assert sum(first <= image <= last for first, last in ranges) == 1
    most = max(map(every.count, every), default=0)
    for first, last in ranges:
        assert 0 < sum(first <= image <= last for image in every) < 2 * 7 + most
