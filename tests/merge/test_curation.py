"""Curation: decisions are appended, survive a kill, and the merge obeys them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cocoift.core.files import DataError
from cocoift.core.schema import Turn
from cocoift.merge.curation import Decision, append_decisions, curated_turns, read_decisions
from cocoift.merge.rules import Rules, merge_image
from cocoift.sources.scope import Scope


def decision(n=0, word="flag", **changes):
    values = {"image_id": 9, "source": "vqav2", "dialog_id": f"d{n}", "round": 0}
    return Decision(**values | {"decision": word, "reason": "wrong answer"} | changes)


def test_flags_are_read_back_and_the_last_decision_counts(tmp_path):
    path = tmp_path / "curation.jsonl"
    append_decisions(path, [decision(0), decision(1)])
    append_decisions(path, [decision(0, "keep"), decision(2, image_id=10, note="ñ‮")])
    found = read_decisions(path)
    assert {image: list(turns) for image, turns in found.items()} == {
        9: [("vqav2", "d1", 0)], 10: [("vqav2", "d2", 0)]}  # fmt: skip
    assert found[10]["vqav2", "d2", 0].note == "ñ‮"
    assert len(path.read_text().splitlines()) == 4


def test_undo_reverts_the_last_decision_on_a_turn_and_the_decision_before_counts(tmp_path):
    path = tmp_path / "curation.jsonl"
    flagged = []
    for word in ("undo", "flag", "keep", "undo", "undo", "undo", "flag"):
        append_decisions(path, [decision(0, word)])
        flagged.append(bool(read_decisions(path)))
    assert flagged == [False, True, False, True, False, False, True]
    with path.open("a") as file:
        file.write(path.read_text().splitlines()[0].replace("undo", "falg") + "\n")
    with pytest.raises(DataError, match="line 8: Invalid enum value 'falg'"):
        read_decisions(path)


def test_no_file_is_no_decision(tmp_path):
    assert read_decisions(tmp_path / "none.jsonl") == {}


@given(cut=st.integers(1, 100))
def test_a_line_cut_short_is_passed_over_and_nothing_is_glued_to_it(cut, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "curation.jsonl"
    append_decisions(path, [decision(0), decision(1)])
    last = len(path.read_bytes().splitlines(keepends=True)[-1])
    assume(cut < last)
    os.truncate(path, path.stat().st_size - cut)
    append_decisions(path, [decision(2)])
    assert [key[1] for key in read_decisions(path)[9]] == ["d0", "d2"] or cut == 1


def test_a_line_that_is_no_decision_is_named(tmp_path):
    path = tmp_path / "curation.jsonl"
    append_decisions(path, [decision(0)])
    path.write_text(path.read_text() + '{"image_id": "nine"}\n')
    with pytest.raises(DataError, match=r"curation\.jsonl, line 2: .*fix or delete"):
        read_decisions(path)


def test_a_decision_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="the decision was not written"):
        append_decisions(tmp_path / "file" / "curation.jsonl", [decision()])


def test_every_confirmed_decision_survives_a_kill(tmp_path):
    path = tmp_path / "curation.jsonl"
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "from test_curation import decision; from cocoift.merge.curation import append_decisions\n"
        "for n in range(10**6):\n"
        "    append_decisions(Path(sys.argv[1]), [decision(n)]); print(n, flush=True)"
    )
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        confirmed = [int(process.stdout.readline()) for _ in range(30)]
        process.send_signal(signal.SIGKILL)
        confirmed += [int(line) for line in process.stdout if line.strip().isdigit()]
    found = {key[1] for key in read_decisions(path)[9]}
    assert {f"d{n}" for n in confirmed} <= found


def turn(dialog, answer):
    asked = "What is it? Answer the question with a short phrase."
    return Turn(9, "vqav2", dialog, 0, "What is it?", asked, answer, "phrase")


def merged(curated=()):
    turns = [turn("d0", "cup"), turn("d1", "cup"), turn("d2", "car")]
    return merge_image(9, turns, rules=Rules(), scope=Scope(), count_tokens=len, curated=curated)


def test_a_flagged_turn_is_left_out_counted_and_another_takes_its_place(tmp_path):
    path = tmp_path / "curation.jsonl"
    append_decisions(path, [decision(0), decision(1)])
    curated = curated_turns(read_decisions(path))[9]
    assert [t.answer for record in merged().records for t, _ in record] == ["cup"]
    found = merged(curated)
    assert [t.answer for record in found.records for t, _ in record] == ["car"]
    assert ("vqav2", "curated", 2) in found.drops
    assert [(t.dialog_id, why) for t, why in found.dropped] == [
        ("d0", "curated"),
        ("d1", "curated"),
    ]
