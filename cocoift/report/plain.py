"""A run's finding in plain words, and a dialog that shows it: for the index and README."""

from itertools import product

import pandas as pd

from cocoift.evaluation.effects import change, rows_of, sign
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE, OPEN_SCORE, TOTALS

_CALLED = {"mix": "the LLaVA-style model", "merged": "the merged model"}
_COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def bullets(scores: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """Return the finding on a run's first benchmark in three sentences, without statistics.

    `scores` and `effects` are `scores.csv` and `effects.csv`.  That a model loses or gains is said
    only where the effect is shown.  None where one of the two tuned models has no score.
    """
    first = scores[scores.benchmark == next(iter(scores.benchmark), "")]
    effects = effects[effects.benchmark == next(iter(scores.benchmark), "")]
    metric = next((name for name in first.metric.unique() if name in TOTALS), "")
    whole = first.seed.astype(str) == "all"
    level = first[whole].set_index(["model", "metric", "protocol"]).value
    if any((name, metric, when) not in level for name in _CALLED for when in (ALONE, AFTER)):
        return []
    # Runs of earlier versions did not tell open from closed questions.
    asked = "open questions" if OPEN_SCORE in set(first.metric) else "questions"
    found = []
    for name, called in _CALLED.items():
        alone, after = (level[name, metric, when] for when in (ALONE, AFTER))
        unclear = f"goes from {alone:.0f} to {after:.0f} points (no change is shown)"
        move = {
            -1: f"loses {alone - after:.0f} of {alone:.0f} points",
            1: f"gains {after - alone:.0f} points on {alone:.0f}",
            0: unclear.replace(f"goes from {alone:.0f} to {alone:.0f}", f"stays at {alone:.0f}"),
        }[sign(rows_of(effects, change(name).name, metric))]
        short = ""
        if (name, COLLAPSE, ALONE) in level and (name, COLLAPSE, AFTER) in level:
            before, rate = (level[name, COLLAPSE, when] for when in (ALONE, AFTER))
            short = f" and answers {rate:.0f} % of the {asked} in three words or fewer"
            short += f" (asked alone: {before:.0f} %)"
        found.append(f"After one short answer, {called} {move}{short}.")
    alone = [f"{called} has {level[name, metric, ALONE]:.0f}" for name, called in _CALLED.items()]
    untuned = ""
    if ("base", metric, ALONE) in level:
        untuned = f", the base model before tuning {level['base', metric, ALONE]:.0f}"
    count = first[(first.model == "mix") & ~whole].seed.nunique()
    from_ = f"the mean of {_COUNTS[count] if count < len(_COUNTS) else count} trainings"
    every = from_ if count > 1 else "that of one training"
    found += _dialogs(scores)
    return [*found, f"Asked alone, {' and '.join(alone)} points{untuned}; each number is {every}."]


def _dialogs(scores: pd.DataFrame) -> list[str]:
    """Say how the models do where a question needs the round before it; nothing if not asked."""
    rows = scores[(scores.benchmark == "dialogs") & (scores.seed.astype(str) == "all")]
    rows = rows[rows.metric.isin(TOTALS) & (rows.protocol == ALONE)]
    level = rows.set_index("model").value
    called = {"base": "the base model"} | _CALLED
    parts = [
        f"{name} {level[model]:.0f} points" for model, name in called.items() if model in level
    ]
    if len(parts) < 2:
        return []
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}"
    return [f"A second question that needs the first earns {listed}."]


def example(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the answers to one open question that show the finding best; no rows where none does.

    `verdicts` are those of `verdicts.csv.gz`.  Of the first benchmark and seed: a question that the
    LLaVA-style model answers in three words or fewer after the short-answer round alone, and the
    merged model never; of those with its most frequent short answer the first with the best scores.
    Columns: those of `verdicts`, a row per model (`mix`, `merged`) and protocol (single-round,
    after).
    """
    rows = verdicts[verdicts.model.isin(_CALLED) & verdicts.protocol.isin([ALONE, AFTER])]
    rows = rows.drop_duplicates(["benchmark", "seed", "model", "protocol", "question_id"])
    rows = rows[(rows.benchmark == next(iter(rows.benchmark), "")) & (rows.seed == rows.seed.min())]
    # Runs of earlier versions told by the wording alone which questions are closed.
    closed = rows.get("closed", rows.wording == "short sources")
    rows = rows[~closed.astype(bool)]
    wide = rows.pivot_table(
        index="question_id", columns=["model", "protocol"], values=["words", "score"], sort=False
    )
    pairs, collapsed = list(product(_CALLED, (ALONE, AFTER))), ("mix", AFTER)
    if wide.empty or not set(pairs) <= set(wide["words"]):
        return verdicts.head(0)
    short, full = wide["words"] <= SHORT_WORDS, [pair for pair in pairs if pair != collapsed]
    fits = short[collapsed] & ~short[full].any(axis=1)
    if not fits.any():
        return verdicts.head(0)
    of_mix = rows[(rows.model == collapsed[0]) & (rows.protocol == collapsed[1])]
    said = of_mix.set_index("question_id").answer.reindex(fits[fits].index)
    usual = said.index[said == said.mode()[0]]
    # A word that is at least part of the answer shows what is lost better than a wrong one.
    best = wide["score"][full].sum(axis=1) + (wide["score"][collapsed] > 0)
    return rows[rows.question_id == best[usual].idxmax()]
