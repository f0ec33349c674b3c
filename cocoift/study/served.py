"""Probe a served model: does one short answer make it terse?  No download, GPU or paid judge.

Everything is asked here, where progress and errors are seen at once; the notebooks of preset
`endpoint` then find the answers on disk.
"""

import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from msgspec import structs

from cocoift.core.files import DataError, digest, inside
from cocoift.core.images import open_image
from cocoift.core.progress import Progress
from cocoift.core.spread import spread
from cocoift.core.text import tidy
from cocoift.evaluation.adherence import adherence_protocols
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.candidates import Candidate, endpoint_candidates
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.evaluate import evaluate, rollout_place
from cocoift.evaluation.protocols import AFTER, ALONE, Answerer, Failure, Prompt, Protocol
from cocoift.evaluation.rollout import Rollout, Round, Run, as_prompt, kept_answers
from cocoift.study import steps
from cocoift.study.asking import adherence_benchmark
from cocoift.study.runner import notebooks, run_notebook
from cocoift.study.served_report import write_served_index
from cocoift.study.study import Study, open_study

PRESET = "endpoint"
# Kept answers that are asked for again.
_SAMPLE = 8


def served_changes(endpoint: Endpoint) -> dict[str, Any]:
    """Return the changes to preset `endpoint` that probe one model.

    Its folders are its own, by server and model: one name on two servers is two models.
    """
    address = endpoint.base_url.rstrip("/")
    name = _slug(endpoint.model) or "model"
    server = _slug(re.sub(r"^https?://|/v1$", "", address))
    folder = f"{name}-at-{server}-{digest([address, endpoint.model])[:6]}"
    asked = structs.asdict(endpoint) | {"name": name, "base_url": address}
    return {
        "work_dir": f"data/endpoint/{folder}",
        "report_dir": f"reports/endpoint/{folder}",
        "raw_dir": "data/endpoint/raw",
        "evaluation": {"endpoints": [asked]},
    }


def _slug(text: str) -> str:
    return re.sub(r"\W+", "-", text).strip("-").lower()[-60:]


@dataclass(frozen=True)
class Part:
    """A benchmark under a protocol, its file of answers, and what an earlier run left there."""

    benchmark: Benchmark
    protocol: Protocol
    file: Path
    dialogs: list[Rollout]
    openings: int

    @property
    def requests(self) -> int:
        """How many requests it takes: each question, and each history before one once."""
        histories = {
            (question.images, self.protocol.before(question)[: place + 1])
            for question in self.benchmark.questions
            for place in range(len(self.protocol.before(question)))
            if self.protocol.given(place, question.images[0]) is None
        }
        return len(self.benchmark.questions) + len(histories)

    @property
    def kept(self) -> int:
        """How many of these were answered by earlier runs."""
        return len(self.dialogs) + self.openings


def parts_of(study: Study, candidate: Candidate) -> list[Part]:
    """Return all that a served model is asked, in order, with what is kept of earlier runs.

    Raises `DataError` for a damaged file of answers.
    """
    protocols = study.protocols()
    pairs = [
        (benchmark, protocol)
        for benchmark in study.benchmarks_to_ask()
        for protocol in protocols.values()
    ]
    if obeyed := adherence_benchmark(study, []):
        pairs += [(obeyed, protocol) for protocol in adherence_protocols(protocols)]
    found = []
    for benchmark, protocol in pairs:
        if protocol.fits(benchmark):
            folder = study.work / "rollouts"
            file, head = rollout_place(candidate, benchmark, protocol, folder=folder)
            found.append(Part(benchmark, protocol, file, *kept_answers(file, head)))
    return found


def served_model(study: Study) -> Candidate:
    """Return the model that a study of preset `endpoint` asks."""
    answers = study.preset.evaluation
    (model,) = endpoint_candidates(
        answers.endpoints, system=study.preset.system_prompt, new_tokens=answers.new_tokens
    )
    return model


def measure_served(changes: dict[str, Any], *, fresh: bool = False) -> Study:
    """Ask one model all that is not answered yet, run the notebooks, and write the report.

    `fresh` asks everything again.  Raises `DataError` when the model behind the name has changed
    since earlier answers, when it fails ten times in a row, or leaves too much unanswered; and
    `NotebookFailed`.
    """
    study = open_study(PRESET, changes)
    steps.draw_benchmarks(study)
    if fresh:
        shutil.rmtree(study.work / "rollouts", ignore_errors=True)
    model = served_model(study)
    parts = parts_of(study, model)
    if kept := sum(part.kept for part in parts):
        _tell(f"{kept:,} answers kept from {dates(parts)}; --fresh asks again")
        refuse_changed(parts, model.answer)
    runs = ask_all(parts, model)
    refuse_unanswered(runs, most=study.preset.evaluation.most_unscored)
    reports = study.tables.parent
    for notebook in notebooks(study.root, study.preset.notebooks):
        seconds = run_notebook(notebook, preset=PRESET, changes=changes, reports=reports)
        _tell(f"{notebook.stem:24} {seconds:6.1f} s")
    write_served_index(study, runs, asked=dates(parts))
    return study


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def dates(parts: Sequence[Part]) -> str:
    """Return from when the answers on disk are: a day, or the first and the last one."""
    files = [part.file for part in parts if part.file.is_file()]
    days = sorted({date.fromtimestamp(file.stat().st_mtime).isoformat() for file in files})
    return " to ".join(dict.fromkeys([days[0], days[-1]])) if days else ""


