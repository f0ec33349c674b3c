"""README and docs say what the project does: their code is run, their tables are computed."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import nbformat
import pandas as pd
import pyarrow.parquet as pq
import pytest
import readme_text
import recomputed
from accelerate.commands import launch

from cocoift import __main__
from cocoift.lint import command as lint_command
from cocoift.study import read_preset


def pages(root):
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def readme(root):
    return "\n".join(path.read_text() for path in pages(root))


def blocks(readme, language):
    """Return the fenced blocks of a language, without their fences."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def test_the_commands_without_make_are_those_of_make(root, readme):
    (plain,) = (block for block in blocks(readme, "") if "python3 -m venv" in block)
    rules = (root / "Makefile").read_text().replace("$(PYTHON)", ".venv/bin/python")
    rules = rules.replace("$(BASE_PYTHON)", "python3").replace("$(PRESET)", "mini")
    rules = rules.replace(" --quiet", "")
    commands = [part.split("#")[0].strip() for line in plain.splitlines()
                for part in line.split("&&")]  # fmt: skip
    assert len(commands) == 10
    for line in commands:
        assert f"\t{line}\n" in rules, line


def test_every_file_it_names_is_there(root, readme):
    made_by_a_run = ("reports/<preset>", "data/<preset>", "data/raw", "data/llava", "reports/mini/",
                     "reports/endpoint",
                     "data/tasks")  # fmt: skip
    names = re.findall(r"`((?:data|notebooks|reports|tests|cocoift)/[^`\s]+?)(?::\w+)?`", readme)
    named = [name for name in names if not name.startswith(made_by_a_run)]
    assert len(named) > 12
    assert not [name for name in named if not list(root.glob(name.rstrip("/")))]


def test_every_link_leads_to_a_file(root):
    for page in pages(root):
        links = re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text())
        assert not [link for link in links if not (page.parent / link).exists()], page.name


def test_its_notebooks_are_there_with_their_questions(root, readme):
    questions = dict(re.findall(r"^\| \[(\d\d_\w+)\]\(\S+\) \| (.+?) \|$", readme, re.MULTILINE))
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    assert list(questions) == [path.stem for path in paths]
    for path in paths:
        title = "".join(json.loads(path.read_text())["cells"][0]["source"])
        assert f"*{questions[path.stem]}*" in title


def test_its_presets_are_there(root, readme):
    named = set(
        re.findall(r"`(smoke|endpoint|mini|mini-full|smol|smol-qwen|small|llava-[\w.-]+)`", readme)
    )
    assert named == {path.stem for path in (root / "notebooks/presets").iterdir()}


def test_its_estimate_is_what_the_script_computes(root, readme):
    script = root / "tests/bench/estimate.py"
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() in readme


SETUP = """
from cocoift.core.files import write_manifest
from cocoift.sources import read_all
from cocoift.study import open_study, steps
study = open_study(preset, changes)
steps.draw_world(study)
tables = read_all(study.sources, study.raw, study.turn_tables)
write_manifest(study.work / 'interim/manifest.json', tables.values(), root=study.work)
"""


