"""The runner: parameters, kernels, failures, and doit's decision what to run."""

import json
import os
import re
import subprocess
import sys
from importlib import metadata

import nbformat
import pytest
import yaml

from cocoift import study
from cocoift.__main__ import main
from cocoift.core.files import DataError
from cocoift.report.html import headline, index_page, notebook_page


def notebook(path, *cells, parameters="n = 1"):
    made = nbformat.v4.new_notebook()
    made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made.cells = [nbformat.v4.new_markdown_cell("# Title\n\n*Is it so?*")]
    made.cells += [nbformat.v4.new_code_cell(source) for source in (parameters, *cells)]
    made.cells[1].metadata.tags = ["parameters"]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(made, path)
    return path


def test_threads_that_wait_in_a_kernel_soon_leave_their_core(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "import os", "print(os.environ['GOMP_SPINCOUNT'])")
    study.run_notebook(path, parameters={}, reports=tmp_path)
    assert outputs(tmp_path / "a.ipynb") == "2000\n"


def test_a_folder_that_is_no_repository_has_no_commit_even_inside_of_one(root):
    assert study._commit(root / "tests") == "unknown"


def outputs(path):
    cells = json.loads(path.read_text())["cells"]
    return "".join(line for c in cells for o in c.get("outputs", []) for line in o.get("text", []))


@pytest.fixture
def preset(tmp_path):
    def write(**values):
        path = tmp_path / "preset.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


KNOWN = {"00_a": {"n": 1, "share": 0.5, "name": "x", "flag": True, "maybe": None, "list": []}}


def test_a_right_preset_is_read(preset):
    values = {"n": 2, "share": 1, "name": "y", "flag": False, "maybe": "z", "list": [1]}
    assert study.read_preset(preset(**values), known=KNOWN) == values


def test_an_unknown_parameter_is_an_error_that_names_the_known_ones(preset):
    with pytest.raises(DataError, match=r"no notebook has a parameter 'nn'; it may be flag, list"):
        study.read_preset(preset(nn=2), known=KNOWN)


@pytest.mark.parametrize(
    ("text", "told"),
    [("", "is empty"), ("# nothing\n", "is empty"), ("- n\n", "is no mapping"), ("n: [", "parsing"),
     ("n: 2\nshare: 1.0\n", "lacks flag, list, maybe, name; copy them from")],
)  # fmt: skip
def test_a_preset_that_is_empty_partial_or_no_mapping_is_one_readable_error(tmp_path, text, told):
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=told):
        study.read_preset(path, known=KNOWN)


def test_the_command_line_checks_a_preset_as_make_does(tmp_path, capsys):
    path = tmp_path / "p.yaml"
    path.write_text("preset: p\n")
    with pytest.raises(SystemExit, match=r"error: preset .*p\.yaml lacks ablations, "):
        main(["train", str(path)])


@pytest.mark.parametrize(
    "values", [{"n": "2"}, {"n": True}, {"name": 3}, {"flag": 1}, {"list": "a"}, {"share": "a"}]
)
def test_a_parameter_of_the_wrong_type_is_an_error(preset, values):
    with pytest.raises(DataError, match=r"the notebook declares"):
        study.read_preset(preset(**values), known=KNOWN)


def test_a_missing_preset_names_those_there_are(tmp_path, preset):
    preset(n=1)
    with pytest.raises(DataError, match="there are preset"):
        study.read_preset(tmp_path / "absent.yaml", known=KNOWN)


def test_every_preset_fits_the_notebooks_and_shares_no_folder_with_another(root):
    known = {path.stem: study.declared_parameters(path) for path in study.notebooks(root)}
    folders = []
    for path in (root / "notebooks/presets").glob("*.yaml"):
        values = study.read_preset(path, known=known)
        assert values["preset"] == path.stem
        assert set(values) == {name for declared in known.values() for name in declared}
        folders += [values["work_dir"], values["report_dir"]]
    assert len(folders) == len(set(folders)) == 10


def test_defaults_of_the_notebooks_are_the_mini_preset(root):
    mini = yaml.safe_load((root / "notebooks/presets/mini.yaml").read_text())
    for path in study.notebooks(root):
        for name, value in study.declared_parameters(path).items():
            assert mini[name] == value, (path.name, name)


