"""The runner: parameters, kernels, failures, and doit's decision what to run."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import msgspec
import nbformat
import pandas as pd
import pytest
import yaml
from doit.doit_cmd import DoitMain
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from cocoift import study
from cocoift.__main__ import main
from cocoift.core.files import DataError, write_text
from cocoift.evaluation.reference_judge import ReferenceJudge
from cocoift.report.pages import headline, index_page, notebook_page
from cocoift.study import asking, steps
from cocoift.study.index import _figures, write_index


def notebook(path, *cells, parameters="preset, changes = 'mini', {}"):
    made = nbformat.v4.new_notebook()
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made.cells = [nbformat.v4.new_markdown_cell("# Title\n\n*Is it so?*")]
    made.cells += [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    made.cells[1].metadata.tags = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


def test_threads_that_wait_in_a_kernel_soon_leave_their_core(tmp_path, monkeypatch):
    code = "print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    path = notebook(tmp_path / "a.ipynb", "import os, sys", "import cocoift", code)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    study.run_notebook(path, preset="mini", reports=tmp_path)
    assert outputs(tmp_path / "a.ipynb") == "False 2000\n"


def test_a_folder_that_is_no_repository_has_no_commit_even_inside_of_one(root):
    assert study.runner._commit(root / "tests") == "unknown"


def outputs(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(line for c in cells for o in c.get("outputs", []) for line in o.get("text", []))


@pytest.fixture
def preset(tmp_path):
    def write(text, name="p"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


def test_a_preset_states_its_differences_from_the_one_it_extends(preset):
    preset("checkpoint: a\ntuning: {rank: 4, alpha: 8}\nseeds: [1, 2]\n", "base")
    found = study.read_preset(preset("extends: base\ntuning: {rank: 2}\nseeds: [5]\n"))
    assert (found.name, found.checkpoint, found.seeds) == ("p", "a", [5])
    assert (found.tuning.rank, found.tuning.alpha, found.tuning.epochs) == (2, 8, 1)
    assert found.work_dir == "data/p" and found.report_dir == "reports/p"


@pytest.mark.parametrize(
    "named", ["sub/real", "sub/real.yaml", "./sub/../sub/real.yml", "{folder}/sub/real.yaml",
              "{folder}/sub/real"],
)  # fmt: skip
def test_a_preset_extends_by_a_path_from_its_own_folder(preset, tmp_path, named, monkeypatch):
    (tmp_path / "sub").mkdir()
    preset("extends: beside\nseeds: [1, 2]\n", "sub/real")
    preset("checkpoint: a\n", "sub/beside")
    (tmp_path / "sub/real.yml").write_text("extends: beside.yaml\nseeds: [1, 2]\n")
    derived = preset(f"extends: {named.format(folder=tmp_path)}\ntrain_images: 5\n")
    for folder, path in ((tmp_path.parent, derived), (tmp_path, "p.yaml")):
        monkeypatch.chdir(folder)
        found = study.read_preset(path)
        assert (found.checkpoint, found.seeds, found.train_images) == ("a", [1, 2], 5)


def test_a_file_in_the_folder_of_the_preset_goes_before_one_where_the_program_started(
    preset, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    preset("checkpoint: wrong\n", "here/base")
    preset("checkpoint: right\n", "base")
    derived = preset("extends: base.yaml\n")
    monkeypatch.chdir(tmp_path / "here")
    assert study.read_preset(derived).checkpoint == "right"


def test_presets_that_extend_each_other_by_other_spellings_are_told(preset, tmp_path):
    (tmp_path / "sub").mkdir()
    derived = preset("extends: sub/../p.yaml\n")
    with pytest.raises(DataError, match=r"preset .*p\.yaml: extends itself"):
        study.read_preset(derived)


def test_a_licence_may_be_given_by_its_number(preset):
    found = study.read_preset(preset("checkpoint: a\nlicences: [4, CC BY-SA 2.0]\n"))
    assert found.licences == [4, "CC BY-SA 2.0"]


def test_null_takes_away_what_a_preset_inherits_and_hides_no_wrong_name(preset):
    protocols = "{single_round: {}, multi_round: {}, third: {}}"
    preset(f"checkpoint: a\nseeds: [3]\nevaluation: {{protocols: {protocols}}}\n", "base")
    gone = "extends: base\nseeds: null\nevaluation: {protocols: {third: null}}\n"
    found = study.read_preset(preset(gone))
    assert list(found.evaluation.protocols) == ["single_round", "multi_round"]
    assert found.seeds == [0]
    with pytest.raises(DataError, match="unknown field `sedes`"):
        study.read_preset(preset("extends: base\nsedes: null\n"))


def test_changes_win_over_the_preset_and_may_be_the_text_that_papermill_passes(preset):
    path = preset("extends: mini")
    mapping = study.read_preset(path, {"tuning": {"rank": 3}, "seeds": [4]})
    assert mapping.tuning.rank == 3 and mapping.seeds == [4] and mapping.tuning.alpha == 32
    assert study.read_preset(path, "{tuning: {rank: 3}, seeds: [4]}") == mapping
    with pytest.raises(DataError, match="changes are no YAML"):
        study.read_preset(path, "{tuning: {rank: 3")


def test_a_judge_of_another_kind_replaces_the_one_before(preset):
    judge = {"evaluation": {"judge": {"kind": "reference"}}}
    assert study.read_preset("llava-1.5-7b", judge).evaluation.judge == ReferenceJudge()
    cheaper = {"evaluation": {"judge": {"repeats": 1}}}
    assert study.read_preset("llava-1.5-7b", cheaper).evaluation.judge.max_cost == 450


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"), ("# nothing\n", "is empty"), ("- n\n", "is no mapping"),
        ("n: [", "parsing"), ("seeds: [0]\n", "missing required field `checkpoint`"),
        ("checkpoint: a\ntunning: {}\n", "unknown field `tunning`; did you mean `tuning`"),
        ("checkpoint: a\ntuning: {rnk: 1}\n", r"`rnk` - at `\$.tuning`; did you mean `rank`"),
        ("checkpoint: a\nseeds: 3\n", r"Expected `array`, got `int` - at `\$.seeds`"),
        ("checkpoint: a\ntuning: {rank: '8'}\n", r"Expected `int`, got `str` - at `\$.tuning"),
        ("checkpoint: a\nseeds: []\n", r"length >= 1 - at `\$.seeds`"),
        ("checkpoint: a\nseeds: [1, 1]\n", r"seeds has \[1, 1\]; name each only once"),
        ("checkpoint: a\nmixtures: [mix, mix]\n", "mixtures has .*; name each only once"),
        ("checkpoint: a\nprocesses: 0\n", r"`int` >= 1 - at `\$.processes`"),
        ("checkpoint: a\ntuning: {records_per_step: 0}\n", r">= 1 - at `\$.tuning.records_per"),
        ("checkpoint: a\nevaluation: {resamples: 0}\n", r">= 1 - at `\$.evaluation.resamples"),
        ("checkpoint: a\nablations: {doses: []}\n", r"length >= 1 - at `\$.ablations.doses"),
        ("checkpoint: a\nablations: {doses: [50]}\n", r"<= 1.0 - at `\$.ablations.doses"),
        ("checkpoint: a\ndevice: tpu\n", "Invalid enum value 'tpu'"),
        ("checkpoint: a\nevaluation: {models: [base]}\n", "protocols lack multi_round"),
        (
            "checkpoint: a\nmixtures: [mix]\nevaluation: {models: [merged], "
            "protocols: {single_round: {}, multi_round: {}}}\n",
            "evaluation.models has merged; mixtures does not",
        ),
        ("checkpoint: a\nname: ../x\n", r"name is '../x'; it names folders, so write no path"),
        ("checkpoint: a\nname: ''\n", "name is ''; it names folders"),
        ("extends: mini\nmini_coco: {train: -1}\n", r"`int` >= 0 - at `\$.mini_coco.train"),
        ("extends: nowhere\n", r"nowhere\.yaml.*extended by .*p\.yaml"),
        ("extends: sub/nowhere.yaml\n", r"nowhere\.yaml.*extended by .*p\.yaml"),
        ("extends: p\n", "extends itself"), ("extends: [a]\n", r"is \['a'\]; give a name"),
    ],
)  # fmt: skip
def test_a_wrong_preset_is_one_readable_error(preset, text, message):
    with pytest.raises(DataError, match=rf"preset .*{message}") as raised:
        study.read_preset(preset(text))
    assert "\n" not in str(raised.value)


def test_changes_that_are_no_yaml_are_told_in_one_line(preset):
    with pytest.raises(DataError, match="changes are no YAML: while parsing") as raised:
        study.read_preset("mini", "{name: trial")
    assert "\n" not in str(raised.value)


def test_the_command_line_checks_a_preset_as_make_does(preset):
    path = preset("checkpoint: a\nsedes: [0]\n")
    for command in ("train", "study"):
        with pytest.raises(SystemExit, match=r"error: preset .*`sedes`; did you mean `seeds`"):
            main([command, str(path)])


def test_a_mixture_that_there_is_not_ends_a_command_with_the_names_of_those_there_are(capsys):
    for command in (["train", "mini"], ["export", "mini", "out"]):
        with pytest.raises(SystemExit):
            main([*command, "--mixture", "nonsense"])
        last = capsys.readouterr().err.splitlines()[-1]
        assert "invalid choice: 'nonsense'" in last and "instructed" in last


def test_a_preset_of_another_folder_is_found_by_the_notebooks_too(preset, monkeypatch, tmp_path):
    started = []
    monkeypatch.setattr(DoitMain, "run", lambda _, words: started.extend([Path.cwd(), *words]))
    preset("extends: mini")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["study", "p.yaml"])
    folder, word, _ = started
    assert (folder / word.removeprefix("preset=")).resolve() == (tmp_path / "p.yaml").resolve()


def test_a_missing_preset_names_those_there_are():
    with pytest.raises(DataError, match=r"presets there: endpoint, llava-1\.5-13b, .*smoke"):
        study.read_preset("absent")


def test_every_preset_is_read_and_shares_no_folder_with_another(root):
    paths = sorted((root / "notebooks/presets").glob("*.yaml"))
    presets = [study.read_preset(path) for path in paths]
    assert [preset.name for preset in presets] == [path.stem for path in paths]
    folders = [folder for preset in presets for folder in (preset.work_dir, preset.report_dir)]
    assert len(folders) == len(set(folders)) == 2 * len(paths) >= 10


@pytest.mark.slow
def test_a_parameter_that_papermill_sets_for_nobody_is_an_error(root, tmp_path):
    import papermill
    from papermill.exceptions import PapermillExecutionError

    with (
        study.runner.this_interpreter(),
        pytest.raises(PapermillExecutionError, match="papermill was given seeds; notebooks have"),
    ):
        papermill.execute_notebook(
            root / "notebooks/03_inspect.ipynb", tmp_path / "03.ipynb", {"seeds": [1]},
            kernel_name="python3", cwd=root / "notebooks", progress_bar=False,
        )  # fmt: skip


def test_a_notebook_runs_with_its_preset_and_changes(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb", "print(preset, changes['n'])")
    seconds = study.run_notebook(path, preset="p", reports=tmp_path / "r", changes={"n": 7})
    assert seconds > 0
    assert outputs(tmp_path / "r/00_a.ipynb") == "p 7\n"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["00_a.html", "00_a.ipynb"]


def test_a_notebook_runs_in_a_folder_with_blanks_and_letters_beyond_ascii(tmp_path):
    folder = tmp_path / "ein Ordner für Ænderungen"
    path = notebook(folder / "00_a.ipynb", "from pathlib import Path", "print(Path.cwd().name)")
    study.run_notebook(path, preset="mini", reports=folder / "r r")
    assert outputs(folder / "r r/00_a.ipynb") == f"{folder.name}\n"
    assert (folder / "r r/00_a.html").is_file()


def test_a_failure_names_notebook_cell_and_cause_and_keeps_the_earlier_result(tmp_path):
    reports = tmp_path / "r"
    path = tmp_path / "00_a.ipynb"
    study.run_notebook(notebook(path, "print(1)"), preset="mini", reports=reports)
    notebook(path, "print(2)", "x = 1\nraise ValueError('no data')")
    with pytest.raises(
        study.NotebookFailed, match=r"00_a\.ipynb, cell In \[4\] \(`x = 1`\): ValueError: no data"
    ):
        study.run_notebook(path, preset="mini", reports=reports)
    assert outputs(reports / "00_a.ipynb") == "1\n"
    assert outputs(reports / "00_a.failed.ipynb").startswith("2\n")
    study.run_notebook(notebook(path, "print(3)"), preset="mini", reports=reports)
    names = sorted(p.name for p in reports.iterdir())
    assert names == ["00_a.html", "00_a.ipynb"]


def test_a_whole_run_removes_the_tables_and_figures_that_no_notebook_writes(tmp_path):
    reports, tables = tmp_path / "r", tmp_path / "r/tables"
    write = "from pathlib import Path\nfor name in {}: Path('r/tables', name).write_text('x')"
    first = notebook(tmp_path / "00_a.ipynb", write.format(["a.csv", "old.csv"]))
    second = notebook(tmp_path / "01_b.ipynb", write.format(["b.csv.gz"]))
    tables.mkdir(parents=True)
    for path in (first, second):
        study.run_notebook(path, preset="p", reports=reports)
    (tables / "notes.txt").write_text("mine")
    (tables / "older.csv").write_text("x")

    def left(reports, listed):
        executed = study.runner.executed_notebooks(reports)
        return study.runner.remove_leftovers(reports, listed, executed)

    assert left(reports, [first, second, tmp_path / "02_c.ipynb"]) == []  # one has not run
    assert left(reports, [first]) == ["tables/older.csv"]  # the other is not in this run
    (tables / "older.csv").write_text("x")
    assert left(reports, [first, second]) == ["tables/older.csv"]
    study.run_notebook(notebook(first, write.format(["a.csv"])), preset="p", reports=reports)
    assert left(reports, [first, second]) == ["tables/old.csv"]
    assert sorted(path.name for path in tables.iterdir()) == ["a.csv", "b.csv.gz", "notes.txt"]


def test_a_folder_for_reports_that_cannot_be_written_is_told(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "1 + 1")
    (tmp_path / "reports").write_text("a file in the way")
    with pytest.raises(DataError, match=r"a\.ipynb: cannot write .*reports"):
        study.run_notebook(path, preset="mini", reports=tmp_path / "reports")


def test_the_kernel_is_this_interpreter_even_when_another_spec_shadows_it(tmp_path, monkeypatch):
    spec = tmp_path / "data" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    path = notebook(tmp_path / "00_a.ipynb", "import sys\nprint(sys.executable)")
    study.run_notebook(path, preset="mini", reports=tmp_path / "r")
    assert outputs(tmp_path / "r/00_a.ipynb").strip() == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "data")


def test_a_page_carries_everything_and_forbids_requests(tmp_path):
    path = notebook(
        tmp_path / "00_a.ipynb",
        "from IPython.display import HTML\nHTML('<img src=https://evil.example/x.png>')",
    )
    study.run_notebook(path, preset="mini", reports=tmp_path)
    page = (tmp_path / "00_a.html").read_text()
    assert "default-src &#x27;none&#x27;" in page.split("</head>")[0]
    assert "<script" not in page
    assert "@import" not in page
    assert "<link" not in page


def test_a_page_opens_with_the_answer_and_leads_on_and_its_code_is_folded(tmp_path):
    code = "from IPython.display import Markdown\nMarkdown('**Answer.** Forty-two.')"
    path = notebook(tmp_path / "00_a.ipynb", "print('work')", code)
    study.run_notebook(path, preset="mini", reports=tmp_path / "r", following="01_b")
    page = (tmp_path / "r/00_a.html").read_text().split("</head>")[1]
    order = ['href="index.html"', 'href="01_b.html"', "Is it so?", "Forty-two", "<details", "work"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert (
        page.count("<details") == page.count("<summary>code</summary>") == 4
    )  # with the parameters and their values


def test_text_output_that_looks_like_a_page_stays_text(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb", "print('<script>alert(1)</script>')")
    study.run_notebook(path, preset="mini", reports=tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (tmp_path / "00_a.html").read_text()


def index(notebook, *, name="mini", seconds=None, finding=None, figures=()):
    """An index page of one notebook."""
    parameters = msgspec.to_builtins(study.read_preset("mini", {"name": name}))
    run = {"preset": name, "parameters": parameters, "seconds": seconds or {}, "device": "d",
           "commit": "c", "seeds": [0], "versions": {"python": "3"}}  # fmt: skip
    return index_page(run=run, notebooks=[notebook], figures=figures, finding=finding)


def test_the_index_opens_with_the_finding_before_anything_else(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb")
    figures = [{"title": "t<1>", "alt": "bars", "data": "data:,1"},
               {"title": "t2", "alt": "line", "data": "data:,2"}]  # fmt: skip
    table = [{"tuned on": "<b>mix", "score": "46"}]
    finding = {"conclusion": "It falls.", "sentence": "s", "table": table}
    page = index(path, finding=finding, figures=figures).split("</head>")[1]
    order = ["Does a model", "It falls.", "data:,1", "&lt;b&gt;mix", "draws", "Notebooks"]
    places = [page.index(text) for text in [*order, "data:,2"]]
    assert places == sorted(places)
    assert "<b>mix" not in page and "t&lt;1&gt;" in page and 'alt="bars"' in page
    assert "http" not in page


def test_plain_words_and_a_failed_check_go_before_the_statistics(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb")
    figures = [{"title": "t", "alt": "lines", "data": "data:,1"}]
    finding = {"conclusion": "p < 1", "sentence": "s", "table": [{"tuned on": "mix"}],
               "bullets": ["It <b>loses</b>."], "warning": "One check fails."}  # fmt: skip
    page = index(path, finding=finding, figures=figures).split("</head>")[1]
    order = ["One check", "<li>It &lt;b&gt;loses", "data:,1", "<td", "p &lt; 1"]
    assert sorted(order, key=page.index) == order


def test_the_index_links_notebooks_with_their_questions(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb")
    assert headline(path) == ("Title", "Is it so?")
    page = index(path, name="<mini>", seconds={"00_a": 1.5})
    assert '<a href="00_a.html">Title</a>' in page
    assert "Is it so?" in page
    assert "&lt;mini&gt;" in page and "<mini>" not in page


def test_the_index_shows_what_a_report_beside_it_found_for_another_model(root, tmp_path):
    for name in ("run.json", "tables/scores.csv", "tables/effects.csv", "figures/finding.png"):
        (tmp_path / "other" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "reports/mini-full" / name, tmp_path / "other" / name)
    for preset, shown in (("smol", True), ("mini", False)):
        found = study.read_preset(preset, {"report_dir": str(tmp_path / preset)})
        write_index(study.Study(root, found))
        page = (tmp_path / preset / "index.html").read_text(encoding="utf-8")
        assert ('<a href="../other/index.html">' in page) is shown
        assert ("The same with the tiny LLaVA" in page) is shown


def test_the_index_shows_the_headline_of_the_most_models_first(tmp_path):
    (tmp_path / "figures").mkdir()
    for name in ("finding", "headline", "headline_arms", "rounds"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"figures/{name}.png")
    titles = [figure["title"] for figure in _figures(tmp_path)]
    assert titles == ["headline arms", "finding", "rounds"]


def test_a_damaged_figure_is_named_by_the_index(tmp_path):
    (tmp_path / "figures").mkdir()
    path = tmp_path / "figures/finding.png"
    Image.effect_noise((64, 64), 50).save(path)
    for content in (b"", b"text", path.read_bytes()[:-99]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"figures/finding\.png: not a whole image; delete it"):
            list(_figures(tmp_path))


@pytest.mark.parametrize("text", ["{}", '{"preset": "p", "parameters": []}', '{"preset": 1'])
def test_a_damaged_report_beside_it_is_named_by_the_index(root, tmp_path, text):
    (tmp_path / "other").mkdir()
    (tmp_path / "other/run.json").write_text(text)
    found = study.read_preset("mini", {"report_dir": str(tmp_path / "mini")})
    with pytest.raises(DataError, match=r"other/run\.json: .*; delete it and run that study again"):
        write_index(study.Study(root, found))


def test_the_index_of_a_served_model_speaks_of_no_model_that_was_trained(root, tmp_path):
    asked = {"endpoints": [{"name": "m", "base_url": "http://x/v1", "model": "some/model-7b"}]}
    changes = {"report_dir": str(tmp_path), "evaluation": asked}
    write_index(study.Study(root, study.read_preset("endpoint", changes)))
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "some/model-7b" in page
    shown = page.split("The same with")[0]  # reports of other models follow
    assert not any(words in shown for words in ("tiny LLaVA", "is tuned", "checkpoint none"))


def test_answers_are_shown_only_beside_the_data_and_the_settings_they_answer(root, tmp_path):
    def opened(**changes):
        folders = {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports")}
        return study.Study(root, study.read_preset("mini", folders | changes))

    def note(found):
        answers, text = steps.present_answers(found)
        assert bool(answers) is text.startswith("Answers of notebook 05")
        return text

    mine = opened()
    assert note(mine) == "No model has answered yet: run notebook 05, then this one again."
    merged = write_text(mine.merged / "manifest.json", "{}")
    verdicts = pd.DataFrame({"benchmark": ["mm_vet"], "image": ["a.jpg"], "answer": ["red"]})
    steps.save_verdicts(mine, verdicts)
    assert note(mine).endswith("to this data.")
    assert note(opened(ablations={"run": []})).endswith("to this data.")
    assert "other data or settings" in note(opened(evaluation={"new_tokens": 5}))
    write_text(merged, '{"merged.json": "other"}')
    assert "other data or settings" in note(mine)
    write_text(merged, "{}")
    mine.save(verdicts.assign(answer="blue"), "verdicts", packed=True)
    assert "other data or settings" in note(mine)


@pytest.fixture
def project(root, tmp_path):
    """A small project with two notebooks, driven by the real dodo.py."""
    cells = ["from cocoift.study import open_study", "study = open_study(preset, changes)"]
    cells += ["folder = study.work / 'interim'", "folder.mkdir(parents=True, exist_ok=True)"]
    cells += ["(folder / 'manifest.json').write_text(str(study.preset.train_images))"]
    cells += ["import pandas as pd", "study.save(pd.DataFrame({'n': [1]}), 'counts')"]
    notebook(tmp_path / "notebooks/00_setup.ipynb", "\n".join(cells))
    notebook(tmp_path / "notebooks/07_next.ipynb", "print(preset)")
    (tmp_path / "notebooks/presets").mkdir()
    (tmp_path / "dodo.py").write_text((root / "dodo.py").read_text())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sources.yaml").write_text("{}")

    def run(*words, **values):
        preset = {"checkpoint": "c", "seeds": [3]} | values
        (tmp_path / "notebooks/presets/p.yaml").write_text(yaml.safe_dump(preset))
        command = [sys.executable, "-m", "doit", "preset=p", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return tmp_path, run


def states(done):
    """Return {notebook: unchanged or ran} from what a run printed."""
    lines = [line.split() for line in done.stdout.splitlines() if line[:2].isdigit()]
    lines += [line.split(":")[1].split() for line in done.stdout.splitlines() if ":0" in line]
    return {words[0]: "unchanged" if "unchanged" in words else "ran" for words in lines}


def test_only_what_changed_runs_again(project):
    folder, run = project
    both = {"00_setup": "ran", "07_next": "ran"}
    none = {"00_setup": "unchanged", "07_next": "unchanged"}
    assert states(run()) == both
    for path in folder.glob("notebooks/*.ipynb"):
        path.touch()
    assert states(run()) == none
    later = {"ablations": {"doses": [0.5]}}  # only notebook 07 reads it
    assert states(run(**later)) == {"00_setup": "unchanged", "07_next": "ran"}
    (folder / "reports/p/00_setup.html").unlink()
    assert states(run(**later)) == {"00_setup": "ran", "07_next": "unchanged"}
    (folder / "reports/p/tables/counts.csv").unlink()
    assert states(run(**later)) == {"00_setup": "ran", "07_next": "unchanged"}
    assert states(run(train_images=2, **later)) == both
    (folder / "data/paper_results.yaml").write_text("mm_vet: {}")
    assert states(run(train_images=2, **later)) == both
    facts = json.loads((folder / "reports/p/run.json").read_text())
    assert set(facts["seconds"]) == {"00_setup", "07_next"}
    assert facts["seeds"] == [3] and facts["parameters"]["train_images"] == 2
    assert (folder / "reports/p/index.html").is_file()


def test_changes_apply_to_every_notebook_and_a_new_name_leaves_the_report_alone(project):
    folder, run = project
    assert run("changes={name: trial, train_images: 7}").returncode == 0
    assert (folder / "data/trial/interim/manifest.json").read_text() == "7"
    facts = json.loads((folder / "reports/trial/run.json").read_text())
    assert facts["parameters"]["train_images"] == 7
    assert not (folder / "reports/p").exists()


def test_a_raw_file_counts_as_changed_by_what_is_in_it(project):
    folder, run = project
    raw, elsewhere = folder / "data/raw", folder / "disk"
    for path in (raw / "own.json", elsewhere / "labels.jsonl"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1 1 1")
    (raw / "vsr").symlink_to(elsewhere)
    both, none = (dict.fromkeys(("00_setup", "07_next"), state) for state in ("ran", "unchanged"))
    values = {"raw_dir": "data/raw"}
    assert states(run(**values)) == both
    for path in (raw / "own.json", elsewhere / "labels.jsonl"):
        path.touch()
        assert states(run(**values)) == none
        path.write_text("0 0 0")  # in place, of the same size
        assert states(run(**values)) == both


def test_a_mistyped_parameter_ends_with_one_line(project):
    _, run = project
    done = run(contxt_tokens=1)
    assert done.returncode != 0
    assert "unknown field `contxt_tokens`; did you mean" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_damaged_catalogue_ends_with_one_line(project):
    folder, run = project
    (folder / "data/sources.yaml").write_text("mine: {title: 1}")
    done = run()
    assert done.returncode != 0
    assert done.stderr.startswith("error: ") and "correct that entry" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failing_notebook_ends_the_run_with_one_error(project):
    folder, run = project
    notebook(folder / "notebooks/07_next.ipynb", "raise ValueError('no data')")
    done = run()
    assert done.returncode != 0
    cause = "07_next.ipynb, cell In [3] (`raise ValueError('no data')`): ValueError: no data"
    assert (done.stdout + done.stderr).count(cause) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "reports/p/index.html").exists()


OLDER = pytest.mark.xfail(strict=True, reason="the committed run is of the stage one before")


@pytest.mark.parametrize("name", ["mini-full", pytest.param("smol", marks=OLDER)])
def test_a_run_json_is_the_preset_that_repeats_its_run(root, name):
    path = root / f"reports/{name}/run.json"
    facts = json.loads(path.read_text())
    preset = study.read_preset(name)
    assert study.read_preset(path) == preset and facts["seeds"] == preset.seeds
    assert len(facts["commit"]) == 40 and facts["versions"]["torch"]


def requirements(path):
    """Return the requirements of a file that hold for this Python and platform."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line]
    return [entry for entry in found if entry.marker is None or entry.marker.evaluate()]