@pytest.fixture
def own_dataset(root, readme, tmp_path):
    """A project with README's own dataset, put where README says, and how to run its notebook."""
    (reader,) = (block for block in blocks(readme, "python") if "def my_set" in block)
    (entry,) = (block for block in blocks(readme, "yaml") if "my_set:" in block)
    (tmp_path / "notebooks/presets").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name in ("dodo.py", "data/sources.yaml"):
        shutil.copy(root / name, tmp_path / name)
    with (tmp_path / "data/sources.yaml").open("a") as catalogue:
        catalogue.write(entry)
    (tmp_path / "my_readers.py").write_text(reader)
    mini = {"mini_coco": {"train": 6, "held_out": 2, "benchmark": 2}}
    preset = {"checkpoint": "none", "raw_dir": "data/p/raw"} | mini
    (tmp_path / "notebooks/presets/p.yaml").write_text(json.dumps(preset))
    cells = [nbformat.v4.new_code_cell(text) for text in ("preset, changes = 'p', {}", SETUP)]
    cells[0].metadata.tags = ["parameters"]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(made, tmp_path / "notebooks/00_setup.ipynb")

    def run():
        command = [sys.executable, "-m", "doit", "preset=p", "notebook"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return tmp_path, run


def question(**changes):
    return {"coco_id": 9, "id": 1, "question": "What is it?", "answer": "a cat"} | changes


@pytest.mark.slow
def test_its_own_dataset_is_read_and_stays_where_it_was_put(own_dataset):
    folder, run = own_dataset
    file = folder / "data/p/raw/my_set/questions.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps([question()]))
    read = folder / "data/p/interim/turns/my_set.parquet"
    assert run().returncode == 0
    (turn,) = pq.read_table(read).to_pylist()
    assert (turn["image_id"], turn["answer"], turn["form"]) == (9, "a cat", "phrase")
    assert turn["instruction"] == "What is it? Answer the question with a short phrase."
    assert "unchanged" in run().stdout
    file.write_text(json.dumps([question(), question(coco_id=25, id=2)]))
    assert "unchanged" not in run().stdout
    assert pq.read_table(read).num_rows == 2
    (folder / "my_readers.py").write_text((folder / "my_readers.py").read_text() + "# changed\n")
    assert "unchanged" not in run().stdout
    assert len(json.loads(file.read_text())) == 2


@pytest.mark.slow
def test_its_own_dataset_may_be_elsewhere_and_its_reader_beside_the_preset(own_dataset):
    folder, run = own_dataset
    file, presets = folder / "elsewhere/q.json", folder / "notebooks/presets"
    file.parent.mkdir()
    file.write_text(json.dumps([question(), {"coco_id": 9}]))
    (folder / "my_readers.py").rename(presets / "my_readers.py")
    catalogue = folder / "data/sources.yaml"
    catalogue.write_text(catalogue.read_text().replace("my_set/questions.json", str(file)))
    printed = run().stdout
    assert f"{file}: my_readers:my_set failed after 1 dialog, at {{'coco_id': 9}}: " in printed
    assert "KeyError: 'id'; fix that record or the reader" in printed
    file.write_text(json.dumps([question()]))
    assert run().returncode == 0
    assert pq.read_table(folder / "data/p/interim/turns/my_set.parquet").num_rows == 1


def test_its_yaml_is_accepted(readme, tmp_path):
    names = []
    for number, block in enumerate(blocks(readme, "yaml")):
        if "evaluation:" in block:
            path = tmp_path / f"p{number}.yaml"
            path.write_text(f"extends: llava-1.5-7b\n{block}")
            evaluation = read_preset(path).evaluation
            names += [endpoint.name for endpoint in evaluation.endpoints]
            assert evaluation.judge.repeats == 5 and evaluation.judge.max_cost == 450.0
    assert sorted(names) == ["merged", "mine"]


def test_its_commands_are_understood(readme, monkeypatch):
    found = re.findall(r"\.venv/bin/cocoift ([a-z-]+[^\n`|]*)", readme)
    assert {line.split()[0] for line in found} >= {"download", "assemble", "export"}
    for name in ("_download", "_assemble", "_export", "_train", "_study", "_probe_server", "_tasks",
                 "_dataset"):  # fmt: skip
        monkeypatch.setattr(__main__, name, named(name))
    for name in ("run_lint", "run_fix"):
        monkeypatch.setattr(lint_command, name, named(name))
    for line in found:
        __main__.main(shlex.split(line, comments=True))


def named(name):
    def run(chosen):
        assert chosen

    run.__name__ = name
    return run


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


def test_what_it_says_of_smols_base_model_stands_in_the_tables(root, readme):
    table = pd.read_csv(root / "reports/smol/tables/lengths.csv")
    untuned = table[(table.model == "base") & (table.seed == "all")]
    words = untuned.set_index(["protocol", "round"]).median_words
    alone, after = words["single_round", 1], words["multi_round", 2]
    assert f"its median answer falls from {alone:.0f} to {after:.0f} words" in readme


def test_its_dialog_bullets_and_table_are_those_of_the_reference_run(root):
    _, inside, _ = readme_text.parts((root / "README.md").read_text())
    expected = readme_text.computed(root / readme_text.RUN)
    again = f"run {readme_text.__file__}, or paste between the marks of README:\n\n{expected}\n"
    assert inside == expected, again


def test_its_first_sentence_is_what_the_verdicts_of_the_reference_run_say(root):
    readme = (root / "README.md").read_text()
    verdicts = pd.read_csv(root / "reports/mini-full/tables/verdicts.csv.gz")
    asked = verdicts[(verdicts.benchmark == "mm_vet") & (verdicts.model == "mix")]
    of_open = ~asked.get("closed", asked.wording.isna()).astype(bool)
    score = 100 * asked.groupby("protocol").score.mean()
    short = 100 * (asked[of_open].words <= 3).groupby(asked.protocol).mean()
    (found,) = re.findall(
        r"- After one short answer, the LLaVA-style model loses (\d+) of (\d+) points and answers "
        r"(\d+) % of the (?:open )?questions in three words or fewer \(asked alone: (\d+) %\)",
        readme,
    )
    alone, after = "single_round", "multi_round"
    assert [int(number) for number in found] == [
        round(score[alone] - score[after]), round(score[alone]),
        round(short[after]), round(short[alone])]  # fmt: skip


@pytest.mark.parametrize("page", ["index.html", "05_multi_round_eval", "06_bias_analysis",
                                  "07_ablations", "09_open_questions"])  # fmt: skip
def test_every_effect_that_the_reference_run_states_is_one_of_its_tables(root, page):
    run = root / readme_text.RUN
    index = page.endswith(".html")
    text = (recomputed.index_text if index else recomputed.answers)(
        run / (page if index else f"{page}.ipynb")
    )
    assert recomputed.unknown_effects(text, recomputed.Tables(run)) == []


def test_every_number_of_readmes_computed_part_is_one_of_the_reference_runs_tables(root):
    tables = recomputed.Tables(root / readme_text.RUN)
    _, inside, _ = readme_text.parts((root / "README.md").read_text())
    text = re.sub(r"^\|.*asked on its own(.|\n)*?\n\n|^!\[.*\n", "", inside, flags=re.MULTILINE)
    assert text.count("After one short answer") == 2 and "asked on its own" not in text
    assert recomputed.unknown_effects(text, tables) == []
    assert recomputed.unknown_levels(text, tables) == []
