"""The tables of notebook 05: scores beside the paper's, rounds, wordings, dialogs that changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import yaml

from cocoift.core.files import DataError
from cocoift.core.frames import stacked
from cocoift.evaluation.adherence import NAME, adherence_metrics
from cocoift.evaluation.effects import (
    COLUMNS,
    Contrast,
    change,
    corrected,
    effect_table,
    headline_family,
    versus,
)
from cocoift.evaluation.judging import OfflineJudge, verdict_table
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.reference_judge import BY_DESIGN
from cocoift.evaluation.rollout import Rollout, Run
from cocoift.evaluation.score import (
    CLOSED_COLLAPSE,
    COLLAPSE,
    SCORE_COLUMNS,
    Metric,
    collapsed,
    per_answer,
    score_table,
)
from cocoift.report.merge import mixtures_rounds
from cocoift.report.tables import LABELS

# Each mixture with a prompt in every turn against the LLaVA-style one, and against the base model.
_COMPARED = tuple(
    versus(model, other, protocol)
    for other, protocol in (("mix", ALONE), ("base", AFTER))
    for model in ("merged", "instructed")
)


def protocol_table(protocols: Mapping[str, Protocol]) -> pd.DataFrame:
    """Return one row per protocol: its opening rounds, whose replies are kept, which image."""
    rows = []
    for protocol in protocols.values():
        kept = "the model's own" if None in (protocol.replies or (None,)) else "given ones"
        if protocol.joined:
            kept = "none, it is in the question's own turn"
        asked = " / ".join(protocol.opening)
        rows.append((protocol.name, asked or "none", kept if asked else "", protocol.picture))
    return pd.DataFrame(rows, columns=["protocol", "opening round", "reply kept", "image"])


def check_scored(verdicts: pd.DataFrame, *, most_unscored: float) -> pd.DataFrame:
    """Return what has no score, by reason: benchmark, reason, questions, answers.

    Raises `DataError` when more than `most_unscored` of a benchmark's answers lack one.  Questions
    that cannot be scored, whatever is answered (`BY_DESIGN`), do not count there.
    """
    for name, judged in verdicts[~verdicts.reason.isin(BY_DESIGN)].groupby("benchmark"):
        share = judged.score.isna().mean()
        if share > most_unscored:
            unscored = judged[judged.score.isna()]
            reason = unscored.reason.value_counts().index[0]
            # A dialog that broke off has no answer: nothing was given to the judge.
            unanswered = unscored[unscored.reason == reason].answer.isna().all()
            fix = (
                "see to the model and run again: only these questions are asked"
                if unanswered
                else "see to the judge and run again: only these answers are judged"
            )
            raise DataError(
                f"{name}: {share:.0%} of the verdicts are missing (at most {most_unscored:.0%}), "
                f"most often: {reason}; {fix} (or raise evaluation.most_unscored)"
            )
    missing = verdicts[verdicts.score.isna()].groupby(["benchmark", "reason"])
    counted = missing.agg(questions=("question_id", "nunique"), answers=("question_id", "size"))
    return counted.reset_index()


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


def all_scores(
    verdicts: pd.DataFrame, metrics: Mapping[str, Sequence[Metric]], *, judge: str, resamples: int
) -> pd.DataFrame:
    """Return `score.score_table` of every benchmark in one table, with benchmark and judge."""
    parts = []
    for name, of_benchmark in metrics.items():
        judged = verdicts[verdicts.benchmark == name]
        table = score_table(judged, of_benchmark, resamples=resamples)
        parts.append(table.assign(benchmark=name, judge=judge))
    first = ["benchmark", "model", "seed", "protocol", "metric"]
    rest = [name for name in (*SCORE_COLUMNS, "judge") if name not in first]
    return stacked(parts, [*first, *rest])


def adherence_scores(runs: Sequence[Run], *, resamples: int) -> pd.DataFrame:
    """Return `score.score_table` of the held-out questions; empty where there are none."""
    if not runs:
        return pd.DataFrame(columns=[*SCORE_COLUMNS, "benchmark", "judge"])
    questions = runs[0].benchmark.questions
    counted = verdict_table(runs, OfflineJudge())
    table = score_table(counted, adherence_metrics(questions), resamples=resamples)
    return table.assign(benchmark=NAME, judge="none: words are counted")


def adherence_effects(
    runs: Sequence[Run], contrasts: Sequence[Contrast], *, resamples: int
) -> pd.DataFrame:
    """Return `effects.effect_table` of the held-out questions; empty where there are none."""
    if not runs:
        return pd.DataFrame(columns=["benchmark", *COLUMNS])
    counted = verdict_table(runs, OfflineJudge())
    metrics = adherence_metrics(runs[0].benchmark.questions)
    table = effect_table(counted, metrics, contrasts, resamples=resamples)
    return table.assign(benchmark=NAME)[["benchmark", *COLUMNS]]


def all_effects(
    verdicts: pd.DataFrame,
    metrics: Mapping[str, Sequence[Metric]],
    contrasts: Sequence[Contrast],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return `effects.effect_table` of every benchmark in one table.

    The headline contrasts are those of the first one.
    """
    parts: list[pd.DataFrame] = []
    for name, of_benchmark in metrics.items():
        judged = verdicts[verdicts.benchmark == name]
        table = effect_table(judged, of_benchmark, contrasts, resamples=resamples)
        table = table if parts else corrected(table, headline_family())
        parts.append(table.assign(benchmark=name))
    return stacked(parts, ["benchmark", *COLUMNS])