def test_a_notebook_runs_with_its_own_parameters_only(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb", "print(n)")
    seconds = study.run_notebook(path, parameters={"n": 7, "other": 1}, reports=tmp_path / "r")
    assert seconds > 0
    assert outputs(tmp_path / "r/00_a.ipynb") == "7\n"
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["00_a.html", "00_a.ipynb"]


def test_a_notebook_runs_in_a_folder_with_blanks_and_letters_beyond_ascii(tmp_path):
    folder = tmp_path / "ein Ordner für Ænderungen"
    path = notebook(folder / "00_a.ipynb", "from pathlib import Path", "print(Path.cwd().name)")
    study.run_notebook(path, parameters={}, reports=folder / "r r")
    assert outputs(folder / "r r/00_a.ipynb") == f"{folder.name}\n"
    assert (folder / "r r/00_a.html").is_file()


def test_a_failure_names_notebook_cell_and_cause_and_keeps_the_earlier_result(tmp_path):
    reports = tmp_path / "r"
    path = tmp_path / "00_a.ipynb"
    study.run_notebook(notebook(path, "print(1)"), parameters={}, reports=reports)
    notebook(path, "print(2)", "x = 1\nraise ValueError('no data')")
    with pytest.raises(
        study.NotebookFailed, match=r"00_a\.ipynb, cell In \[3\] \(`x = 1`\): ValueError: no data"
    ):
        study.run_notebook(path, parameters={}, reports=reports)
    assert outputs(reports / "00_a.ipynb") == "1\n"
    assert outputs(reports / "00_a.failed.ipynb").startswith("2\n")
    study.run_notebook(notebook(path, "print(3)"), parameters={}, reports=reports)
    names = sorted(p.name for p in reports.iterdir())
    assert names == ["00_a.html", "00_a.ipynb"]


def test_a_folder_for_reports_that_cannot_be_written_is_told(tmp_path):
    path = notebook(tmp_path / "a.ipynb", "1 + 1")
    (tmp_path / "reports").write_text("a file in the way")
    with pytest.raises(DataError, match=r"a\.ipynb: cannot write .*reports"):
        study.run_notebook(path, parameters={}, reports=tmp_path / "reports")


def test_the_kernel_is_this_interpreter_even_when_another_spec_shadows_it(tmp_path, monkeypatch):
    spec = tmp_path / "data" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "data"))
    path = notebook(tmp_path / "00_a.ipynb", "import sys\nprint(sys.executable)")
    study.run_notebook(path, parameters={}, reports=tmp_path / "r")
    assert outputs(tmp_path / "r/00_a.ipynb").strip() == sys.executable
    assert os.environ["JUPYTER_PATH"] == str(tmp_path / "data")


def test_a_page_carries_everything_and_forbids_requests(tmp_path):
    path = notebook(
        tmp_path / "00_a.ipynb",
        "from IPython.display import HTML\nHTML('<img src=https://evil.example/x.png>')",
    )
    study.run_notebook(path, parameters={}, reports=tmp_path)
    page = (tmp_path / "00_a.html").read_text()
    assert "default-src &#x27;none&#x27;" in page.split("</head>")[0]
    assert "<script" not in page
    assert "@import" not in page
    assert "<link" not in page


