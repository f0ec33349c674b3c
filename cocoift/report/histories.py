"""What in the history triggers a collapse: factorial, openings, one turn, dialogs; three tests."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations, product
from math import prod

import pandas as pd

from cocoift.core.frames import stacked
from cocoift.evaluation.ablations import AskedVariant
from cocoift.evaluation.adherence import CLOSED as PROMPTED
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.effects import (
    COLUMNS,
    LAYOUT,
    Contrast,
    change,
    describe,
    effect_table,
    overall,
    rows_of,
    sign,
    versus,
    with_openings,
)
from cocoift.evaluation.judging import OfflineJudge, verdict_table
from cocoift.evaluation.protocols import AFTER, ALONE, CONCAT, DROPPED, FACTORS, Protocol
from cocoift.evaluation.rollout import Run
from cocoift.evaluation.score import (
    COLLAPSE,
    OPEN_SCORE,
    SCORE_COLUMNS,
    Metric,
    collapsed,
    score_table,
)
from cocoift.report.tables import LABELS

# How the factors' second levels are called, against the first.
_LEVELS = {
    "prompt": "prompt instead of none",
    "reply": "short instead of long reply",
    "position": "last instead of first of three",
}
# The level of each factor by protocol.
CELLS = {
    f"factor_{'_'.join(levels)}": dict(zip(FACTORS, levels, strict=True))
    for levels in product(*FACTORS.values())
}
# The three kinds of test, of the first of which there are two: what is asked, and when.
HELD_OUT = "short answers asked for, alone (held out)"
CLOSED_ALONE = "closed questions, alone"
OPEN_ALONE = "open questions, alone"
OPEN_AFTER = "open questions, after a short round"


def price(models: Sequence[str]) -> list[Contrast]:
    """Return what each tuned model pays, asked alone, against the base model."""
    return [versus(name, "base", ALONE) for name in models if name != "base"]


def factor_contrasts(model: str) -> list[Contrast]:
    """Return the effects of the factorial's three factors on a model, then of each two together.

    A main effect is the mean of the four cells on the factor's second level less that of the other
    four; of two factors, half the difference of the one's effect between the other's levels.
    """
    chosen = [(name,) for name in FACTORS] + list(combinations(FACTORS, 2))
    found = []
    for factors in chosen:
        signs = {
            protocol: prod(1 if levels[name] == FACTORS[name][1] else -1 for name in factors)
            for protocol, levels in CELLS.items()
        }
        called = " and ".join(_LEVELS[name] for name in factors)
        weights = {(model, protocol): side / 4 for protocol, side in signs.items()}
        found.append(Contrast(f"{called}, {model}", weights))
    return found


def factor_cells(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the factorial's rows of `scores.csv` in words, for `figures.interval_plot`.

    A column `setting` names prompt, reply and position of each cell, in their order.
    """
    words = {
        protocol: f"{'prompt' if cell['prompt'] == 'prompt' else 'no prompt'}, {cell['reply']} "
        f"reply, {cell['position']}"
        for protocol, cell in CELLS.items()
    }
    rows = scores[scores.protocol.isin(words)]
    return rows.assign(setting=rows.protocol.map(words))


def factor_sentence(effects: pd.DataFrame, models: Sequence[str]) -> str:
    """Say, a line a model, what each factor does to collapse, the largest first.

    And whether a short reply does more in the last place or in the first: what came just before,
    or what set the register.
    """
    lines = []
    for model in models:
        named = {name: f"{words}, {model}" for name, words in _LEVELS.items()}
        rows = {name: rows_of(effects, of, COLLAPSE) for name, of in named.items()}
        wholes = {name: overall(part) for name, part in rows.items()}
        sizes = {name: abs(whole.difference) for name, whole in wholes.items() if whole is not None}
        if not sizes:
            continue
        order = sorted(sizes, key=lambda name: -sizes[name])
        parts = [
            f"{_LEVELS[name]} {describe(rows[name])}{'' if sign(rows[name]) else ' (not shown)'}"
            for name in order
        ]
        together = f"{_LEVELS['reply']} and {_LEVELS['position']}, {model}"
        interaction = rows_of(effects, together, COLLAPSE)
        places = {
            1: "more in the last place than in the first",
            -1: "more in the first place than in the last",
            0: "not shown to do more in either place",
        }
        lines.append(
            f"- **{LABELS.get(model, model)}**, collapse, from the largest effect down: "
            f"{'; '.join(parts)}. A short reply: {places[sign(interaction)]} (half the difference "
            f"{describe(interaction)})."
        )
    return "\n".join(lines)


