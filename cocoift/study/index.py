"""The index of a run: its finding, figures and notebooks on one page, its facts in `run.json`."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cocoift.core.files import DataError, read_json, write_text
from cocoift.core.images import data_address, png_texts
from cocoift.report.evaluation import sanity_sentence
from cocoift.report.pages import index_page
from cocoift.report.plain import bullets
from cocoift.report.tables import LABELS, read_saved
from cocoift.report.told import finding
from cocoift.study.runner import executed_notebooks, notebooks, remove_leftovers, run_facts
from cocoift.study.study import Study

# The finding's figure is the first of these that a run has: not all ablate, and earlier versions
# had the last one alone.
HEADLINES = ("headline_arms", "headline", "finding")
FIGURES = ("finding", "rounds", "ablation_dose", "ablation_factors", "prompt_placement")
TUNED_ON = LABELS | {"base": "nothing (base model)"}


def write_index(study: Study) -> None:
    """Write `run.json` and `index.html` from what the notebooks left in the report folder."""
    reports, preset = study.tables.parent, study.preset
    listed = notebooks(study.root, preset.notebooks)
    executed = executed_notebooks(reports)
    if left := remove_leftovers(reports, listed, executed):
        print(f"removed, since no notebook writes it any more: {', '.join(left)}")
    facts = run_facts(preset, executed, root=study.root)
    page = index_page(
        run=facts,
        notebooks=listed,
        figures=list(_figures(reports)),
        finding=_finding(reports),
        others=list(_others(reports, facts)),
    )
    write_text(reports / "run.json", json.dumps(facts, indent=2) + "\n")
    write_text(reports / "index.html", page)
    print(f"report: {os.path.relpath(reports / 'index.html', study.root)}")


def _headline(reports: Path) -> Path | None:
    paths = (reports / "figures" / f"{name}.png" for name in HEADLINES)
    return next((path for path in paths if path.is_file()), None)


def _figures(reports: Path) -> Iterator[dict[str, str]]:
    """Yield the figures of the index, the finding's first."""
    paths = [_headline(reports), *(reports / "figures" / f"{name}.png" for name in FIGURES)]
    for path in dict.fromkeys(paths):
        if path is not None and path.is_file():
            yield _figure(path)


def _figure(path: Path) -> dict[str, str]:
    title, alt = png_texts(path)
    return {"title": title, "alt": alt, "data": data_address(path.read_bytes(), "png")}


def _finding(reports: Path) -> dict[str, Any] | None:
    files = [reports / "tables" / name for name in ("scores.csv", "effects.csv")]
    if not (all(path.is_file() for path in files) and _headline(reports)):
        return None
    scores, effects = map(read_saved, files)
    found, gates = finding(scores, effects, labels=TUNED_ON), reports / "tables/gates.csv"
    if found:
        found["bullets"] = bullets(scores, effects)
        checked = read_saved(gates) if gates.is_file() else None
        if checked is not None and not checked.passed.all():
            found["warning"] = sanity_sentence(checked)
    return found


def _others(reports: Path, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what the reports beside this one found for other models."""
    for path in sorted(reports.parent.glob("*/run.json")):
        fix = "delete it and run that study again"
        run = read_json(path, dict[str, Any], fix=fix)
        try:
            preset, model = run["preset"], _tuned(run)
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: no record of a run ({error!r}); {fix}") from error
        if model != _tuned(facts) and (found := _finding(path.parent)):
            yield {
                "preset": preset,
                "model": model,
                "finding": found,
                "address": f"../{path.parent.name}/index.html",
                "figure": next(_figures(path.parent)),
            }


def _tuned(run: dict[str, Any]) -> str:
    """Return the name of the language model or checkpoint that a run tuned, or of what it asked."""
    parameters = run["parameters"]
    asked = parameters["evaluation"]
    if not asked["models"]:
        served = [model["model"] for model in asked["endpoints"]]
        return ", ".join([*served, *(model["name"] for model in asked["logged"])]) or "no model"
    if assembly := parameters.get("assembly"):
        return str(assembly["language"])
    return "the tiny LLaVA" if parameters.get("tiny_llava") else str(parameters["checkpoint"])
