"""What `make bench` runs works, at a small size."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def run(root, script, *words):
    command = [sys.executable, root / "tests/bench" / script, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ours_and_the_plain_way_make_the_same_records_of_a_corpus_and_of_its_copies(root, tmp_path):
    run(root, "make_corpus.py", tmp_path / "one", 40)
    run(root, "copies.py", tmp_path / "one", tmp_path / "three", 3)
    table = run(root, "merge.py", tmp_path / "one", tmp_path / "three")
    counted = [line for line in table.splitlines() if "the same by ours and plain" in line]
    turns, three_times = (int(line.split()[1].replace(",", "")) for line in counted)
    assert three_times == 3 * turns > 300
    assert "ours: CPU x" in table


def test_the_inspector_is_measured(root):
    assert "search_s" in run(root, "inspector.py", 30)
