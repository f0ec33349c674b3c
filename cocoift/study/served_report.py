"""What the probe of a served model found: table, verdict, and a page that shows them."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cocoift.core.files import write_text
from cocoift.core.images import data_address
from cocoift.core.templates import render
from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.effects import change, describe, effect_table, rows_of, sighted, sign
from cocoift.evaluation.protocols import ALONE, OTHER_PICTURE
from cocoift.evaluation.rollout import Run
from cocoift.evaluation.score import CLOSED_COLLAPSE, COLLAPSE, metrics_of
from cocoift.report.cards import dialog_card
from cocoift.report.evaluation import changed_most, wide_table
from cocoift.report.pages import POLICY, notebook_rows
from cocoift.report.tables import METRICS, PROTOCOLS
from cocoift.study.runner import executed_notebooks, notebooks, run_facts
from cocoift.study.study import Study

_TITLES = {
    "mm_vet": "drawn images in MM-Vet's format",
    "mm_vet_photos": "MM-Vet's own photographs",
}
# From this share of equal answers on, a model is said not to look at its image.
_BLIND = 0.5


def results(study: Study) -> str:
    """Return the table and the verdict of every benchmark that the model was asked."""
    found = []
    for benchmark in _asked(study):
        found.append(f"{title(benchmark)}\n{result_table(study, benchmark.name).to_string()}")
        found += verdict(study, benchmark)
    return "\n\n".join(found)


def _asked(study: Study) -> list[Benchmark]:
    return [
        benchmark
        for benchmark in study.benchmarks()
        if benchmark.kind == "mm_vet" and not benchmark.of_dialogs
    ]


def title(benchmark: Benchmark) -> str:
    """Return what a benchmark of preset `endpoint` shows."""
    return _TITLES.get(benchmark.name, benchmark.name)


def result_table(study: Study, benchmark: str) -> pd.DataFrame:
    """Return score, collapse and adherence by protocol in percent, with 95 % intervals.

    Protocols and metrics are in words.  Adherence is measured on questions of its own, whichever
    the benchmark.  Of a benchmark without open questions the short answers to its closed ones stand
    for the collapse.
    """
    scores = pd.read_csv(study.tables / "scores.csv", dtype={"seed": str})
    own = scores.benchmark == benchmark
    short = COLLAPSE if COLLAPSE in set(scores.metric[own]) else CLOSED_COLLAPSE
    of_model = scores[(scores.seed == "all") & (own & scores.metric.isin(["total", short])
                                                | (scores.metric == ADHERENCE))]  # fmt: skip
    table = wide_table(of_model, list(of_model.protocol.unique()), study.labels)
    table = table.set_index("protocol")[["total", short, ADHERENCE]].fillna("")
    heads = {name: f"{METRICS.get(name, name)} (%)" for name in table}
    return table.rename(index=PROTOCOLS, columns=heads).rename_axis(None)


def verdict(study: Study, benchmark: Benchmark) -> list[str]:
    """Say whether the short round is shown to make the model terse, and if it seems not to see."""
    effects = pd.read_csv(study.tables / "effects.csv", dtype={"seed": str})
    (model,) = study.models
    of_benchmark = effects[effects.benchmark == benchmark.name]
    rows = rows_of(of_benchmark, change(model).name, COLLAPSE)
    found = {1: "makes it terse", -1: "makes it less terse", 0: "is not shown to make it terse"}
    terse = f"One short round {found[sign(rows)]}: collapsed answers {describe(rows)}."
    if rows.empty:
        terse = "It has no open questions: whether one short round makes it terse is not measured."
    verdicts = pd.read_csv(study.tables / "verdicts.csv.gz", dtype={"question_id": str})
    seen = sight_sentence(verdicts[verdicts.benchmark == benchmark.name], benchmark, model)
    return [terse, seen] if seen else [terse]


def sight_sentence(verdicts: pd.DataFrame, benchmark: Benchmark, model: str) -> str:
    """Say that a model does not look at its images; nothing where it is shown to.

    It does not where most answers to questions alone stay word for word the same with another
    image, or where the score is not shown to fall with it.
    """
    answers = verdicts.drop_duplicates(["protocol", "question_id"])
    replies = answers.pivot(index="question_id", columns="protocol", values="answer")
    both = replies[[ALONE, OTHER_PICTURE]].dropna()
    same = (both[ALONE] == both[OTHER_PICTURE]).mean()
    contrast = sighted(model)
    metrics = metrics_of(benchmark.kind, benchmark.questions)
    total = [metric for metric in metrics if metric.name == "total"]
    gain = rows_of(effect_table(verdicts, total, [contrast]), contrast.name, "total")
    if same < _BLIND and sign(gain) > 0:
        return ""
    return (
        f"It seems not to look at the images: {same:.0%} of its answers stay the same with "
        f"another image, and its own image adds {describe(gain)} to its score. See whether the "
        "server passes images on (llama.cpp: --mmproj; vLLM: the chat template)."
    )


def write_served_index(study: Study, runs: Sequence[Run], *, asked: str) -> None:
    """Write `run.json` and `index.html`: verdicts, tables, where and when, changed dialogs.

    `asked` tells from when the answers are.
    """
    reports = study.tables.parent
    facts = run_facts(study.preset, executed_notebooks(reports), root=study.root)
    facts["asked"] = asked
    (endpoint,) = study.preset.evaluation.endpoints
    found = [_found(study, benchmark, runs) for benchmark in _asked(study)]
    page = render(
        "served.html",
        policy=POLICY,
        title=endpoint.model,
        model=endpoint.model,
        address=endpoint.base_url,
        found=found,
        figure=_figure(study.figures / "finding.png"),
        rows=notebook_rows(notebooks(study.root, study.preset.notebooks), facts["seconds"]),
        run=facts,
    )
    write_text(reports / "run.json", json.dumps(facts, indent=2) + "\n")
    write_text(reports / "index.html", page)
    print(f"report: {os.path.relpath(reports / 'index.html', study.root)}")


def _found(study: Study, benchmark: Benchmark, runs: Sequence[Run]) -> dict[str, Any]:
    shown = result_table(study, benchmark.name)
    verdicts = pd.read_csv(study.tables / "verdicts.csv.gz", dtype={"question_id": str})
    return {
        "title": title(benchmark),
        "verdict": verdict(study, benchmark),
        "questions": len(benchmark.questions),
        "heads": list(shown.columns),
        "rows": list(zip(shown.index, shown.to_numpy().tolist(), strict=True)),
        "cards": list(_cards(benchmark, runs, verdicts)),
    }


def _cards(benchmark: Benchmark, runs: Sequence[Run], verdicts: pd.DataFrame) -> Iterator[Markup]:
    of_benchmark = [run for run in runs if run.benchmark.name == benchmark.name]
    for question, dialogs in changed_most(
        of_benchmark, verdicts, model=of_benchmark[0].model, count=5
    ):
        columns = {
            protocol: [(r.question, r.answer) for r in d.rounds] for protocol, d in dialogs.items()
        }
        image = next(iter(dialogs.values())).images[0]
        heading = f"question {question}"
        yield Markup(dialog_card(benchmark.images, image, title=heading, dialogs=columns))


def _figure(path: Path) -> str:
    return data_address(path.read_bytes(), "png") if path.is_file() else ""