def changes_of(effects: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Return what the short round changes in each model's scores, for `figures.interval_plot`.

    Without rows where no question has a score.
    """
    named = {change(name).name: name for name in models}
    rows = effects[effects.contrast.isin(named)]
    rows = rows[~rows.metric.isin([COLLAPSE, CLOSED_COLLAPSE])]
    models_of = rows.contrast.map(named)
    return rows.assign(model=models_of, setting=rows.metric, value=rows.difference, metric="change")


def sanity_sentence(checks: pd.DataFrame) -> str:
    """Say whether the models pass the sanity checks, and which fail."""
    if checks.empty:
        return "No sanity checks: no local model is evaluated, or nothing was merged to hold out."
    failed = checks[~checks.passed.astype(bool)]
    if failed.empty:
        return f"All {len(checks)} sanity checks pass."
    named = "; ".join(
        dict.fromkeys(
            f"{LABELS.get(row.model, row.model)}: {row.gate}" for row in failed.itertuples()
        )
    )
    return (
        f"{len(failed)} of {len(checks)} sanity checks fail ({named}): read what follows with care."
    )


def wide_table(
    scores: pd.DataFrame, protocols: Sequence[str], labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return scores in the paper's layout: a row per model and protocol, `value [low, high]`."""
    rows = scores[(scores.seed == "all") & scores.protocol.isin(protocols)]
    cells = [
        "" if pd.isna(v) else f"{v:.1f} [{a:.1f}, {b:.1f}]"
        for v, a, b in zip(rows.value, rows.low, rows.high, strict=True)
    ]
    wide = rows.assign(cell=cells, model=rows.model.map(labels)).pivot_table(
        index=["model", "protocol"], columns="metric", values="cell", aggfunc="first", sort=False
    )
    return wide.rename_axis(columns=None).reset_index()


def rounds_table(runs: Sequence[Run], protocol: str) -> pd.DataFrame:
    """Return how long each model's replies are round by round under a protocol, all seeds together.

    Columns: model, round (from 1), question (the last round: that of the benchmark), median_words,
    short (share of replies of three words or fewer).  An opening round counts once per image.
    """
    rows: list[tuple[str, int, str, int]] = []
    for run in (run for run in runs if run.protocol == protocol):
        found = {}
        for dialog in (dialog for dialog in run.rollouts if not dialog.failure):
            last = len(dialog.rounds)
            for number, played in enumerate(dialog.rounds, 1):
                key = dialog.question_id if number == last else dialog.images[0]
                asked = "the benchmark's" if number == last else played.question
                found[number, key] = (run.model, number, asked, len(played.answer.split()))
        rows += found.values()
    table = pd.DataFrame(rows, columns=["model", "round", "question", "words"])
    groups = table.groupby(["model", "round", "question"], sort=False).words
    lengths = groups.agg(median_words="median", short=lambda words: (words <= SHORT_WORDS).mean())
    return lengths.reset_index()


def wording_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return score and collapse by model, wording and protocol, a row per model and wording.

    Collapse is that of open questions, beside it the share of closed ones answered as briefly.
    """
    worded = verdicts[verdicts.wording != ""]
    short = collapsed(worded.words)
    worded = worded.assign(
        **{COLLAPSE: short.mask(worded.closed), CLOSED_COLLAPSE: short.where(worded.closed)}
    )
    means = worded.groupby(["model", "wording", "protocol"], sort=False)
    table = means[["score", COLLAPSE, CLOSED_COLLAPSE]].mean().unstack("protocol")
    table = table.dropna(axis="columns", how="all")
    table.columns = [f"{metric}, {protocol}" for metric, protocol in table.columns]
    return table.reset_index()


def wording_levels(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return how each training answers each wording: a row per wording, model, seed and protocol.

    Columns: wording, model, seed, protocol, short (answers of three words or fewer, percent),
    score (percent), closed (questions to which a short answer is right, percent), n (answers).
    No rows where questions have no wordings.
    """
    questions = verdicts.drop_duplicates("question_id").set_index("question_id")
    answers = per_answer(verdicts)
    answers = answers.join(questions[["wording", "closed"]], on="question_id")
    by = ["wording", "model", "seed", "protocol"]
    groups = answers[answers.wording != ""].groupby(by, sort=False)
    table = groups.agg(
        short=("collapsed", "mean"),
        score=("score", "mean"),
        closed=("closed", "mean"),
        n=("image", "size"),
    )
    shares = ["short", "score", "closed"]
    return table.assign(**{name: 100 * table[name] for name in shares}).reset_index()


def wording_effects(
    verdicts: pd.DataFrame, metric: Metric, *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return how models differ in a metric within each wording: `effect_table` and `wording`.

    Merged and instructed are compared with the LLaVA-style mixture in single round, and with the
    base model after the short round.  Empty where questions have no wordings.
    """
    parts = [
        effect_table(asked, [metric], _COMPARED, resamples=resamples).assign(wording=wording)
        for wording, asked in verdicts[verdicts.wording != ""].groupby("wording")
    ]
    return stacked(parts, [*COLUMNS, "wording"])


def changed_most(
    runs: Sequence[Run], verdicts: pd.DataFrame, *, model: str, count: int
) -> list[tuple[str, dict[str, Rollout]]]:
    """Return the dialogs of a model whose score fell most from single round to multi-round.

    One per image, of the first benchmark and seed: question id, rollouts by protocol.  None where
    no score fell.
    """
    first = next(run for run in runs if run.model == model)
    judged = verdicts[(verdicts.model == model) & (verdicts.seed == first.seed)]
    judged = judged[judged.benchmark == first.benchmark.name]
    means = judged.groupby(["protocol", "question_id"], sort=False).score.mean()
    fall = (means[ALONE] - means[AFTER]).dropna().sort_values(ascending=False, kind="stable")
    fall = fall[fall > 0]
    found = {
        run.protocol: {r.question_id: r for r in run.rollouts}
        for run in runs
        if (run.model, run.seed, run.benchmark) == (model, first.seed, first.benchmark)
    }
    chosen: dict[str, tuple[str, dict[str, Rollout]]] = {}
    for name in fall.index:
        pair = {"single round": found[ALONE][name], "multi-round": found[AFTER][name]}
        chosen.setdefault(pair["single round"].images[0], (name, pair))
    return list(chosen.values())[:count]


def unasked_table(
    folder: Path, mixtures: Sequence[str], *, titles: Mapping[str, str]
) -> pd.DataFrame:
    """Return where a mixture teaches short answers without asking for them.

    Columns: mixture, rounds without a format prompt, of those short (three words or fewer), of
    those short the share that comes from the first source, and which source that is.  Empty
    where a mixture is missing.
    """
    if not all((folder / f"{name}.parquet").is_file() for name in mixtures):
        return pd.DataFrame()
    rounds = mixtures_rounds(folder, mixtures)
    free = rounds[~rounds.has_prompt]
    rows = []
    for mixture, unasked in free.groupby("mixture", sort=False):
        short = unasked[unasked.words <= SHORT_WORDS]
        opening = unasked[unasked["round"] == 0]
        first = short.source.mode().iloc[0] if len(short) else ""
        rows.append(
            {
                "mixture": mixture,
                "rounds without a format prompt": len(unasked),
                "short among them": len(short) / max(1, len(unasked)),
                "short among first rounds": (opening.words <= SHORT_WORDS).mean(),
                "most of the short ones from": titles.get(first, first),
                "their share": float((short.source == first).mean()) if len(short) else 0.0,
            }
        )
    return pd.DataFrame(rows)
