"""What the README says is what the project does: its code is run, its tables are computed."""

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml
from accelerate.commands import launch

from cocoift.evaluation.candidates import endpoint_candidates
from cocoift.evaluation.evaluate import openai_judge
from cocoift.sources import Entry, read_catalogue, read_source
from cocoift.tuning import checkpoints


@pytest.fixture(scope="module")
def readme(root):
    return (root / "README.md").read_text()


def blocks(readme, language):
    """Return the fenced blocks of a language, without their fences."""
    return re.findall(rf"^```{language}\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)


def test_the_commands_without_make_are_those_of_make(root, readme):
    (plain,) = (block for block in blocks(readme, "") if "python3 -m venv" in block)
    rules = (root / "Makefile").read_text().replace("$(PYTHON)", ".venv/bin/python")
    rules = rules.replace("$(BASE_PYTHON)", "python3").replace("$(PRESET)", "mini")
    rules = rules.replace(" --quiet", "")
    commands = [part.split("#")[0].strip() for line in plain.splitlines()
                for part in line.split("&&")]  # fmt: skip
    assert len(commands) == 9
    for command in commands:
        assert f"\t{command}\n" in rules, command


def test_every_file_it_names_is_there(root, readme):
    made_by_a_run = ("reports/<preset>", "data/<preset>", "data/raw", "data/llava", "reports/mini/")
    names = re.findall(r"`((?:data|notebooks|reports|tests|cocoift)/[^`\s]+?)(?::\w+)?`", readme)
    names += re.findall(r"\]\(((?!https?:)[^)]+)\)", readme)
    named = [name for name in names if not name.startswith(made_by_a_run)]
    assert len(named) > 12
    assert not [name for name in named if not list(root.glob(name.rstrip("/")))]


def test_its_notebooks_are_there_with_their_questions(root, readme):
    told = dict(re.findall(r"^\| `(\d\d_\w+)` \| (.+?) \|$", readme, re.MULTILINE))
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    assert list(told) == [path.stem for path in paths]
    for path in paths:
        title = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert f"*{told[path.stem]}*" in title


def test_its_presets_are_there(root, readme):
    named = set(re.findall(r"`(smoke|mini|mini-full|llava-[\w.-]+)`", readme))
    assert named == {path.stem for path in (root / "notebooks/presets").iterdir()}


def test_its_estimate_is_what_the_script_computes(root, readme):
    script = root / "tests/bench/estimate.py"
    told = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() in readme


def test_its_own_dataset_is_read(readme, tmp_path, monkeypatch):
    (reader,) = (block for block in blocks(readme, "python") if "def my_set" in block)
    (entry,) = (block for block in blocks(readme, "yaml") if "my_set:" in block)
    (tmp_path / "my_readers.py").write_text(reader)
    (tmp_path / "sources.yaml").write_text(entry)
    (tmp_path / "my_set").mkdir()
    row = {"coco_id": 9, "id": 1, "question": "What is it?", "answer": "a cat"}
    (tmp_path / "my_set/questions.json").write_text(json.dumps([row]))
    monkeypatch.syspath_prepend(str(tmp_path))
    made: Entry = read_catalogue(tmp_path / "sources.yaml")["my_set"]
    (turn,) = read_source("my_set", made, tmp_path).turns.to_pylist()
    assert (turn["image_id"], turn["answer"], turn["form"]) == (9, "a cat", "phrase")
    assert turn["instruction"] == "What is it? Answer the question with a short phrase."


def test_its_yaml_is_accepted(root, readme, tmp_path):
    settings = {}
    for block in blocks(readme, "yaml"):
        settings.setdefault("endpoints", [])
        read = yaml.safe_load(block)
        settings["endpoints"] += read.get("endpoints", [])
        settings |= {name: value for name, value in read.items() if name == "judge"}
    judges, _ = openai_judge(settings["judge"], root=root, cache=tmp_path / "c.sqlite")
    assert judges["mm_vet"].repeats == 5 and judges["mm_vet"].max_cost == 250.0
    found = list(endpoint_candidates(settings["endpoints"], system="", new_tokens=8))
    assert sorted(one.name for one in found) == ["merged", "mine"]


def test_its_python_calls_what_there_is(readme):
    (assembling,) = (block for block in blocks(readme, "python") if "assemble(" in block)
    call = ast.parse(assembling).body[-1].value
    inspect.signature(checkpoints.assemble).bind(
        *call.args, **{word.arg: word.value for word in call.keywords}
    )
    (exporting,) = re.findall(r'python -c "(.*?checkpoints import export.*?)"$', readme, re.M)
    call = ast.parse(exporting).body[-1].value
    inspect.signature(checkpoints.export).bind(
        *call.args, **{word.arg: word.value for word in call.keywords}
    )


def test_its_launches_are_understood_by_accelerate(root, readme, monkeypatch):
    monkeypatch.chdir(root)
    found = re.findall(r"^\.venv/bin/accelerate (launch (?:.*\\\n)*.*)$", readme, re.M)
    assert len(found) == 2
    for line in found:
        words = shlex.split(line.replace("\\\n", " "), comments=True)[1:]
        chosen, _, _ = launch._validate_launch_command(
            launch.launch_command_parser().parse_args(words)
        )
        assert chosen.training_script == "cocoift" and chosen.module
        assert chosen.training_script_args[-2:] == ["--mixture", "merged"]
