"""The study as a graph of notebooks, for doit: `python -m doit preset=mini`.

A notebook runs again when its own text, the package, a file that it reads, its parameters or what
an earlier notebook left changed (by content, sizes for raw files), or when a result is gone.
"""

import base64
import json
import sys
from pathlib import Path

from doit import get_var
from doit.exceptions import TaskFailed
from doit.reporter import ConsoleReporter
from doit.tools import config_changed

from cocoift import study
from cocoift.core.files import DataError, write_text
from cocoift.report.html import index_page

ROOT = Path(__file__).resolve().parent
PRESET = get_var("preset", "mini")

# Manifests of what notebooks leave below the preset's `work_dir`; later notebooks depend on them.
PRODUCTS = {
    "00_setup": "interim/manifest.json",
    "02_merge": "merged/manifest.json",
    "04_finetune_qlora": "adapters/manifest.json",
    "05_multi_round_eval": "rollouts/manifest.json",
}
# The figures of the index: file, title, text for those who cannot see it.  The first one is the
# finding's.
FIGURES = (
    ("finding.png", "Score and collapsed answers, asked alone and after one short round",
     "Bars: score and share of collapsed answers per model, alone and after a short round"),
    ("rounds.png", "Collapse in open rounds after one short round",
     "A line per model: share of answers of three words or fewer in rounds 2 to 5"),
    ("ablation_dose.png", "How much of the baseline's layout is enough",
     "Score and collapse by share of images laid out as in the baseline, with intervals"),
    ("ablation_factors.png", "Where the prompt stands, and whether sources mix",
     "Score and collapse for prompt in the first or every turn by sources apart or mixed"),
    ("length_grid.png", "Answer lengths in training, alone, and after a short round",
     "Histograms of answer lengths: a row per model, a column per protocol"),
    ("prompt_placement.png", "Where the format prompt stands in multi-round conversations",
     "Bars: share of first and later turns that state a form of answer, per source"),
)  # fmt: skip
QUESTION = "Does a model still answer open questions after one short answer?"
PURPOSE = (
    "The same annotations of the same COCO images are laid out in two ways: as in LLaVA's own "
    "mixture (a conversation per source, the prompt for a short answer in its first turn only), "
    "and merged into one conversation per image, each turn with its own instruction. One base is "
    "tuned on each. Every notebook asks one question and answers it at its end."
)
MINI = (
    "Preset {preset}: pictures and annotations are drawn by this study, written in the upstream "
    "formats and read by the code that reads the real files; the model is a tiny LLaVA trained "
    "from scratch. The numbers show the effect and its mechanism, not LLaVA-1.5's level. The "
    "paper's numbers stand beside ours in notebook 05."
)
REAL = (
    "Preset {preset}: real annotation files and images, and the checkpoint {checkpoint}. Which "
    "sources were there is in notebook 00."
)
LABELS = {"base": "nothing (base)", "mix": "baseline mixture", "merged": "merged mixture"}


class OneLine(ConsoleReporter):
    """Say one line per notebook: its seconds, that it is unchanged, or what stopped it."""

    def execute_task(self, task):
        pass

    def skip_uptodate(self, task):
        self.write(f"{task.name:28} unchanged\n")

    def complete_run(self):
        for result in self.failures:
            self.write(f"\n{result['exception'].get_msg()}\n")


def load():
    """Return the preset's parameters and its report folder; end with one line if it is wrong."""
    try:
        known = study.known_parameters(ROOT)
        parameters = study.named_preset(PRESET, known=known)
        return parameters, known, ROOT / parameters["report_dir"]
    except DataError as error:
        sys.exit(f"error: {error}")


PARAMETERS, DECLARED, REPORTS = load()
REPORTS.mkdir(parents=True, exist_ok=True)
DOIT_CONFIG = {
    "default_tasks": ["report"],
    "dep_file": str(REPORTS / ".doit.db"),
    "reporter": OneLine,
    "verbosity": 2,
}


