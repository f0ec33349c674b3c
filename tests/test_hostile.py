"""Hostile input: what once failed stays fixed, and a few mutants of every input each time.

`tests/hostile/campaign.py` throws a hundred thousand.
"""

import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

HOSTILE = Path(__file__).resolve().parent / "hostile"
sys.path.insert(0, str(HOSTILE))
import targets as hostile  # noqa: E402
from mutants import mutants  # noqa: E402

from cocoift.core.files import DataError  # noqa: E402
from cocoift.sources.download import unpack  # noqa: E402
from minicoco.annotate import write_mini_coco  # noqa: E402


@pytest.fixture(scope="module")
def thrown_at(tmp_path_factory):
    """The targets and a whole input for each, on a mini-COCO of six pictures."""
    folder = tmp_path_factory.mktemp("hostile")
    write_mini_coco(folder / "raw", train=6, held_out=3, seed=1)
    (folder / "scratch").mkdir()
    raw, scratch = folder / "raw", folder / "scratch"
    return hostile.targets(raw, scratch), hostile.seeds(raw)


def test_whole_inputs_are_accepted_by_every_target(thrown_at):
    targets, seeds = thrown_at
    assert targets.keys() == seeds.keys()
    for name, target in targets.items():
        if name not in ("catalogue", "synonyms"):  # whose seeds are cut to a few entries
            target(seeds[name])


def test_what_once_failed_is_refused_in_words_or_read(thrown_at):
    targets, _ = thrown_at
    kept = [path for path in (HOSTILE / "corpus").rglob("*") if path.is_file()]
    assert len(kept) >= 9
    for path in kept:
        name = str(path.parent.relative_to(HOSTILE / "corpus"))
        hostile.tried(targets[name], path.read_bytes())


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(st.data())
def test_mutants_of_every_input_lead_to_documented_errors_only(thrown_at, data):
    targets, seeds = thrown_at
    name = data.draw(st.sampled_from(sorted(targets)))
    hostile.tried(targets[name], data.draw(mutants(seeds[name])))


def test_a_target_that_fails_otherwise_is_noticed(thrown_at):
    def broken(content):
        raise KeyError(content)

    with pytest.raises(KeyError):
        hostile.tried(broken, b"")


def test_an_archive_in_a_new_zip_version_is_refused_in_words(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.json", "{}")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 99
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.zip: zip file version 9\.9"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
