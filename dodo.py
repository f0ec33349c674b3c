"""The study as a graph of notebooks, for doit: `python -m cocoift study` runs it.

A notebook runs again when its own text, the package, a file that it reads, its part of the preset
or what an earlier notebook left changed, or when a result is gone.  Contents are compared; a file
is read for that only where its size or a time of it changed.
"""

import os
import signal
import sys
from itertools import zip_longest
from pathlib import Path

import msgspec
import yaml
from doit import get_var
from doit.exceptions import TaskFailed
from doit.reporter import ConsoleReporter
from doit.tools import config_changed

from cocoift import study
from cocoift.core.files import DataError, content_digests, files_below
from cocoift.sources.catalogue import parts_on_disk
from cocoift.study.index import write_index
from minicoco.annotate import STAMP, drawn_files

ROOT = Path(__file__).resolve().parent
PRESET = get_var("preset", "mini")
CHANGES = yaml.safe_load(get_var("changes", "{}"))

# Manifests of what notebooks leave below the preset's `work_dir`; later notebooks depend on them.
PRODUCTS = {
    "00_setup": "interim/manifest.json",
    "02_merge": "merged/manifest.json",
    "04_finetune_qlora": "adapters/manifest.json",
    "05_multi_round_eval": "rollouts/manifest.json",
}
# The notebooks that read these sections of a preset; all notebooks read the rest of it.
READERS = {
    "evaluation": ("00", "03", "05", "06", "07", "08"),
    "bias": ("06",),
    "ablations": ("07",),
    "chat_checkpoints": ("08",),
    "chat_presets": ("08",),
}


class OneLine(ConsoleReporter):
    """Say how long a run will take, then one line per notebook.

    The line says its seconds, that it is unchanged, or what stopped it.
    """

    def initialize(self, tasks, selected_tasks):
        super().initialize(tasks, selected_tasks)
        if expected := study.forecast(REPORTS):
            self.write(f"{expected}\n")

    def execute_task(self, task):
        pass

    def add_failure(self, task, fail):
        if fail.report:  # `complete_run` prints it, once
            self.failures.append({"task": task, "exception": fail})

    def skip_uptodate(self, task):
        self.write(f"{task.name:28} unchanged\n")

    def complete_run(self):
        for result in self.failures:
            self.write(f"\n{result['exception'].get_msg()}\n")


def raw_files(opened):
    """Return names and digests of the raw files that the study does not draw itself."""
    raw = opened.raw.resolve()
    drawn = {STAMP, *drawn_files(raw)}
    there = [path for path in files_below(raw) if path.relative_to(raw).as_posix() not in drawn]
    resolved = {path.resolve() for path in there}
    elsewhere = [path for path in source_files(opened)
                 if not path.is_relative_to(raw) and path not in resolved]  # fmt: skip
    digests = content_digests([*there, *elsewhere], kept=opened.work / "raw_files.json")
    return sorted((os.path.relpath(path, raw), found) for path, found in digests.items())


def source_files(opened):
    """Return the catalogue's annotation files that are on disk."""
    parts = [part for entry in opened.sources.values() for part in parts_on_disk(entry, opened.raw)]
    return [file for files, _ in parts for file in files.values() if file.is_file()]


def open_preset():
    """Return study, notebooks and raw files; end with one line if preset or catalogue are wrong."""
    try:
        opened = study.Study(ROOT, study.read_preset(PRESET, CHANGES))
        return opened, study.notebooks(ROOT, opened.preset.notebooks), raw_files(opened)
    except DataError as error:
        sys.exit(f"error: {error}")


STUDY, NOTEBOOKS, RAW = open_preset()
REPORTS = STUDY.tables.parent
REPORTS.mkdir(parents=True, exist_ok=True)
DOIT_CONFIG = {
    "default_tasks": ["report"],
    "dep_file": str(REPORTS / ".doit.db"),
    "reporter": OneLine,
    "verbosity": 2,
}


