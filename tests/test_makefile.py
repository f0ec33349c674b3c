"""What `make` removes, and what it never does; in a folder of its own."""

import shutil
import subprocess

import pytest

from minicoco.annotate import replace_mini_coco

RAW, SMALL = (
    ("data/mini/raw", "data/smoke/raw"),
    {"train": 2, "held_out": 2, "seed": 0, "benchmark": 2},
)
# A person's work with the list of what was drawn beside it, and what the study made.
KEPT = ("data/mini/curation.jsonl", "data/smoke/curation.jsonl", "data/mini/raw/mine/a b.json",
        "data/mini/raw/vqav2/notes.txt", "data/mini/raw/MINI_COCO.txt",
        "data/raw/captions.json", "data/llava/x.json",
        "reports/smol/index.html", ".venv/installed", "data/mini_llava/built.json")  # fmt: skip
MADE = ("data/mini/merged/merged.json", "data/mini/adapters/merged-0/x", "data/mini/judge.sqlite",
        "data/bench/11829/x.json", "reports/mini/index.html", "reports/smoke/.doit.db",
        ".mypy_cache/x", "data/smoke/raw.json")  # fmt: skip


@pytest.fixture
def project(root, tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    shutil.copy(root / "Makefile", tmp_path)
    for raw in RAW:
        replace_mini_coco(tmp_path / raw, **SMALL)
    for name in (*KEPT, *MADE):
        if not (tmp_path / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text("x")
    return tmp_path


def make(folder, target):
    subprocess.run(["make", target], cwd=folder, check=True, capture_output=True)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in files} - {"Makefile"}


def test_clean_removes_what_was_made_and_no_persons_work(project):
    assert make(project, "clean") == set(KEPT)
    assert make(project, "clean") == set(KEPT)
    for (
        raw
    ) in RAW:  # with the list of what was drawn beside a person's files, these are no obstacle
        replace_mini_coco(project / raw, **SMALL)


def test_distclean_removes_the_environment_too(project):
    assert make(project, "distclean") == set(KEPT) - {".venv/installed"}


def test_clean_leaves_a_drawn_folder_of_an_older_version_as_it_is(project):
    stamp = project / "data/mini/raw/MINI_COCO.txt"
    stamp.write_text("made by minicoco; safe to delete\n")
    assert "data/mini/raw/MINI_COCO.txt" in make(project, "clean")


def test_clean_has_nothing_to_do_in_a_fresh_clone(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    assert make(tmp_path, "clean") == set()


def test_clean_leaves_a_link_to_raw_files_elsewhere(root, tmp_path):
    shutil.copy(root / "Makefile", tmp_path)
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/mine.json").write_text("x")
    (tmp_path / "data/mini/merged").mkdir(parents=True)
    (tmp_path / "data/mini/raw").symlink_to(tmp_path / "disk")
    make(tmp_path, "clean")
    assert (tmp_path / "data/mini/raw/mine.json").is_file()
    assert not (tmp_path / "data/mini/merged").exists()
