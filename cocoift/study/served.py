"""Test a served model: does one short answer make it terse?  No download, GPU or paid judge."""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.effects import change, describe, rows_of, sign
from cocoift.evaluation.obedience import OBEDIENCE, obedience_protocols
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.score import COLLAPSE
from cocoift.report.evaluation import wide_table
from cocoift.study import steps
from cocoift.study.asking import obedience_benchmark
from cocoift.study.index import write_index
from cocoift.study.opened import Study, open_study
from cocoift.study.runner import notebooks, run_notebook

PRESET = "endpoint"


def served_changes(base_url: str, model: str, key_variable: str) -> dict[str, Any]:
    """Return the changes to preset `endpoint` that test one model, in folders of its own."""
    name = re.sub(r"\W+", "-", model).strip("-").lower() or "model"
    where = {"base_url": base_url, "model": model, "key_variable": key_variable}
    return {
        "work_dir": f"data/endpoint/{name}",
        "report_dir": f"reports/endpoint/{name}",
        "raw_dir": "data/endpoint/raw",
        "evaluation": {"endpoints": [{"name": name, **where}]},
    }


def requests(benchmarks: Sequence[Benchmark], protocols: Sequence[Protocol]) -> int:
    """Return how many requests a model is sent: each question, and each opening round per image."""
    return sum(
        len(benchmark.questions)
        + len({question.images for question in benchmark.questions})
        * (0 if protocol.replies else len(protocol.opening))
        for benchmark in benchmarks
        for protocol in protocols
        if protocol.fits(benchmark)
    )


def requests_of(study: Study) -> int:
    """Return how many requests the whole test of one model takes."""
    every, obeyed = study.protocols(), obedience_benchmark(study, [])
    asked = requests(study.benchmarks_to_ask(), list(every.values()))
    return asked + requests([obeyed] if obeyed else [], obedience_protocols(every))


def measure_served(changes: dict[str, Any]) -> Study:
    """Run the notebooks of preset `endpoint` on one model; what was answered is not asked again.

    Raises `NotebookFailed` and `DataError` as `run_notebook` does.
    """
    study = open_study(PRESET, changes)
    steps.draw_benchmarks(study)
    print(f"at most {requests_of(study):,} requests; rerun to resume")
    reports = study.tables.parent
    for notebook in notebooks(study.root, study.preset.notebooks):
        seconds = run_notebook(notebook, preset=PRESET, changes=changes, reports=reports)
        print(f"{notebook.stem:24} {seconds:6.1f} s", flush=True)
    write_index(study)
    return study


def results(study: Study) -> str:
    """Return the table and the verdict of every benchmark that the model was asked."""
    return "\n\n".join(
        f"{one.name}\n{result_table(study, one.name).to_string()}\n\n{verdict(study, one.name)}"
        for one in study.benchmarks()
        if one.kind == "mm_vet"
    )


def result_table(study: Study, benchmark: str) -> pd.DataFrame:
    """Return score, collapse and obedience by protocol in percent, with 95 % intervals.

    Obedience is measured on questions of its own, whichever the benchmark.
    """
    scores = pd.read_csv(study.tables / "scores.csv", dtype={"seed": str})
    own = scores[(scores.seed == "all")
                 & ((scores.benchmark == benchmark) & scores.metric.isin(["total", COLLAPSE])
                    | (scores.metric == OBEDIENCE))]  # fmt: skip
    table = wide_table(own, list(own.protocol.unique()), study.labels).set_index("protocol")
    return table[["total", COLLAPSE, OBEDIENCE]].fillna("")


def verdict(study: Study, benchmark: str) -> str:
    """Say whether the short round is shown to make the model terse, and by how much."""
    effects = pd.read_csv(study.tables / "effects.csv", dtype={"seed": str})
    (model,) = study.models
    own = effects[effects.benchmark == benchmark]
    rows = rows_of(own, change(model).name, COLLAPSE)
    found = {1: "makes it terse", -1: "makes it less terse", 0: "is not shown to make it terse"}
    return f"One short round {found[sign(rows)]}: collapsed answers {describe(rows)}."