def run(notebook):
    try:
        seconds = study.run_notebook(notebook, parameters=PARAMETERS, reports=REPORTS)
    except (study.NotebookFailed, DataError) as error:
        return TaskFailed(str(error))
    print(f"{notebook.stem:28} {seconds:6.1f} s", flush=True)


def raw_files():
    """Return names and sizes of the raw files, unless the study makes them itself."""
    raw = ROOT / PARAMETERS["raw_dir"]
    if PARAMETERS.get("mini_coco"):
        return []
    return sorted(
        (str(p.relative_to(raw)), p.stat().st_size) for p in raw.rglob("*.*") if p.is_file()
    )


def curated(own):
    """Return the decisions that a notebook takes as input, as text."""
    path = ROOT / own["curation"] if "curation" in own else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else ""


def small_files():
    """Return the files below `data/` that notebooks read, and those that the preset names.

    The catalogue, the paper's results, synonyms, hand-given scores, judges' prompts, the shipped
    checkpoint: a change of any runs every notebook again, which costs seconds where nothing
    depends on it.
    """
    data = ROOT / "data"
    found = [path for path in data.glob("*.*") if path.suffix != ".md"]
    found += [*(data / "judges").glob("*"), *(data / "mini_llava").glob("*")]
    named = [PARAMETERS["catalogue"], PARAMETERS.get("synonyms")]
    named += PARAMETERS.get("judge", {}).get("prompts", {}).values()
    return sorted({*found, *(ROOT / name for name in named if name and (ROOT / name).is_file())})


def task_notebook():
    """Execute one notebook of the study."""
    package = [*(ROOT / "cocoift").rglob("*.py"), *small_files()]
    before, upstream = None, []
    for notebook in study.notebooks(ROOT):
        name = notebook.stem
        own = {key: value for key, value in PARAMETERS.items() if key in DECLARED[name]}
        work = ROOT / PARAMETERS["work_dir"]
        products = [work / PRODUCTS[name]] if name in PRODUCTS else []
        yield {
            "name": name,
            "actions": [(run, [notebook])],
            "file_dep": [notebook, *package, *upstream],
            "targets": [REPORTS / f"{name}.ipynb", REPORTS / f"{name}.html", *products],
            "uptodate": [
                config_changed({"parameters": own, "raw": raw_files(), "curation": curated(own)})
            ],
            "task_dep": [f"notebook:{before}"] if before else [],
        }
        before = name
        upstream = [*upstream, *products]


def figures():
    for name, title, alt in FIGURES:
        path = REPORTS / "figures" / name
        if path.is_file():
            data = "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
            yield {"title": title, "alt": alt, "data": data}


def finding():
    scores, effects = (REPORTS / "tables" / name for name in ("scores.csv", "effects.csv"))
    if not (scores.is_file() and effects.is_file() and (REPORTS / "figures/finding.png").is_file()):
        return None
    import pandas as pd

    from cocoift.report import (
        evaluation as evaluation_report,  # imports torch, which most runs can do without
    )

    read = [pd.read_csv(path, dtype={"seed": str}) for path in (scores, effects)]
    return evaluation_report.finding(*read, labels=LABELS)


def write_report():
    run_facts = study.run_facts(
        preset=PARAMETERS["preset"], parameters=PARAMETERS, reports=REPORTS, root=ROOT
    )
    kind = MINI if PARAMETERS.get("mini_coco") else REAL
    page = index_page(
        run=run_facts,
        notebooks=study.notebooks(ROOT),
        figures=list(figures()),
        finding=finding(),
        question=QUESTION,
        purpose=PURPOSE,
        provenance=kind.format(
            preset=PARAMETERS["preset"], checkpoint=PARAMETERS.get("checkpoint")
        ),
    )
    write_text(REPORTS / "run.json", json.dumps(run_facts, indent=2) + "\n")
    write_text(REPORTS / "index.html", page)
    print(f"report: {REPORTS.relative_to(ROOT) / 'index.html'}")


def task_report():
    """Write `index.html` and `run.json` from what the notebooks left."""
    return {
        "actions": [write_report],
        "task_dep": ["notebook"],
        "targets": [REPORTS / "run.json", REPORTS / "index.html"],
        "uptodate": [False],
    }
