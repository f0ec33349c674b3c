"""What notebook 06 shows: answers gathered from everywhere, and what their lengths say."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cocoift.evaluation.answers import COLUMNS, dataset_answers, file_answers, rollout_answers
from cocoift.evaluation.benchmarks import Question, read_benchmark
from cocoift.evaluation.effects import change, effect_table, rows_of, sign
from cocoift.evaluation.evaluate import Benchmark
from cocoift.evaluation.faithfulness import instance_categories
from cocoift.evaluation.lengths import SHORT_WORDS, collapse_intervals
from cocoift.evaluation.score import COLLAPSE, Metric

TRAINING = "training"


def gather(
    benchmarks: Sequence[Benchmark],
    *,
    rollouts: Sequence[Path],
    datasets: Mapping[str, Path],
    files: Sequence[Mapping[str, str]],
    raw: Path,
    wanted: int = 50_000,
) -> pd.DataFrame:
    """Return all answers in one table: rollouts of each benchmark, datasets, answer files.

    `rollouts` are the files that notebook 05 lists; others may lie beside them.  A further column
    `origin` names the benchmark, the dataset or the file.  What is not there is left out; of a
    dataset about `wanted` answers are taken.  `files` are `{model, file, questions, format}` below
    `raw`; the last two may lack.
    """
    parts = []
    for benchmark in benchmarks:
        found = sorted(path for path in rollouts if path.parent.name == benchmark.name)
        parts.append(rollout_answers(found).assign(origin=benchmark.name))
    for name, path in datasets.items():
        if path.is_file():
            parts.append(dataset_answers(path, name=name, wanted=wanted).assign(origin=path.name))
    for entry in files:
        path = raw / entry["file"]
        asked = _questions(entry, raw)
        own = file_answers(path, model=entry.get("model", ""), questions=asked)
        parts.append(own.assign(origin=path.name))
    parts = [part for part in parts if len(part)]
    return (
        pd.concat(parts, ignore_index=True)
        if parts
        else pd.DataFrame(columns=[*COLUMNS, "words", "free", "origin"])
    )


def _questions(entry: Mapping[str, str], raw: Path) -> list[Question]:
    if "questions" not in entry:
        return []
    return read_benchmark(raw / entry["questions"], entry["format"])


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


def all_instances(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Return the categories of every picture of several COCO instances files, absent ones left out.

    Of a picture in several files the last one counts.
    """
    found: dict[str, set[str]] = {}
    for path in paths:
        if path.is_file():
            found |= instance_categories(path)
    return found


def answer(
    *,
    lengths: pd.DataFrame,
    changes: pd.DataFrame,
    taught: pd.DataFrame,
    shifts: pd.DataFrame,
    faithful: pd.DataFrame,
    labels: Mapping[str, str],
) -> str:
    """Return the answer of notebook 06 in four sentences, each said by its table.

    `lengths` has protocol, model, median_words and collapse_rate of the benchmark's questions,
    `changes` the effects of the short round on collapse (`collapse_changes`);
    `taught` is `merge_report.after_short_table`, `shifts` is `probe.margin_table`, `faithful` is
    `faithfulness.faithfulness_table` per model and protocol.  Empty tables are passed over.
    """
    parts = [_bias(lengths, changes, labels), _taught(taught, labels), _shift(shifts, labels)]
    parts.append(_price(lengths, faithful, labels))
    return "\n".join(f"- {part}" for part in parts if part) or "Nothing was there to compare."


def _cells(table: pd.DataFrame, column: str) -> dict[tuple[str, str], Any]:
    return table.set_index(["model", "protocol"])[column].to_dict()


def collapse_changes(answers: pd.DataFrame, *, resamples: int) -> pd.DataFrame:
    """Return what the short round adds to each model's collapse, paired (`effects.effect_table`).

    `answers` are those to a benchmark's own questions; only questions that state no form count.
    """
    free = answers[answers.free].assign(score=float("nan"))
    metric = Metric(COLLAPSE, dict.fromkeys(free.question_id, 1.0), of="collapsed")
    models = list(dict.fromkeys(free.model))
    return effect_table(free, [metric], list(map(change, models)), resamples=resamples)


def _bias(lengths: pd.DataFrame, changes: pd.DataFrame, labels: Mapping[str, str]) -> str:
    rates, medians = _cells(lengths, "collapse_rate"), _cells(lengths, "median_words")
    told, rises = [], []
    for name in (n for n in labels if (n, "multi_round") in rates and (n, "single_round") in rates):
        before, after = (name, "single_round"), (name, "multi_round")
        told.append(
            f"{labels[name]} {medians[before]:.0f} → {medians[after]:.0f} words, "
            f"{rates[before]:.0f} → {rates[after]:.0f} % collapsed"
        )
        if sign(rows_of(changes, change(name).name, COLLAPSE)) > 0:
            rises.append(labels[name])
    if not told:
        return ""
    found = f"there is one for the {' and the '.join(rises)}" if rises else "none is shown"
    return (
        f"**Is there a length bias?** By medians and collapse, single round → multi-round: "
        f"{'; '.join(told)}. By the paired change of collapse, {found}."
    )


def _taught(taught: pd.DataFrame, labels: Mapping[str, str]) -> str:
    if not len(taught):
        return ""
    rows = taught[taught.context == "after a short answer"].set_index("mixture")
    told = [
        f"{labels.get(name, name)}: {row.short_share:.0%} of the answers that follow a short one "
        f"are short, and {row.prompt_share:.0%} of their questions ask for a form"
        for name, row in rows.iterrows()
    ]
    return f"**Where does it come from?** In training, by mixture: {'; '.join(told)}."


def _shift(shifts: pd.DataFrame, labels: Mapping[str, str]) -> str:
    if not len(shifts):
        return ""
    rows = shifts[shifts.measure == "shift"].set_index("model")
    told = [
        f"{labels.get(name, name)} {row.value:+.1f} nats ({row.low:+.1f} to {row.high:+.1f})"
        for name, row in rows.iterrows()
    ]
    return (
        "**How does it work?** The short round shifts the margin of starting with the short answer "
        f"over the full one by: {', '.join(told)}."
    )


def _price(lengths: pd.DataFrame, faithful: pd.DataFrame, labels: Mapping[str, str]) -> str:
    rates = _cells(lengths, "collapse_rate")
    pair = [rates.get((name, "multi_round")) for name in ("mix", "merged")]
    if None in pair:
        return ""
    text = (
        f"**Does the merge remove it, and at what price?** Multi-round collapse is {pair[0]:.0f} % "
        f"with the {labels['mix']} and {pair[1]:.0f} % with the {labels['merged']}."
    )
    alone = [rates.get((name, "single_round")) for name in ("mix", "merged")]
    if None not in alone:
        text += f" In single round it is {alone[0]:.0f} and {alone[1]:.0f} %."
    if len(faithful):
        shares = _cells(faithful, "absent_share")
        told = [
            f"{labels[name]} {shares[name, 'multi_round']:.0f} %"
            for name in ("mix", "merged")
            if (name, "multi_round") in shares
        ]
        text += f" Categories named in multi-round that are not in the picture: {', '.join(told)}."
    return text + f" (Collapse: an answer of {SHORT_WORDS} words or fewer.)"
