"""Run the study: notebooks in order with a preset's parameters, each to a notebook and a page.

`dodo.py` decides which notebooks need to run; this module runs one and reports on all.
"""

import ast
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from cocoift.core.files import DataError, write_text
from cocoift.report.html import notebook_page, without_widgets

Parameters = dict[str, Any]

PACKAGES = (
    "cocoift", "torch", "transformers", "peft", "bitsandbytes", "pycocotools", "openai", "ray",
    "pyarrow", "pandas", "numpy", "pillow", "msgspec", "papermill", "nbconvert", "seaborn",
)  # fmt: skip


class NotebookFailed(RuntimeError):
    """A notebook stopped at an error; the message names notebook, cell and cause."""


def project_root() -> Path:
    """Return the folder that holds `notebooks/presets`, from any folder below it.

    Raises `DataError` when there is none.
    """
    here = Path.cwd().resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "notebooks" / "presets").is_dir():
            return folder
    raise DataError("no folder `notebooks/presets` above this one; start in the project's folder")


def at(path: str | Path) -> Path:
    """Return a path of a parameter, relative ones starting at the project root."""
    return project_root() / path


def notebooks(root: Path) -> list[Path]:
    """Return the numbered notebooks in order."""
    return sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))


def known_parameters(root: Path) -> dict[str, Parameters]:
    """Return what each notebook declares: its parameters with their default values, by name."""
    return {path.stem: declared_parameters(path) for path in notebooks(root)}


def named_preset(preset: str, *, known: Mapping[str, Parameters]) -> Parameters:
    """Read the preset of this name, or in this file, and check it; raises as `read_preset`."""
    is_file = preset.endswith((".yaml", ".json"))
    path = Path(preset) if is_file else project_root() / f"notebooks/presets/{preset}.yaml"
    return read_preset(path, known=known)


def read_preset(path: Path, *, known: Mapping[str, Parameters]) -> Parameters:
    """Read a preset, `{parameter: value}`, as `papermill -f` would, or that of a `run.json`.

    `known` maps notebook names to their declared parameters.  Raises `DataError` for a file that
    is no preset, a parameter that no notebook declares, one whose type differs from the declared
    default's, and one that is not there: another preset's value would stand in for it.
    """
    try:
        preset = yaml.safe_load(path.read_text(encoding="utf-8"))
        preset = preset["parameters"] if path.suffix == ".json" else preset
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        presets = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise DataError(f"preset {path}: {error}; there are {presets}") from error
    if not isinstance(preset, dict) or not preset:
        raise DataError(
            f"preset {path} is {'empty' if not preset else 'no mapping'}; it holds "
            "`parameter: value` lines, start from a copy of notebooks/presets/mini.yaml"
        )
    names = {name for declared in known.values() for name in declared}
    for name, value in preset.items():
        defaults = [declared[name] for declared in known.values() if name in declared]
        if not defaults:
            told = ", ".join(sorted(names))
            raise DataError(
                f"preset {path}: no notebook has a parameter {name!r}; it may be {told}"
            )
        for default in defaults:
            _check_type(path, name, value, default)
    if missing := sorted(names - set(preset)):
        raise DataError(
            f"preset {path} lacks {', '.join(missing)}; copy them from notebooks/presets/mini.yaml"
        )
    return preset


def _check_type(path: Path, name: str, value: Any, default: Any) -> None:
    kinds = (int, float) if isinstance(default, float) else type(default)
    if value is None or default is None:
        return
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        raise DataError(
            f"preset {path}: parameter {name!r} is {value!r}, a {type(value).__name__}; "
            f"the notebook declares {default!r}, a {type(default).__name__}"
        )


def declared_parameters(notebook: Path) -> Parameters:
    """Return the parameters of a notebook's `parameters` cell with their default values."""
    inspected = papermill.inspect_notebook(notebook)
    return {name: ast.literal_eval(found["default"]) for name, found in inspected.items()}