def test_text_output_that_looks_like_a_page_stays_text(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb", "print('<script>alert(1)</script>')")
    study.run_notebook(path, parameters={}, reports=tmp_path)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in (tmp_path / "00_a.html").read_text()


def index(run, notebook, *, finding=None, figures=()):
    """An index page of one notebook."""
    texts = {"question": "Q?", "purpose": "p", "provenance": "drawn"}
    return index_page(run=run, notebooks=[notebook], figures=figures, finding=finding, **texts)


def test_the_index_opens_with_the_finding_before_anything_else(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb")
    run = {"preset": "mini", "seconds": {}, "device": "d", "commit": "c", "seeds": {},
           "versions": {}}  # fmt: skip
    figures = [{"title": "t<1>", "alt": "bars", "data": "data:,1"},
               {"title": "t2", "alt": "line", "data": "data:,2"}]  # fmt: skip
    table = [{"tuned on": "<b>mix", "score": "46"}]
    finding = {"conclusion": "It falls.", "sentence": "s", "table": table}
    page = index(run, path, finding=finding, figures=figures)
    order = ["Q?", "It falls.", "data:,1", "&lt;b&gt;mix", "drawn", "Notebooks", "data:,2"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)
    assert "<b>mix" not in page and "t&lt;1&gt;" in page and 'alt="bars"' in page
    assert "http" not in page.split("</head>")[1]


def test_the_index_links_notebooks_with_their_questions(tmp_path):
    path = notebook(tmp_path / "00_a.ipynb")
    assert headline(path) == ("Title", "Is it so?")
    run = {
        "preset": "<mini>", "seconds": {"00_a": 1.5}, "device": "d", "commit": "c",
        "seeds": {"seed": 0}, "versions": {"python": "3"},
    }  # fmt: skip
    page = index(run, path)
    assert '<a href="00_a.html">Title</a>' in page
    assert "Is it so?" in page
    assert "&lt;mini&gt;" in page and "<mini>" not in page


@pytest.fixture
def project(root, tmp_path):
    """A small project with two notebooks, driven by the real dodo.py."""
    a = notebook(tmp_path / "notebooks/00_setup.ipynb", parameters=_parameters("work_dir"))
    cells = ["from pathlib import Path", "p = Path('..') / work_dir / 'interim'"]
    cells += ["p.mkdir(parents=True, exist_ok=True)", "(p / 'manifest.json').write_text(str(n))"]
    notebook(a, "\n".join(cells), parameters=_parameters("work_dir", "n = 1"))
    notebook(tmp_path / "notebooks/01_next.ipynb", "print(preset)", parameters=_parameters("m = 1"))
    (tmp_path / "notebooks/presets").mkdir()
    (tmp_path / "dodo.py").write_text((root / "dodo.py").read_text())
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sources.yaml").write_text("{}")

    def run(*names, **values):
        preset = {
            "preset": "p", "raw_dir": "data/raw", "work_dir": "data/p", "report_dir": "reports/p",
            "catalogue": "data/sources.yaml", "mini_coco": None, "n": 1, "m": 1,
            "nested": {"seed": 3},
        } | values  # fmt: skip
        (tmp_path / "notebooks/presets/p.yaml").write_text(yaml.safe_dump(preset))
        command = [sys.executable, "-m", "doit", "preset=p", *names]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    return tmp_path, run


def _parameters(*more):
    extra = [line if "=" in line else f"{line} = 'data/p'" for line in more]
    lines = ["preset = 'p'", "raw_dir = 'data/raw'", "report_dir = 'reports/p'"]
    return "\n".join([*lines, "catalogue = ''", "mini_coco = None", "nested = {}", *extra])


def states(done):
    """Return {notebook: unchanged or ran} from what a run printed."""
    lines = [line.split() for line in done.stdout.splitlines() if line[:2].isdigit()]
    lines += [line.split(":")[1].split() for line in done.stdout.splitlines() if ":0" in line]
    return {words[0]: "unchanged" if "unchanged" in words else "ran" for words in lines}


def test_only_what_changed_runs_again(project):
    folder, run = project
    both = {"00_setup": "ran", "01_next": "ran"}
    none = {"00_setup": "unchanged", "01_next": "unchanged"}
    assert states(run()) == both
    for path in folder.glob("notebooks/*.ipynb"):
        path.touch()
    assert states(run()) == none
    assert states(run(m=2)) == {"00_setup": "unchanged", "01_next": "ran"}
    (folder / "reports/p/00_setup.html").unlink()
    assert states(run(m=2)) == {"00_setup": "ran", "01_next": "unchanged"}
    assert states(run(m=2, n=2)) == both
    (folder / "data/paper_results.yaml").write_text("mm_vet: {}")
    assert states(run(m=2, n=2)) == both
    facts = json.loads((folder / "reports/p/run.json").read_text())
    assert set(facts["seconds"]) == {"00_setup", "01_next"}
    assert facts["seeds"] == {"nested.seed": 3}
    assert (folder / "reports/p/index.html").is_file()


def test_a_mistyped_parameter_ends_with_one_line(project):
    _, run = project
    done = run(contxt_tokens=1)
    assert done.returncode != 0
    assert "no notebook has a parameter 'contxt_tokens'" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_failing_notebook_ends_the_run_with_one_error(project):
    folder, run = project
    path = folder / "notebooks/01_next.ipynb"
    notebook(path, "raise ValueError('no data')", parameters=_parameters("m = 1"))
    done = run()
    assert done.returncode != 0
    cause = "01_next.ipynb, cell In [3] (`raise ValueError('no data')`): ValueError: no data"
    assert cause in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "reports/p/index.html").exists()


def test_a_run_json_is_the_preset_that_repeats_its_run(root):
    path = root / "reports/mini-full/run.json"
    known = {p.stem: study.declared_parameters(p) for p in study.notebooks(root)}
    told = json.loads(path.read_text())
    again = study.read_preset(path, known=known)
    assert (
        again
        == told["parameters"]
        == study.read_preset(root / "notebooks/presets/mini-full.yaml", known=known)
    )
    assert len(told["commit"]) == 40 and told["versions"]["torch"] and told["seeds"]


def test_the_environment_is_the_locked_one(root):
    lines = (root / "requirements.lock").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if "==" in line)
    wanted = dict(
        line.split("==")
        for line in (root / "requirements.txt").read_text().splitlines()
        if "==" in line
    )
    folded = {re.sub("[-_.]+", "-", name).lower(): version for name, version in locked.items()}
    assert len(folded) > 100
    for name, version in wanted.items():
        assert folded[re.sub("[-_.]+", "-", name).lower()] == version
    for name, version in locked.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        assert installed.partition("+")[0] == version.partition("+")[0], name


def test_project_paths_start_at_the_root_from_any_folder(root, monkeypatch):
    monkeypatch.chdir(root / "notebooks")
    assert study.at("data/sources.yaml") == root / "data/sources.yaml"
    assert study.at("/absolute/x").as_posix() == "/absolute/x"


def test_notebook_page_keeps_its_title():
    made = nbformat.v4.new_notebook()
    assert "<title>00_a</title>" in notebook_page(made, title="00_a")
