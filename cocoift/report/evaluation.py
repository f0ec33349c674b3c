"""What notebook 05 shows: trust in the judge, tables beside the paper's, dialogs that changed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from cocoift.core.files import DataError
from cocoift.evaluation import gates as held_out
from cocoift.evaluation import judge_api
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.effects import change, conclusion, describe, rows_of
from cocoift.evaluation.evaluate import Benchmark, Judge, Run
from cocoift.evaluation.judge_api import JudgeSettings
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import Rollout
from cocoift.evaluation.score import COLLAPSE, collapsed
from cocoift.report.merge import mixtures_rounds


def protocol_table(protocols: Mapping[str, Protocol]) -> pd.DataFrame:
    """Return one row per protocol: its opening rounds, whose replies are kept, which picture."""
    rows = []
    for protocol in protocols.values():
        kept = "a true one" if protocol.replies else "the model's own"
        asked = " / ".join(protocol.opening)
        rows.append((protocol.name, asked or "none", kept if asked else "", protocol.picture))
    return pd.DataFrame(rows, columns=["protocol", "opening round", "reply kept", "picture"])


def check_scored(verdicts: pd.DataFrame, *, most_unscored: float) -> pd.DataFrame:
    """Return how many answers have no score, by reason: benchmark, reason, answers.

    Raises `DataError` when their share in a benchmark exceeds `most_unscored`.
    """
    for name, own in verdicts.groupby("benchmark"):
        share = own.score.isna().mean()
        if share > most_unscored:
            reasons = own.reason[own.score.isna()].value_counts()
            raise DataError(
                f"{name}: {share:.0%} of the verdicts are missing (at most {most_unscored:.0%}), "
                f"most often: {reasons.index[0]}; mend the judge or raise most_unscored"
            )
    missing = verdicts[verdicts.score.isna()]
    counted = missing.groupby(["benchmark", "reason"]).size()
    return counted.rename("answers").reset_index()


def paper_table(path: Path, benchmark: str) -> pd.DataFrame:
    """Return the paper's results for a benchmark: model, protocol, one column per metric."""
    entry = yaml.safe_load(path.read_text(encoding="utf-8")).get(benchmark)
    if entry is None:
        return pd.DataFrame(columns=["model", "protocol"])
    rows = [
        {"model": row["model"], "protocol": row["protocol"]}
        | dict(zip(entry["metrics"], row["values"], strict=True))
        for row in entry["rows"]
    ]
    return pd.DataFrame(rows)


def wide_table(scores: pd.DataFrame, *, seed: str = "all") -> pd.DataFrame:
    """Return scores in the paper's layout: a row per model and protocol, `value [low, high]`."""
    own = scores[scores.seed == seed]
    told = own.assign(
        cell=[f"{v:.1f} [{a:.1f}, {b:.1f}]" for v, a, b in zip(own.value, own.low, own.high,
                                                               strict=True)]
    )  # fmt: skip
    wide = told.pivot_table(
        index=["model", "protocol"], columns="metric", values="cell", aggfunc="first", sort=False
    )
    return wide.rename_axis(columns=None).reset_index()