def test_the_environment_is_the_locked_one(root):
    locked = {canonicalize_name(entry.name): entry.specifier
              for entry in requirements(root / "requirements.lock")}  # fmt: skip
    assert len(locked) > 100
    for wanted in requirements(root / "requirements.txt"):
        assert locked[canonicalize_name(wanted.name)] == wanted.specifier
    for name, specifier in locked.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # what a CUDA build of torch needs
        assert installed.partition("+")[0] in specifier, name


def test_project_paths_start_at_the_root_from_any_folder(root, monkeypatch):
    monkeypatch.chdir(root / "notebooks")
    assert study.open_study("mini").raw == root / "data/mini/raw"
    absolute = study.open_study("mini", {"raw_dir": "/absolute/x"}).raw
    assert absolute.as_posix() == "/absolute/x"


def test_notebook_page_keeps_its_title():
    made = nbformat.v4.new_notebook()
    assert "<title>00_a</title>" in notebook_page(made, title="00_a")


def test_notebook_08_talks_to_the_models_of_another_preset_once_they_are_there(root, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(
        f"extends: mini\nname: other\ncheckpoint: {tmp_path}/base\nwork_dir: {tmp_path}\n"
        "evaluation: {models: [base], benchmarks: null}\nchat_presets: []\n"
    )
    changes = {"chat_presets": [str(other)], "evaluation": {"models": []}}
    before = study.open_study("mini", changes)
    assert not before.chat_studies and asking.chat_models(before) == []
    shutil.copytree(root / "data/mini_llava", tmp_path / "base")
    after = study.open_study("mini", changes)
    assert [model.name for model in asking.chat_models(after)] == ["other, base"]
    assert after.labels["other, base"] == "other, base model"


def test_the_names_of_models_are_known_without_torch(root):
    code = "import sys; from cocoift.study import open_study; open_study('mini').labels; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