def run(notebook, following):
    try:
        seconds = study.run_notebook(
            notebook, preset=PRESET, reports=REPORTS, changes=CHANGES, following=following
        )
    except (study.NotebookFailed, DataError) as error:
        return TaskFailed(str(error))
    except KeyboardInterrupt:
        print(f"\ninterrupted in {notebook.stem}; the same command goes on from there",
              file=sys.stderr)  # fmt: skip
        sys.exit(128 + signal.SIGINT)
    print(f"{notebook.stem:28} {seconds:6.1f} s", flush=True)


def settings_of(name):
    """Return the part of the preset that a notebook reads."""
    values = msgspec.to_builtins(STUDY.preset)
    return {key: value for key, value in values.items() if name[:2] in READERS.get(key, name)}


def reader_modules():
    """Return the modules of the readers that are a user's own."""
    readers = {entry.reader for entry in STUDY.sources.values() if entry.reader}
    names = {reader.partition(":")[0].replace(".", "/") for reader in readers}
    return [folder / f"{name}.py" for name in names if not name.startswith("cocoift/")
            for folder in study.module_folders(PRESET)]  # fmt: skip


def decisions(name):
    """Return the decisions of notebook 03 as text, for the notebooks that read them."""
    reads = name[:2] in ("02", "03") and STUDY.curation.is_file()
    return STUDY.curation.read_text(encoding="utf-8") if reads else ""


def results_are_there(name):
    """Tell whether the tables and figures that a notebook wrote when it ran are on disk."""
    noted = study.noted_results(REPORTS / f"{name}.ipynb") or []
    return all((REPORTS / result).is_file() for result in noted)


def small_files():
    """Return the files below `data/` that notebooks read, and those that the preset names.

    The catalogue, the paper's results, synonyms, hand-given scores, judges' prompts, the shipped
    checkpoint, the user's own readers: a change of any runs every notebook again, which costs
    seconds where nothing depends on it.
    """
    data, preset = ROOT / "data", STUDY.preset
    found = [path for path in data.glob("*.*") if path.suffix != ".md"]
    found += [*(data / "judges").glob("*"), *(data / "mini_llava").glob("*")]
    prompts = getattr(preset.evaluation.judge, "prompts", {}).values()
    named = (ROOT / name for name in (preset.catalogue, preset.bias.synonyms, *prompts))
    return sorted({*found, *filter(Path.is_file, [*named, *reader_modules()])})


def task_notebook():
    """Execute one notebook of the study."""
    package = [*(ROOT / "cocoift").rglob("*.py"), *(ROOT / "minicoco").glob("*.py"), *small_files()]
    package += (ROOT / "cocoift").rglob("*.html")
    before, upstream, executed = None, [], []
    for notebook, following in zip_longest(NOTEBOOKS, NOTEBOOKS[1:]):
        name = notebook.stem
        products = [STUDY.work / PRODUCTS[name]] if name in PRODUCTS else []
        if name.startswith("09"):  # it reads the tables of all others
            upstream = [*upstream, *executed]
        inputs = {"preset": settings_of(name), "raw": RAW, "curation": decisions(name)}
        yield {
            "name": name,
            "actions": [(run, [notebook, following.stem if following else ""])],
            "file_dep": [notebook, *package, *upstream],
            "targets": [REPORTS / f"{name}.ipynb", REPORTS / f"{name}.html", *products],
            "uptodate": [config_changed(inputs), results_are_there(name)],
            "task_dep": [f"notebook:{before}"] if before else [],
        }
        before = name
        executed.append(REPORTS / f"{name}.ipynb")
        upstream = [*upstream, *products]


def task_report():
    """Write `index.html` and `run.json` from what the notebooks left."""
    return {
        "actions": [(write_index, [STUDY])],
        "task_dep": ["notebook"],
        "targets": [REPORTS / "run.json", REPORTS / "index.html"],
        "uptodate": [False],
    }