def read_trust(path: Path) -> tuple[list[Question], list[str], list[float]]:
    """Return the hand-labelled answers that judges are checked on: questions, answers, scores.

    Raises `DataError` when the file is damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        questions = [
            Question(id=str(n), images=("",), text=row["question"], answer=row["answer"])
            for n, row in enumerate(rows)
        ]
        return questions, [row["reply"] for row in rows], [float(row["score"]) for row in rows]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: {error}; restore it from the repository") from error


def trust_table(path: Path, benchmark: Benchmark, judge: Judge) -> pd.DataFrame:
    """Return each hand-labelled answer with its label and the judge's scores.

    Columns: question, answer, hand, judge (mean over repeats), spread (their deviation).
    """
    questions, replies, labels = read_trust(path)
    verdicts = judge(benchmark, questions, replies)
    scores = [pd.Series([one.score for one in found], dtype=float) for found in verdicts]
    return pd.DataFrame(
        {
            "question": [question.text for question in questions],
            "answer": replies,
            "hand": labels,
            "judge": [series.mean() for series in scores],
            "spread": [series.std(ddof=0) for series in scores],
        }
    )


def changed_most(
    runs: Sequence[Run], verdicts: pd.DataFrame, *, model: str, one: str, other: str, count: int
) -> list[tuple[str, Rollout, Rollout]]:
    """Return the dialogs of a model whose score fell most from protocol `one` to `other`.

    One per picture, of the first benchmark and seed: (question id, under `one`, under `other`).
    """
    first = next(run for run in runs if run.model == model)
    own = verdicts[(verdicts.model == model) & (verdicts.seed == first.seed)]
    own = own[own.benchmark == first.benchmark.name]
    means = own.groupby(["protocol", "question_id"], sort=False).score.mean()
    fall = (means[one] - means[other]).dropna().sort_values(ascending=False, kind="stable")
    found = {
        run.protocol: {r.question_id: r for r in run.rollouts}
        for run in runs
        if (run.model, run.seed, run.benchmark) == (model, first.seed, first.benchmark)
    }
    chosen: dict[str, tuple[str, Rollout, Rollout]] = {}
    for name in fall.index:
        pair = found[one][name], found[other][name]
        chosen.setdefault(pair[0].images[0], (name, *pair))
    return list(chosen.values())[:count]


def bill_of(run: Run, judges: Mapping[str, JudgeSettings], cache: Path) -> str:
    """Tell what judging a run will take at most: calls, tokens, cost."""
    own = judges[run.benchmark.kind].under(run.protocol)
    due = judge_api.bill(own, *run.answered(), cache)
    tokens = due.tokens_in + due.tokens_out
    return f"{due.calls:,} calls, about {tokens:,} tokens, cost {due.cost:.2f}"


def answer(
    scores: pd.DataFrame, effects: pd.DataFrame, *, metric: str, labels: Mapping[str, str]
) -> str:
    """Return what each model scored and lost on one benchmark, and what follows from it.

    `scores` are of that benchmark, all seeds together, `effects` is `effects.effect_table` of it;
    `metric` is its headline.
    """
    value = scores.set_index(["model", "metric", "protocol"]).value
    parts, caveats = [], []
    for name in labels:
        changes = rows_of(effects, change(name).name, metric)
        if changes.empty:
            continue
        told = {
            m: [value[name, m, p] for p in ("single_round", "multi_round")]
            for m in (metric, COLLAPSE)
        }
        parts.append(
            f"{labels[name]}: score {told[metric][0]:.0f} → {told[metric][1]:.0f} "
            f"({describe(changes)}), "
            f"collapsed answers {told[COLLAPSE][0]:.0f} → {told[COLLAPSE][1]:.0f} %"
        )
        alone = told[COLLAPSE][0] / 100
        if name in ("mix", "merged") and alone > held_out.COLLAPSE:
            caveats.append(
                f" Asked alone, the {labels[name]} already collapses in {alone:.0%} of these "
                "answers, so its difference tells less."
            )
    return f"{'; '.join(parts)}. {conclusion(effects, metric)}{''.join(caveats)}"


def finding(
    scores: pd.DataFrame, effects: pd.DataFrame, *, labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the study's finding on its first benchmark: conclusion, sentence, table.

    `scores` and `effects` are `scores.csv` and `effects.csv` of notebook 05.  `None` where they
    hold no model under both protocols.
    """
    first = scores.benchmark.iloc[0]
    own = scores[(scores.benchmark == first) & (scores.seed.astype(str) == "all")]
    metric = [name for name in own.metric.unique() if name != COLLAPSE][-1]
    value = own.set_index(["model", "metric", "protocol"]).value
    effects = effects[effects.benchmark == first]
    rows = []
    for name in labels:
        changes = rows_of(effects, change(name).name, metric)
        if changes.empty:
            continue
        cells = {
            f"{what}, {when}": f"{value[name, of, protocol]:.0f}{unit}"
            for of, what, unit in ((metric, "score", ""), (COLLAPSE, "collapsed", " %"))
            for protocol, when in (("single_round", "alone"), ("multi_round", "after"))
        }
        told = describe(changes, unit="")
        rows.append({"tuned on": labels[name], **cells, "change of the score": told})
    if not rows:
        return None
    judges = ", ".join(sorted(set(own.judge)))
    sentence = (
        f"Asked alone and after one short round, {int(own.n.max()):,} answers a model and "
        f"protocol on {first} (judge: {judges}); change with 95 % interval over pictures. "
        f"Collapsed: {SHORT_WORDS} words or fewer to an open question."
    )
    return {"conclusion": conclusion(effects, metric), "sentence": sentence, "table": rows}


def unasked_table(folder: Path, mixtures: Sequence[str]) -> pd.DataFrame:
    """Return where a mixture teaches short answers without asking for them.

    Columns: mixture, rounds without a format prompt, of those short (three words or fewer), of
    those short the share that comes from the first source, and which source that is.
    """
    rounds = mixtures_rounds(folder, mixtures)
    free = rounds[~rounds.has_prompt]
    rows = []
    for mixture, own in free.groupby("mixture", sort=False):
        short = own[own.words <= SHORT_WORDS]
        opening = own[own["round"] == 0]
        rows.append(
            {
                "mixture": mixture,
                "rounds without a format prompt": len(own),
                "short among them": len(short) / max(1, len(own)),
                "short among first rounds": (opening.words <= SHORT_WORDS).mean(),
                "most of the short ones from": short.source.mode().iloc[0] if len(short) else "",
                "their share": (short.source == short.source.mode().iloc[0]).mean()
                if len(short)
                else 0.0,
            }
        )
    return pd.DataFrame(rows)


def wording_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return score and collapse by model, wording and protocol, a row per model and wording."""
    worded = verdicts[verdicts.wording != ""]
    worded = worded.assign(collapse=collapsed(worded.words))
    means = worded.groupby(["model", "wording", "protocol"], sort=False)[["score", "collapse"]]
    table = means.mean().unstack("protocol")
    table.columns = [f"{metric}, {protocol}" for metric, protocol in table.columns]
    return table.reset_index()
