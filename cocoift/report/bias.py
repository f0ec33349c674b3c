"""What notebook 06 shows: answers gathered from everywhere, and what their lengths say."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cocoift.core.frames import stacked, trainings
from cocoift.evaluation.answers import (
    AnswerFile,
    answer_table,
    dataset_answers,
    file_answers,
    rollout_answers,
    without_closed,
)
from cocoift.evaluation.benchmarks import Benchmark, Question, read_benchmark
from cocoift.evaluation.choice import KNOWN_UNSAID, TRUTH_FIRST, kinds_of
from cocoift.evaluation.effects import change, effect_table
from cocoift.evaluation.lengths import collapse_intervals, record_rounds
from cocoift.evaluation.score import COLLAPSE, Metric

TRAINING = "training"


def gather(
    benchmarks: Sequence[Benchmark],
    *,
    rollouts: Sequence[Path],
    datasets: Mapping[str, Path],
    files: Sequence[AnswerFile],
    raw: Path,
    wanted: int = 50_000,
) -> tuple[pd.DataFrame, list[str]]:
    """Return all answers in one table: rollouts of each benchmark, datasets, answer files.

    And what is not there or cannot be read, in sentences.  `rollouts` are the files that notebook
    05 lists; others may lie beside them.  A further column `origin` names the benchmark, the
    dataset's file or the answer file as the preset does.  Of a dataset about `wanted` answers are
    taken.  `files` are below `raw`; a model whose name is taken gets the file's beside it.
    """
    parts, notes = [], []
    for benchmark in benchmarks:
        found = sorted(path for path in rollouts if path.parent.name == benchmark.name)
        read = without_closed(rollout_answers(found), benchmark.questions)
        parts.append(read.assign(origin=benchmark.name))
    taken = {name for part in parts for name in part.model}
    for name, path in datasets.items():
        if path.is_file():
            read, note = dataset_answers(path, name=name, wanted=wanted)
            parts.append(read.assign(origin=path.name))
            notes.append(note)
    absent = [f"{name} ({path})" for name, path in datasets.items() if not path.is_file()]
    notes.append(f"not on disk: {', '.join(absent)}" if absent else "")
    for entry in files:
        asked = _questions(entry, raw)
        read, note = file_answers(raw / entry.file, model=entry.model, questions=asked)
        read = without_closed(read, asked)
        names = {name: f"{name} ({entry.file})" if name in taken else name for name in read.model}
        parts.append(read.assign(model=read.model.map(names), origin=entry.file))
        taken |= {*names.values()}
        notes.append(note)
    parts = [part for part in parts if len(part)]
    parts = parts or [answer_table([]).assign(origin="")]
    return pd.concat(parts, ignore_index=True), [*filter(None, notes)]


def training_rounds(datasets: Mapping[str, Path]) -> pd.DataFrame:
    """Return `record_rounds` of the datasets that are there, with a column `mixture`."""
    frames = [record_rounds(path).assign(mixture=name)
              for name, path in datasets.items() if path.is_file()]  # fmt: skip
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def _questions(entry: AnswerFile, raw: Path) -> list[Question]:
    if not (entry.questions and entry.format):
        return []
    return read_benchmark(raw / entry.questions, entry.format)


def over_seeds(answers: pd.DataFrame, by: Sequence[str], *, resamples: int) -> pd.DataFrame:
    """Return `collapse_intervals` per seed and over all seeds (`all`)."""
    answers = answers.assign(training=trainings(answers))
    every = answers.assign(seed="all")
    alone = answers[answers.seed != ""]
    both = pd.concat([alone, every], ignore_index=True)
    return collapse_intervals(both, list(by), resamples=resamples)


def by_kind(answers: pd.DataFrame, benchmark: Benchmark, *, resamples: int) -> pd.DataFrame:
    """Return length and collapse by what a benchmark says of its questions.

    Columns: kind (`capability`, `category`, `wording`), value, model, protocol, then as
    `collapse_intervals`.  A question counts under every capability it lists.  No rows where the
    benchmark says nothing of them.
    """
    asked = {question.id: question for question in benchmark.questions}
    answered = answers[(answers.origin == benchmark.name) & answers.question_id.isin(asked)]
    answered = answered.assign(training=trainings(answered))
    parts = []
    for kind, values in (
        ("capability", {name: asked[name].capabilities for name in asked}),
        ("category", {name: (asked[name].category,) for name in asked if asked[name].category}),
        ("wording", {name: (asked[name].wording,) for name in asked if asked[name].wording}),
    ):
        spread = answered.assign(kind=kind, value=answered.question_id.map(values)).explode("value")
        parts.append(spread.dropna(subset="value"))
    table = stacked(parts, [*answered, "kind", "value"])
    by = ["kind", "value", "model", "protocol"]
    return collapse_intervals(table, by, resamples=resamples)


def ranked(levels: pd.DataFrame) -> pd.DataFrame:
    """Return a row per model and protocol of `choice.choice_table`, a column per metric.

    The main one has its interval.
    """
    by, kinds = ["model", "protocol"], kinds_of(levels)
    wide = levels.pivot_table(index=by, columns="metric", values="value").reset_index()
    first = levels[levels.metric == TRUTH_FIRST]
    first = first[[*by, "value", "low", "high"]].rename(columns={"value": TRUTH_FIRST})
    rest = [*kinds, COLLAPSE, KNOWN_UNSAID]
    return first.merge(wide.reindex(columns=[*by, *rest]), on=by)


def collapse_changes(answers: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Return what the short round adds to each model's collapse, paired (`effects.effect_table`).

    `answers` are those to a benchmark's own questions; only questions that state no answer format
    count.
    """
    free = answers[answers.free].assign(score=float("nan"))
    metric = Metric(COLLAPSE, dict.fromkeys(free.question_id, 1.0), of="collapsed")
    models = list(dict.fromkeys(free.model))
    return effect_table(free, [metric], list(map(change, models)), resamples=resamples)