def ask_all(parts: Sequence[Part], model: Candidate) -> list[Run]:
    """Ask all that is not kept, telling how far it is; return every dialog.

    Raises `DataError` as `Streak.add` does.
    """
    due = sum(part.requests - part.kept for part in parts)
    if due:
        _tell(f"at most {due:,} questions; rerun to resume")
    runs = []
    with Progress("questions answered", due) as progress:
        counted = replace(model, answer=_counted(model.answer, progress))
        for part in parts:
            folder = part.file.parents[1]
            runs += evaluate(counted, [part.benchmark], [part.protocol], folder=folder)
    return runs


def _counted(answer: Answerer, progress: Progress) -> Answerer:
    def counting(prompts: Sequence[Prompt]) -> Iterator[tuple[int, str | Failure]]:
        for reply in answer(prompts):
            progress.advance()
            yield reply

    return counting


def refuse_unanswered(runs: Sequence[Run], *, most: float) -> None:
    """Raise `DataError` when a larger share of questions than `most` got no answer."""
    reasons = Counter(
        rollout.failure for run in runs for rollout in run.rollouts if rollout.failure
    )
    asked, failed = sum(len(run.rollouts) for run in runs), reasons.total()
    if failed > most * asked:
        raise DataError(
            f"{failed:,} of {asked:,} questions got no answer, most often: "
            f"{reasons.most_common(1)[0][0]}; run again: only these are asked"
        )


def refuse_changed(parts: Sequence[Part], answer: Answerer) -> None:
    """Ask a sample of kept answers again; raise `DataError` if it is another model that replies.

    A server that says something else each time tells nothing: what differs is asked twice more,
    and only what the new replies agree on counts.
    """
    sample = _sample(parts)
    if not sample:  # opening rounds alone are kept
        return
    prompts = [_again(benchmark, dialog) for benchmark, dialog in sample]
    kept = [tidy(dialog.rounds[-1].answer) for _, dialog in sample]
    first = _replies(answer, prompts)
    apart = [n for n, text in enumerate(kept) if text != first[n]]
    second = dict(zip(apart, _replies(answer, [prompts[n] for n in apart]), strict=True))
    changed = [n for n in apart if second[n] == first[n]]
    if 4 * len(changed) >= len(sample):
        n = changed[0]
        asked = _short(sample[n][1].rounds[-1].question)
        raise DataError(
            f"another model replies under this name: {len(changed)} of {len(sample)} answers, "
            f"asked for again, differ from those of {dates(parts)} (to {asked} it said "
            f"{_short(kept[n])}, now {_short(first[n])}); --fresh asks everything again"
        )
    if 4 * len(apart) >= len(sample):
        _tell(
            "this server says something else each time it is asked, also at temperature 0: "
            "whether its model is still the same cannot be seen"
        )


def _sample(parts: Sequence[Part]) -> list[tuple[Benchmark, Rollout]]:
    """Return kept dialogs, evenly spread: questions alone, and after the short round."""
    found = []
    for name in (ALONE, AFTER):
        some = [
            (p.benchmark, dialog) for p in parts if p.protocol.name == name for dialog in p.dialogs
        ]
        found += spread(some, _SAMPLE // 2)
    return found


def _again(benchmark: Benchmark, dialog: Rollout) -> Prompt:
    images = tuple(dialog.images)
    pictures = tuple(open_image(inside(benchmark.images, name)) for name in images)
    *before, last = dialog.rounds
    return as_prompt(images, pictures, [*before, Round(last.question, "")])


def _replies(answer: Answerer, prompts: Sequence[Prompt]) -> list[str]:
    replies = dict(answer(prompts))
    for reply in replies.values():
        if isinstance(reply, Failure):
            raise DataError(f"a kept answer cannot be asked for again: {reply.reason}")
    return [tidy(str(replies[n])) for n in range(len(prompts))]


def _short(text: str) -> str:
    text = tidy(text)
    return repr(text if len(text) < 60 else f"{text[:57]}...")
