"""The command line as a new user meets it: from another folder, too early, twice, with a typo."""

import subprocess
import sys
from importlib import metadata

import pytest
import yaml

from cocoift.__main__ import main
from cocoift.core.files import DataError
from cocoift.sources.download import fetch
from cocoift.study import asking, open_study, steps

CLEAN = {"work_dir": "{place}/work", "raw_dir": "{place}/raw", "report_dir": "{place}/reports"}


@pytest.fixture
def clean(tmp_path):
    """Opens a preset whose folders are all empty, as on a clean clone."""

    def opened(preset, **changes):
        place = {name: path.format(place=tmp_path) for name, path in CLEAN.items()}
        return open_study(preset, place | changes)

    return opened


def test_a_notebook_that_runs_too_early_names_the_one_to_run_first(clean):
    mini, real = clean("smoke"), clean("llava-1.5-7b")
    with pytest.raises(DataError, match=r"instances_train2017\.json is not there; run notebook 00"):
        steps.merge_inputs(mini)
    with pytest.raises(DataError, match="fetch it first: cocoift download coco_instances"):
        steps.merge_inputs(real)


def test_a_missing_adapter_names_the_notebook_that_trains_it(checkpoint, clean):
    study = clean("smoke", checkpoint=str(checkpoint), evaluation={"models": ["merged"]})
    with pytest.raises(DataError, match="run notebook 04_finetune_qlora or `cocoift train` first"):
        asking.chat_models(study)


def test_a_notebook_that_is_not_there_is_refused(root, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke", "notebooks": ["12", "00"]}))
    command = [sys.executable, "-m", "doit", f"preset={path}"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "error: the preset's `notebooks` name 12; there are 00, 01, " in done.stderr


@pytest.mark.parametrize("parts", [("nope", "nope"), ("nope", "owner/nope")])
def test_assembling_what_is_not_there_says_what_to_name(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    why = "checkpoint nope: no config.json; for the language model name a folder of transformers'"
    with pytest.raises(SystemExit, match=why):
        main(["assemble", "out", *parts])


def test_sources_are_listed_from_any_folder_within_a_hundred_columns(
    root, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main(["download", "--list"])
    printed = capsys.readouterr().out
    assert printed.startswith(f"in {root}/data/raw:\n")
    assert max(map(len, printed.splitlines()[1:])) <= 100
    sources = yaml.safe_load((root / "data/sources.yaml").read_text())
    assert [name for name in sources if f"\n{name} " not in printed] == []
    assert "cocoift download coco_images (19,337 MB)" in printed


def test_pictures_are_present_once_they_are_unpacked_and_no_sooner(root, tmp_path):
    def state():
        found = fetch([], raw=tmp_path, catalogue=root / "data/sources.yaml")
        return found.set_index("source").state["coco_images"]

    assert state() == "absent"
    (tmp_path / "images/train2017").mkdir(parents=True)
    (tmp_path / "images/train2017.zip").touch()
    (tmp_path / "images/train2017/000000000009.jpg").touch()
    assert state() == "absent"
    (tmp_path / "images/train2017.zip").unlink()
    assert state() == "present"


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cocoift {metadata.version('cocoift')}\n"
