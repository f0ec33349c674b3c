"""The index of a run: its finding, figures and notebooks on one page, its facts in `run.json`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cocoift.core.files import write_text
from cocoift.core.images import data_address
from cocoift.report import sentences
from cocoift.report.evaluation import gate_sentence
from cocoift.report.html import index_page
from cocoift.report.tables import LABELS
from cocoift.study.opened import Study
from cocoift.study.preset import Preset
from cocoift.study.runner import notebooks, run_facts

# File, title, alternative text.  The first figure is the finding's.
FIGURES = (
    ("finding.png", "Score, collapsed answers and obedience, alone and after one short round",
     "Score, share of collapsed answers and obedience per model, alone and after a short round"),
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
    "The same annotations of the same COCO images are laid out in different ways: {layouts}. "
    "One base is tuned on each. Every notebook asks one question and answers it at its end."
)
LAYOUTS = {
    "mix": "as in LLaVA's own mixture (a conversation per source, the prompt for a short answer "
    "in its first turn only)",
    "merged": "merged into one conversation per image, each turn with its own instruction",
    "instructed": "merged with the prompt on the terse turns of chats too",
}
MINI = (
    "Preset {preset.name}: this study draws the pictures and their annotations itself, writes them "
    "in the upstream formats and reads them with the code that reads the real files; the model is "
    "a tiny LLaVA trained from scratch. The numbers show the effect and its mechanism, not "
    "LLaVA-1.5's level. Notebook 05 shows the paper's numbers beside ours."
)
ASSEMBLED = (
    "Preset {preset.name}: the language model is {preset.assembly.language}, published and tuned "
    "to follow instructions by others. It sees through the tower of this study's tiny LLaVA, by a "
    "projector that notebook 00 trained. The study draws the pictures and their annotations itself "
    "and writes them in the upstream formats."
)
REAL = (
    "Preset {preset.name}: real annotation files and images, and the checkpoint "
    "{preset.checkpoint}. Notebook 00 lists the sources that were there."
)
_FINDING = f"figures/{FIGURES[0][0]}"
TUNED_ON = LABELS | {"base": "nothing (base)"}


def write_index(study: Study) -> None:
    """Write `run.json` and `index.html` from what the notebooks left in the report folder."""
    reports, preset = study.tables.parent, study.preset
    facts = run_facts(preset, reports=reports, root=study.root)
    page = index_page(
        run=facts,
        notebooks=notebooks(study.root, preset.notebooks),
        figures=list(_figures(study)),
        finding=_finding(reports),
        others=list(_others(reports, facts)),
        texts={
            "question": QUESTION,
            "purpose": PURPOSE.format(layouts="; ".join(LAYOUTS[one] for one in preset.mixtures)),
            "provenance": _provenance(preset),
        },
    )
    write_text(reports / "run.json", json.dumps(facts, indent=2) + "\n")
    write_text(reports / "index.html", page)
    print(f"report: {os.path.relpath(reports / 'index.html', study.root)}")


def _provenance(preset: Preset) -> str:
    drawn = ASSEMBLED if preset.assembly else MINI
    return (drawn if preset.mini_coco else REAL).format(preset=preset)


def _figures(study: Study) -> Iterator[dict[str, str]]:
    for name, title, alt in FIGURES:
        path = study.figures / name
        if path.is_file():
            yield _figure(path, title, alt)


def _figure(path: Path, title: str, alt: str) -> dict[str, str]:
    return {"title": title, "alt": alt, "data": data_address(path.read_bytes(), "png")}


def _finding(reports: Path) -> dict[str, Any] | None:
    files = [reports / "tables" / name for name in ("scores.csv", "effects.csv")]
    if not all(path.is_file() for path in (*files, reports / _FINDING)):
        return None
    scores, effects = (pd.read_csv(path, dtype={"seed": str}) for path in files)
    found, gates = sentences.finding(scores, effects, labels=TUNED_ON), reports / "tables/gates.csv"
    if found and gates.is_file():
        checked = pd.read_csv(gates)
        if not checked.passed.all():
            found["conclusion"] = f"{gate_sentence(checked)} {found['conclusion']}"
    return found


def _others(reports: Path, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the reports beside this one found for other models."""
    _, title, alt = FIGURES[0]
    for path in sorted(reports.parent.glob("*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        model = _tuned(run)
        if model != _tuned(facts) and (found := _finding(path.parent)):
            yield {
                "preset": run["preset"],
                "model": model,
                "conclusion": found["conclusion"],
                "address": f"../{path.parent.name}/index.html",
                "figure": _figure(path.parent / _FINDING, title, alt),
            }


def _tuned(run: dict[str, Any]) -> str:
    """Return the name of the language model or checkpoint that a run tuned."""
    parameters = run["parameters"]
    if assembly := parameters.get("assembly"):
        return str(assembly["language"])
    return "the tiny LLaVA" if parameters.get("tiny_llava") else str(parameters["checkpoint"])
