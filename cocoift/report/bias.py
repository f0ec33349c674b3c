"""What notebook 06 shows: answers gathered from everywhere, and what their lengths say."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cocoift.evaluation.answers import (
    COLUMNS,
    AnswerFile,
    dataset_answers,
    file_answers,
    rollout_answers,
)
from cocoift.evaluation.benchmarks import Benchmark, Question, read_benchmark
from cocoift.evaluation.effects import change, effect_table
from cocoift.evaluation.lengths import collapse_intervals
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
) -> pd.DataFrame:
    """Return all answers in one table: rollouts of each benchmark, datasets, answer files.

    `rollouts` are the files that notebook 05 lists; others may lie beside them.  A further column
    `origin` names the benchmark, the dataset or the file.  What is not there is left out; of a
    dataset about `wanted` answers are taken.  `files` are below `raw`.
    """
    parts = []
    for benchmark in benchmarks:
        found = sorted(path for path in rollouts if path.parent.name == benchmark.name)
        parts.append(rollout_answers(found).assign(origin=benchmark.name))
    for name, path in datasets.items():
        if path.is_file():
            parts.append(dataset_answers(path, name=name, wanted=wanted).assign(origin=path.name))
    for entry in files:
        path = raw / entry.file
        asked = _questions(entry, raw)
        own = file_answers(path, model=entry.model, questions=asked)
        parts.append(own.assign(origin=path.name))
    parts = [part for part in parts if len(part)]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=[*COLUMNS, "words", "free", "origin"])
    )


def _questions(entry: AnswerFile, raw: Path) -> list[Question]:
    if not (entry.questions and entry.format):
        return []
    return read_benchmark(raw / entry.questions, entry.format)


def with_tokens(answers: pd.DataFrame, count: Callable[[str], int]) -> pd.DataFrame:
    """Return the answers with their tokens; every distinct answer is counted once."""
    tokens = {text: count(text) for text in set(answers.answer)}
    return answers.assign(tokens=answers.answer.map(tokens))


def over_seeds(answers: pd.DataFrame, by: Sequence[str], *, resamples: int) -> pd.DataFrame:
    """Return `collapse_intervals` per seed and over all seeds together (`all`)."""
    every = answers.assign(seed="all")
    alone = answers[answers.seed != ""]
    both = pd.concat([alone, every], ignore_index=True)
    return collapse_intervals(both, list(by), resamples=resamples)


def answers_read(answers: pd.DataFrame) -> pd.DataFrame:
    """Return how many answers, protocols and seeds were read, by origin and model."""
    counts = {"protocols": ("protocol", "nunique"), "seeds": ("seed", "nunique")}
    groups = answers.groupby(["origin", "model"], sort=False)
    table = groups.agg(answers=("words", "size"), **counts).reset_index()
    return table.sort_values("origin", kind="stable")


def open_rounds(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return the collapse in open rounds for `intervals.interval_plot`."""
    own = rounds.dropna(subset="collapse_rate")
    names = "round " + own["round"].astype(str)
    return own.assign(setting=names, metric="collapse", value=own.collapse_rate)


def wide_kinds(kinds: pd.DataFrame, protocols: Sequence[str]) -> pd.DataFrame:
    """Return `by_kind` with the collapse rates of the protocols side by side."""
    index = ["kind", "value", "model"]
    wide = kinds.pivot_table(index=index, columns="protocol", values="collapse_rate", sort=False)
    return wide.reset_index()[[*index, *protocols]]


def evaluated(answers: pd.DataFrame) -> pd.DataFrame:
    """Return the answers to the benchmarks' own questions, without opening rounds or training."""
    return answers[answers["last"].astype(bool)]


def by_kind(answers: pd.DataFrame, benchmark: Benchmark, *, resamples: int) -> pd.DataFrame:
    """Return length and collapse by capability and by wording of a benchmark's questions.

    Columns: kind (`capability`, `wording`), value, model, protocol, then as `collapse_intervals`.
    A question counts under every capability it lists.
    """
    asked = {question.id: question for question in benchmark.questions}
    own = answers[(answers.origin == benchmark.name) & answers.question_id.isin(asked)]
    parts = []
    for kind, values in (
        ("capability", {name: asked[name].capabilities for name in asked}),
        ("wording", {name: (asked[name].wording,) for name in asked if asked[name].wording}),
    ):
        spread = own.assign(kind=kind, value=own.question_id.map(values)).explode("value")
        parts.append(spread.dropna(subset="value"))
    table = pd.concat(parts, ignore_index=True)
    by = ["kind", "value", "model", "protocol"]
    return collapse_intervals(table, by, resamples=resamples)


def collapse_changes(answers: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Return what the short round adds to each model's collapse, paired (`effects.effect_table`).

    `answers` are those to a benchmark's own questions; only questions that state no form count.
    """
    free = answers[answers.free].assign(score=float("nan"))
    metric = Metric(COLLAPSE, dict.fromkeys(free.question_id, 1.0), of="collapsed")
    models = list(dict.fromkeys(free.model))
    return effect_table(free, [metric], list(map(change, models)), resamples=resamples)