def run_notebook(notebook: Path, *, parameters: Parameters, reports: Path) -> float:
    """Execute a notebook into `reports`, as notebook and as page; return its seconds.

    Raises `NotebookFailed`; what ran until then is left as `<name>.failed.ipynb` and an earlier
    result under the notebook's own name stays as it was.  Raises `DataError` when `reports` cannot
    be written.
    """
    own = declared_parameters(notebook)
    failed = reports / f"{notebook.stem}.failed.ipynb"
    unfinished = reports / f".{notebook.stem}.running.ipynb"
    try:
        reports.mkdir(parents=True, exist_ok=True)
        with this_interpreter():
            executed = papermill.execute_notebook(
                notebook,
                unfinished,
                {n: v for n, v in parameters.items() if n in own and v != own[n]},
                kernel_name="python3",
                cwd=notebook.parent,
                progress_bar=False,
            )
    except PapermillExecutionError as error:
        unfinished.replace(failed)
        raise NotebookFailed(describe_failure(notebook, error, failed)) from None
    except OSError as error:
        raise DataError(
            f"{notebook.name}: cannot write {reports}: {error}; free space or name another folder"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    executed = without_widgets(executed)
    # Where this machine keeps the project is nobody's business.
    executed.metadata.papermill.update(input_path=notebook.name, output_path=notebook.name)
    write_text(reports / f"{notebook.stem}.html", notebook_page(executed, title=notebook.stem))
    write_text(reports / notebook.name, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")
    failed.unlink(missing_ok=True)
    return float(executed.metadata.papermill.duration)


def describe_failure(notebook: Path, error: PapermillExecutionError, failed: Path) -> str:
    """Return the one sentence a reader needs: notebook, cell, its first line, the cause."""
    first_line = next(iter(error.source.strip().splitlines()), "")
    return (
        f"{notebook.name}, cell In [{error.exec_count}] (`{first_line}`): "
        f"{error.ename}: {error.evalue}\n  all of it: {failed}"
    )


@contextmanager
def this_interpreter() -> Iterator[None]:
    """Make `python3` kernels run this interpreter, whatever kernelspec shadows it.

    Folders in JUPYTER_PATH come first in Jupyter's search, before the user's and the system's.
    Progress bars are silenced: in a page they would be noise.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        command.append("--log-level=ERROR")
        spec = {"argv": command, "display_name": "Python 3 (ipykernel)", "language": "python"}
        write_text(Path(folder) / "kernels" / "python3" / "kernel.json", json.dumps(spec))
        paths = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        with environment(
            JUPYTER_PATH=paths,
            TQDM_DISABLE="1",
            PYDEVD_DISABLE_FILE_VALIDATION="1",
            # Waiting threads soon leave their core to other programs (at once: twice the time).
            GOMP_SPINCOUNT="2000",
        ):
            yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the duration of a block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def run_facts(*, preset: str, parameters: Parameters, reports: Path, root: Path) -> dict[str, Any]:
    """Return what `run.json` says: preset, parameters, versions, commit, device, seconds.

    Seconds are read from the executed notebooks, so a run that skipped some tells of all.
    """
    seconds = {}
    for path in sorted(reports.glob("[0-9][0-9]_*.ipynb")):
        if not path.name.endswith(".failed.ipynb"):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            seconds[path.stem] = round(notebook["metadata"]["papermill"]["duration"], 1)
    return {
        "preset": preset,
        "parameters": parameters,
        "seeds": _seeds(parameters),
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(root),
        "device": device(),
        "seconds": seconds,
    }


def _seeds(parameters: Parameters) -> Parameters:
    """Return the seeds among the parameters and inside those that are mappings."""
    found = {name: value for name, value in parameters.items() if "seed" in name}
    for name, value in parameters.items():
        if isinstance(value, dict) and "seed" in value:
            found[f"{name}.seed"] = value["seed"]
    return found


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def _commit(root: Path) -> str:
    """Return the commit, marked when the working tree differs from it, reports aside.

    `unknown` without git: a folder above may be a repository, that of a source archive is none.
    """
    if not (root / ".git").exists():
        return "unknown"

    def told(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = told("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
        return told("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def device() -> str:
    """Name the processor, its cores and the GPU, if `nvidia-smi` finds one."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = "no GPU"
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"
