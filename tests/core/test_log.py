"""The append-only log: what was confirmed survives, what was cut short never happened."""

from pathlib import Path

import pytest

from cocoift.core.files import DataError, append_lines, whole_lines


def test_a_line_that_was_cut_short_is_passed_over_and_then_removed(tmp_path):
    path = tmp_path / "below" / "log.jsonl"
    append_lines(path, [b"one", b"two"], lost="")
    with path.open("ab") as file:
        file.write(b"thr")
    assert whole_lines(path) == [b"one", b"two"]
    append_lines(path, [b"four"], lost="")
    assert path.read_bytes() == b"one\ntwo\nfour\n"


def test_a_log_that_cannot_be_written_is_told_with_what_that_means(tmp_path):
    with pytest.raises(DataError, match=r"/dev/full: .*; the answer is lost"):
        append_lines(Path("/dev/full"), [b"line"], lost="the answer is lost")
