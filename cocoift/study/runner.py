"""Run the study: notebooks in order with a preset's parameters, each to a notebook and a page.

`dodo.py` decides which notebooks need to run; this module runs one and reports on all.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cocoift.core.files import DataError, read_json, write_text
from cocoift.report.pages import answer_first, notebook_page, without_widgets
from cocoift.study.machine import device, speed
from cocoift.study.preset import Preset
from cocoift.study.watch import watching

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill.exceptions import PapermillExecutionError

PACKAGES = (
    "cocoift", "torch", "transformers", "peft", "bitsandbytes", "pycocotools", "openai", "ray",
    "pyarrow", "pandas", "numpy", "pillow", "msgspec", "papermill", "nbconvert", "seaborn",
)  # fmt: skip

# A kernel that is stopped on the way has nothing to say of its own unfinished tasks.
_KERNEL = """
import logging, runpy
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""


# Tables and figures of a report; where an executed notebook notes which of them it wrote.
RESULTS = ("tables/*.csv", "tables/*.csv.gz", "figures/*.png")
_NOTE = "cocoift_wrote"


class NotebookFailed(RuntimeError):
    """A notebook stopped at an error; the message names notebook, cell and cause."""


def notebooks(root: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """Return the numbered notebooks in order; with `numbers`, those of them.

    Raises `DataError` for a number that no notebook has.
    """
    found = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    known = [path.stem[:2] for path in found]
    if strange := sorted(set(numbers) - set(known)):
        raise DataError(
            f"the preset's `notebooks` name {', '.join(strange)}; there are {', '.join(known)}"
        )
    return [path for path in found if not numbers or path.stem[:2] in numbers]


def run_notebook(
    notebook: Path,
    *,
    preset: str,
    reports: Path,
    changes: Mapping[str, Any] | None = None,
    following: str = "",
) -> float:
    """Execute a notebook of a preset into `reports`, as notebook and as page; return its seconds.

    A line says how far it is.  The page links to that of the notebook `following`.  Raises
    `NotebookFailed`; what ran until then is left as `<name>.failed.ipynb` and an earlier result
    under the notebook's own name stays as it was.  Raises `DataError` when `reports` cannot be
    written.
    """
    from papermill.exceptions import PapermillExecutionError

    parameters = {"preset": preset} | ({"changes": dict(changes)} if changes else {})
    failed = reports / f"{notebook.stem}.failed.ipynb"
    unfinished = reports / f".{notebook.stem}.running.ipynb"
    before = _results(reports)
    try:
        reports.mkdir(parents=True, exist_ok=True)
        executed = _execute(notebook, unfinished, parameters)
    except PapermillExecutionError as error:
        unfinished.replace(failed)
        raise NotebookFailed(describe_failure(notebook, error, failed)) from None
    except KeyboardInterrupt:
        # The kernel is gone; what it was about to reply is no error.
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    except OSError as error:
        raise DataError(
            f"{notebook.name}: cannot write {reports}: {error}; free space or name another folder"
        ) from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
    executed.metadata[_NOTE] = sorted(
        name for name, state in _results(reports).items() if state != before.get(name)
    )
    _publish(executed, reports / notebook.name, following=following)
    failed.unlink(missing_ok=True)
    return float(executed.metadata.papermill.duration)


def _execute(notebook: Path, out: Path, parameters: Mapping[str, Any]) -> "NotebookNode":
    """Run a notebook with these parameters, saying how far it is, and return it with its outputs.

    It is written to `out` cell by cell.
    """
    import papermill

    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    # papermill adds one, the parameters.
    count = sum(cell["cell_type"] == "code" for cell in cells) + 1
    with this_interpreter(), watching(notebook.stem, cells=count) as watch:
        return papermill.execute_notebook(
            notebook,
            out,
            parameters,
            kernel_name="python3",
            cwd=notebook.parent,
            progress_bar=False,
            on_cell_start=watch.begin_cell,
        )


def _publish(executed: "NotebookNode", path: Path, *, following: str) -> None:
    """Write an executed notebook to its path in the report, and its page beside it."""
    executed = answer_first(without_widgets(executed))
    # Do not publish this machine's paths.
    executed.metadata.papermill.update(input_path=path.name, output_path=path.name)
    page = notebook_page(executed, title=path.stem, following=following)
    write_text(path.with_suffix(".html"), page)
    write_text(path, json.dumps(executed, indent=1, ensure_ascii=False) + "\n")


def _results(reports: Path) -> dict[str, tuple[int, int]]:
    """Return the tables and figures of a report by name, each with what changes when written."""
    found = {path: path.stat() for kind in RESULTS for path in reports.glob(kind)}
    return {
        path.relative_to(reports).as_posix(): (stat.st_mtime_ns, stat.st_ino)
        for path, stat in found.items()
    }


class _Papermill(msgspec.Struct):
    duration: float


class _Metadata(msgspec.Struct, rename={"wrote": _NOTE}):
    papermill: _Papermill
    wrote: list[str] | None = None


class _Executed(msgspec.Struct):
    metadata: _Metadata


def _executed(path: Path) -> _Metadata:
    return read_json(path, _Executed, fix="delete it and run the study again").metadata


def executed_notebooks(reports: Path) -> dict[str, _Metadata]:
    """Return what the executed notebooks of a report say of their run, by name, in order."""
    paths = sorted(reports.glob("[0-9][0-9]_*.ipynb"))
    return {path.stem: _executed(path) for path in paths if not path.name.endswith(".failed.ipynb")}


def noted_results(executed: Path) -> list[str] | None:
    """Return the tables and figures that an executed notebook noted; none if it has not run."""
    return _executed(executed).wrote if executed.is_file() else None


def remove_leftovers(
    reports: Path, notebooks: Sequence[Path], executed: Mapping[str, _Metadata]
) -> list[str]:
    """Remove tables and figures that no notebook wrote when it ran last; return their names.

    What notebooks outside this run have left stays.  Nothing is removed where a notebook of the run
    has not run, or where one has not noted what it wrote.
    """
    if not {notebook.stem for notebook in notebooks} <= executed.keys():
        return []
    written: set[str] = set()
    for found in executed.values():
        if found.wrote is None:
            return []
        written.update(found.wrote)
    left = sorted(_results(reports).keys() - written)
    for name in left:
        (reports / name).unlink()
    return left


def describe_failure(notebook: Path, error: "PapermillExecutionError", failed: Path) -> str:
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
        command = [sys.executable, "-c", _KERNEL, "-f", "{connection_file}", "--log-level=CRITICAL"]
        spec = {"argv": command, "display_name": "Python 3 (ipykernel)", "language": "python"}
        write_text(Path(folder) / "kernels" / "python3" / "kernel.json", json.dumps(spec))
        paths = os.pathsep.join(filter(None, (folder, os.environ.get("JUPYTER_PATH"))))
        with environment(
            JUPYTER_PATH=paths,
            TQDM_DISABLE="1",
            PYDEVD_DISABLE_FILE_VALIDATION="1",
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


def run_facts(preset: Preset, executed: Mapping[str, _Metadata], *, root: Path) -> dict[str, Any]:
    """Return what `run.json` says: preset, parameters, versions, commit, machine, seconds.

    Seconds are those of the executed notebooks, so a run that skipped some tells of all.
    """
    return {
        "preset": preset.name,
        "parameters": msgspec.to_builtins(preset),
        "seeds": preset.seeds,
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(root),
        "device": device(),
        "speed": round(speed(), 1),
        "seconds": {name: round(found.papermill.duration, 1) for name, found in executed.items()},
    }


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES}


def _commit(root: Path) -> str:
    """Return the commit, marked when the working tree differs from it, reports aside.

    `unknown` without git: a folder above may be a repository, that of a source archive is none.
    """
    if not (root / ".git").exists():
        return "unknown"

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
