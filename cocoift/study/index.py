"""The index of a run: its finding, figures and notebooks on one page, its facts in `run.json`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cocoift.core.files import write_text
from cocoift.core.images import data_address, png_texts
from cocoift.report import sentences
from cocoift.report.evaluation import sanity_sentence
from cocoift.report.pages import index_page
from cocoift.report.tables import LABELS
from cocoift.study.preset import Preset
from cocoift.study.runner import notebooks, remove_leftovers, run_facts
from cocoift.study.study import Study

# The first figure is the finding's.
FIGURES = ("finding", "rounds", "ablation_dose", "ablation_factors", "length_grid",
           "prompt_placement")  # fmt: skip
QUESTION = "Does a model still answer open questions after one short answer?"
PURPOSE = (
    "The same annotations of the same COCO images are laid out in different ways: {layouts}. "
    "One base is tuned on each. "
)
ASKED = "Every question is put to the model alone, and after one short round about the same image. "
READING = "Every notebook asks one question and answers it at its end."
LAYOUTS = {
    "mix": "as in LLaVA's own mixture (a conversation per source, the prompt for a short answer "
    "in its first turn only)",
    "merged": "merged into one conversation per image, each turn with its own instruction",
    "instructed": "merged with the prompt on the terse turns of chats too",
}
DRAWN = (
    "This study draws the pictures and their annotations itself, writes them in the upstream "
    "formats and reads them with the code that reads the real files."
)
REAL = "Annotation files and images are real; notebook 00 lists the sources that were there."
TINY = (
    "The model is a tiny LLaVA trained from scratch. The numbers show the effect and its "
    "mechanism, not LLaVA-1.5's level. Notebook 05 shows the paper's numbers beside ours."
)
ASSEMBLED = (
    "The language model is {language}, published and tuned to follow instructions by others. It "
    "sees through {tower}, by a projector that notebook 00 trained."
)
SERVED = "Not trained here, but asked through a server or logged by another harness: {names}."
_FINDING = f"figures/{FIGURES[0]}.png"
TUNED_ON = LABELS | {"base": "nothing (base)"}


def write_index(study: Study) -> None:
    """Write `run.json` and `index.html` from what the notebooks left in the report folder."""
    reports, preset = study.tables.parent, study.preset
    listed = notebooks(study.root, preset.notebooks)
    if left := remove_leftovers(reports, listed):
        print(f"removed, since no notebook writes it any more: {', '.join(left)}")
    facts = run_facts(preset, reports=reports, root=study.root)
    page = index_page(
        run=facts,
        notebooks=listed,
        figures=list(_figures(study)),
        finding=_finding(reports),
        others=list(_others(reports, facts)),
        texts={
            "question": QUESTION,
            "purpose": _purpose(preset),
            "provenance": _provenance(preset),
        },
    )
    write_text(reports / "run.json", json.dumps(facts, indent=2) + "\n")
    write_text(reports / "index.html", page)
    print(f"report: {os.path.relpath(reports / 'index.html', study.root)}")


def _purpose(preset: Preset) -> str:
    layouts = "; ".join(LAYOUTS[mixture] for mixture in preset.mixtures)
    return (PURPOSE.format(layouts=layouts) if preset.evaluation.models else ASKED) + READING


def _provenance(preset: Preset) -> str:
    """Return what is real: the pictures and annotations, then the models that are asked."""
    parts, asked = [DRAWN if preset.mini_coco else REAL], preset.evaluation
    if asked.models and (assembly := preset.assembly):
        tower = assembly.vision or "the tower of this study's tiny LLaVA"
        parts.append(ASSEMBLED.format(language=assembly.language, tower=tower))
    elif asked.models:
        parts.append(TINY if preset.tiny_llava else f"The checkpoint is {preset.checkpoint}.")
    served = [server.model for server in asked.endpoints] + [server.name for server in asked.logged]
    if served:
        parts.append(SERVED.format(names=", ".join(served)))
    return f"Preset {preset.name}. {' '.join(parts)}"


def _figures(study: Study) -> Iterator[dict[str, str]]:
    for name in FIGURES:
        path = study.figures / f"{name}.png"
        if path.is_file():
            yield _figure(path)


def _figure(path: Path) -> dict[str, str]:
    title, alt = png_texts(path)
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
            found["conclusion"] = f"{sanity_sentence(checked)} {found['conclusion']}"
    return found


def _others(reports: Path, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the reports beside this one found for other models."""
    for path in sorted(reports.parent.glob("*/run.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        model = _tuned(run)
        if model != _tuned(facts) and (found := _finding(path.parent)):
            yield {
                "preset": run["preset"],
                "model": model,
                "conclusion": found["conclusion"],
                "address": f"../{path.parent.name}/index.html",
                "figure": _figure(path.parent / _FINDING),
            }


def _tuned(run: dict[str, Any]) -> str:
    """Return the name of the language model or checkpoint that a run tuned, or of what it asked."""
    parameters = run["parameters"]
    asked = parameters["evaluation"]
    if not asked["models"]:
        served = [asked_model["model"] for asked_model in asked["endpoints"]]
        return (
            ", ".join([*served, *(asked_model["name"] for asked_model in asked["logged"])])
            or "no model"
        )
    if assembly := parameters.get("assembly"):
        return str(assembly["language"])
    return "the tiny LLaVA" if parameters.get("tiny_llava") else str(parameters["checkpoint"])