def opening_effects(
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    openings: Mapping[str, Protocol],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return what a short round costs, by opening and over all as a random factor.

    `effect_table` of each model's change and of their difference (`LAYOUT`), with a column
    `opening`: its question, or `all`.  Intervals of `all` are over trainings, openings and images.
    """
    asked = {name: of for name, of in openings.items() if name in set(verdicts.protocol)}
    if not asked:
        return pd.DataFrame(columns=["opening", *COLUMNS])
    contrasts = [*map(change, dict.fromkeys(verdicts.model)), LAYOUT]
    parts = []
    for chosen in ([*asked], *([name] for name in asked)):
        answers = with_openings(verdicts, chosen)
        table = effect_table(answers, metrics, contrasts, resamples=resamples)
        called = "all" if chosen == [*asked] else asked[chosen[0]].opening[0]
        parts.append(table.assign(opening=called))
    return stacked(parts, ["opening", *COLUMNS])


def opening_replies(verdicts: pd.DataFrame, openings: Mapping[str, Protocol]) -> pd.DataFrame:
    """Return the share of each model's replies to each opening of three words or fewer.

    One row per opening, a column per model.  A reply counts once per training and image.
    """
    played = verdicts[verdicts.protocol.isin(openings) & (verdicts.opening_reply != "")]
    once = played.drop_duplicates(["model", "seed", "protocol", "image"])
    short = collapsed(once.opening_reply.str.split().str.len())
    shares = once.assign(short=short).groupby(["protocol", "model"], sort=False).short.mean()
    table = shares.unstack("model").rename(index={n: of.opening[0] for n, of in openings.items()})
    return table.rename_axis("opening", axis=0).rename_axis(None, axis=1).reset_index()


def history_contrasts(models: Sequence[str]) -> list[Contrast]:
    """Return, for each model, one turn against none and against two, and dialogs cut short."""
    return [
        contrast
        for model in models
        for contrast in (
            change(model, CONCAT),
            Contrast(
                f"two turns instead of one, {model}", {(model, AFTER): 1, (model, CONCAT): -1}
            ),
            change(model, DROPPED),
        )
    ]


def dialog_variants(cures: Sequence[AskedVariant]) -> list[AskedVariant]:
    """Return mitigations as dialogs are asked: where the history is dropped, nothing is before."""
    return [
        replace(cure, alone=DROPPED, after=DROPPED) if cure.after == ALONE else cure
        for cure in cures
    ]


def three_tests(
    verdicts: pd.DataFrame,
    questions: Sequence[Question],
    held_out: Sequence[Run],
    *,
    resamples: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores on three kinds of test, and how the merges differ from the baseline there.

    The tests are short-answer questions alone (of `held_out`, with their format prompt, and those
    of the benchmark), open questions alone, and open ones after the short round.  First
    `score_table`, with the test as `setting`; then `effect_table` of merged and instructed less
    LLaVA-style, likewise.
    """
    closed = Metric("closed", {q.id: 1.0 for q in questions if q.is_closed})
    open_ = Metric(OPEN_SCORE, {q.id: 1.0 for q in questions if not q.is_closed})
    tests = [
        (CLOSED_ALONE, verdicts, closed, ALONE),
        (OPEN_ALONE, verdicts, open_, ALONE),
        (OPEN_AFTER, verdicts, open_, AFTER),
    ]
    if held_out:
        asked = held_out[0].benchmark.questions
        prompted = Metric("closed", {q.id: 1.0 for q in asked if q.wording == PROMPTED})
        tests.insert(0, (HELD_OUT, verdict_table(held_out, OfflineJudge()), prompted, ALONE))
    levels, effects = [], []
    for setting, judged, metric, protocol in tests:
        rows = judged[judged.protocol == protocol]
        contrasts = [versus(name, "mix", protocol) for name in ("merged", "instructed")]
        levels.append(score_table(rows, [metric], resamples=resamples).assign(setting=setting))
        found = effect_table(rows, [metric], contrasts, resamples=resamples)
        effects.append(found.assign(setting=setting))
    return stacked(levels, [*SCORE_COLUMNS, "setting"]), stacked(effects, [*COLUMNS, "setting"])


def tests_plot(levels: pd.DataFrame, effects: pd.DataFrame) -> pd.DataFrame:
    """Return levels and differences of `three_tests` as one table for `figures.interval_plot`."""
    gained = effects.assign(
        model=effects.contrast.str.split(" - ").str[0], value=effects.difference, metric="gain"
    )
    shown = ["model", "setting", "seed", "metric", "value", "low", "high"]
    return pd.concat([levels.assign(metric="score")[shown], gained[shown]], ignore_index=True)


def tests_sentence(effects: pd.DataFrame) -> str:
    """Say on which tests the merged mixture is shown to differ from the LLaVA-style one."""
    merged = effects[effects.contrast.str.startswith("merged")]
    found = {1: "better", -1: "worse", 0: "not shown to differ"}
    parts = [
        f"{setting}: {found[sign(rows)]} ({describe(rows)})"
        for setting, rows in merged.groupby("setting", sort=False)
    ]
    return f"Merged against LLaVA-style: {'; '.join(parts)}." if parts else ""


def openings_plot(effects: pd.DataFrame) -> pd.DataFrame:
    """Return each model's changes of `opening_effects` for `figures.interval_plot`, a row per seed.

    Openings are called by their first sentence.
    """
    rows = effects[effects.contrast.str.fullmatch(r"change of [^,]+")]
    rows = rows[~rows.contrast.str.contains(" - ")]
    first = {text: re.split(r"(?<=[.?]) ", text)[0] for text in rows.opening.unique()}
    first["all"] = "mean over openings"
    return rows.assign(
        model=rows.contrast.str.removeprefix("change of "),
        setting=rows.opening.map(first),
        value=rows.difference,
    )
