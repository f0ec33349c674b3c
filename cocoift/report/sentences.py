"""Sentences that tables decide: the finding, and the answers of notebooks 05 and 06."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.effects import (
    ASKED_ALONE,
    INSTRUCTED_AFTER,
    INSTRUCTED_ALONE,
    LAYOUT,
    change,
    describe,
    rows_of,
    sign,
)
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, AFTER_LONG, ALONE
from cocoift.evaluation.score import COLLAPSE

_BETTER = {1: "better than", -1: "worse than", 0: "not clearly different from"}


def conclusion(effects: pd.DataFrame, metric: str) -> str:
    """Say what one short round does to both tuned models and how they compare in single round.

    `effects` is `effect_table` of one benchmark, `metric` its headline.  Empty where one of the
    two models is missing.
    """
    layout, alone = (rows_of(effects, one.name, metric) for one in (LAYOUT, ASKED_ALONE))
    if layout.empty:
        both = len(rows_of(effects, LAYOUT.name, COLLAPSE))
        none = (
            "No question has a score under both protocols: what the short round costs is unknown."
        )
        return none if both else ""
    effect = describe(layout)
    text = {
        -1: "One short-answer round costs the model tuned on the LLaVA-style mixture more than the "
        "one tuned on the same annotations in merged conversations (difference of the changes "
        f"{effect}): layout decides.",
        1: "One short-answer round costs the model tuned on the merged mixture more, the opposite "
        f"of the paper (difference of the changes {effect}).",
        0: "No clear difference between the changes of the two tuned models "
        f"({effect}): whether layout decides stays open.",
    }[sign(layout)]
    text = (
        f"{text} In single round, the merged mixture is {_BETTER[sign(alone)]} the LLaVA-style one "
        f"({describe(alone)})."
    )
    alone, after = (
        rows_of(effects, one.name, metric) for one in (INSTRUCTED_ALONE, INSTRUCTED_AFTER)
    )
    if alone.empty or after.empty:
        return text
    return (
        f"{text} The instructed mixture is, in single round, {_BETTER[sign(alone)]} the "
        f"LLaVA-style one ({describe(alone)}) and, after the short-answer round, "
        f"{_BETTER[sign(after)]} the merged one ({describe(after)})."
    )


def adherence_sentence(scores: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Say how often each model is brief when asked to be, and in full when it is not asked.

    `scores` are of the benchmark `adherence.NAME`.  Empty where nothing was held out.
    """
    value = scores[scores.seed == "all"].set_index(["model", "metric", "protocol"]).value
    kinds = {ADHERENCE: "brief when asked in", COLLAPSE: "in full when not in"}
    parts = []
    for name in labels:
        told = []
        for metric, kind in kinds.items():
            keys = [(name, metric, one) for one in (ALONE, AFTER, AFTER_LONG)]
            found = [value[key] for key in keys if key in value]
            shares = [100 - share if metric == COLLAPSE else share for share in found]
            if shares:
                told.append(f"{kind} {' / '.join(f'{share:.0f}' for share in shares)} %")
        if told:
            parts.append(f"{labels[name]}: {', '.join(told)}")
    when = "single-round / after a short-answer round / after a long one"
    return f"On held-out images, {when}: {'; '.join(parts)}." if parts else ""


def changes_sentence(
    effects: pd.DataFrame, models: Sequence[str], labels: Mapping[str, str]
) -> str:
    """Say which scores the short round is shown to change, by benchmark and model."""
    lines = []
    for benchmark, own in effects.groupby("benchmark", sort=False):
        for model in models:
            rows = own[(own.contrast == change(model).name) & (own.metric != COLLAPSE)]
            by: dict[int, list[str]] = {}
            for metric, part in rows.groupby("metric", sort=False):
                by.setdefault(sign(part), []).append(metric)
            verbs = {-1: "loses", 1: "gains"}
            shown = [f"{verb} in {', '.join(by[key])}" for key, verb in verbs.items() if key in by]
            none = "not measured" if rows.empty else "no change"
            lines.append(f"- {benchmark}, {labels[model]}: {' and '.join(shown) or none}")
    return "Shown by interval and by every seed:\n\n" + "\n".join(lines)


def evaluation_answer(
    scores: pd.DataFrame, effects: pd.DataFrame, *, metric: str, labels: Mapping[str, str]
) -> str:
    """Return what each model scored and lost on one benchmark, and what follows from it.

    `scores` are of that benchmark, all seeds together, `effects` is `effect_table` of it;
    `metric` is its headline.  Answers without a score have a collapse rate all the same.
    """
    value = scores.set_index(["model", "metric", "protocol"]).value
    parts = []
    for name in labels:
        told = [
            f"{what} {value[name, one, ALONE]:.0f} → {value[name, one, AFTER]:.0f}{unit} "
            f"({describe(rows)})"
            for one, what, unit in ((metric, "score", ""), (COLLAPSE, "collapsed answers", " %"))
            if len(rows := rows_of(effects, change(name).name, one))
        ]
        if told:
            scored = len(rows_of(effects, change(name).name, metric))
            parts.append(f"{labels[name]}: {'' if scored else 'no score, '}{', '.join(told)}")
    if not parts:
        return "no model answered both in single round and after the short-answer round."
    return f"{'; '.join(parts)}. {conclusion(effects, metric)}".strip()


def finding(
    scores: pd.DataFrame, effects: pd.DataFrame, *, labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the study's finding on its first benchmark: conclusion, sentence, table.

    `scores` and `effects` are `scores.csv` and `effects.csv` of notebook 05.  `None` where they
    hold no model under both protocols.
    """
    first = scores.benchmark.iloc[0]
    own = scores[(scores.benchmark == first) & (scores.seed.astype(str) == "all")]
    metric = next((name for name in own.metric.unique()[::-1] if name != COLLAPSE), "")
    held = scores[(scores.metric == ADHERENCE) & (scores.seed.astype(str) == "all")]
    value = pd.concat([own, held]).set_index(["model", "metric", "protocol"]).value
    effects = effects[effects.benchmark == first]
    rows = []
    for name in labels:
        changes = rows_of(effects, change(name).name, metric or COLLAPSE)
        if changes.empty:
            continue
        shown = {
            metric: ("score", ""),
            COLLAPSE: ("collapsed", " %"),
            ADHERENCE: ("compliance", " %"),
        }
        cells = {
            f"{what}, {when}": f"{value[name, one, protocol]:.0f}{unit}"
            for one, (what, unit) in shown.items()
            for protocol, when in ((ALONE, "single-round"), (AFTER, "after"))
            if (name, one, protocol) in value
        }
        effect = describe(changes, unit="")
        changed = f"change of {'the score' if metric else 'collapse'}"
        rows.append({"tuned on": labels[name], **cells, changed: effect})
    if not rows:
        return None
    sentence = (
        f"Single-round and after one short-answer round: {int(own.n.max()):,} answers per model "
        f"and protocol on {first} (judge: {', '.join(sorted(set(own.judge)))}); change with 95 % "
        f"interval over images. Collapsed: {SHORT_WORDS} words or fewer to an open question. "
        "Compliance: as short when a held-out question asks for that."
    )
    return {"conclusion": conclusion(effects, metric), "sentence": sentence, "table": rows}


def bias_answer(
    lengths: pd.DataFrame,
    changes: pd.DataFrame,
    taught: pd.DataFrame,
    shifts: pd.DataFrame,
    faithful: pd.DataFrame,
    *,
    labels: Mapping[str, str],
) -> str:
    """Return the answer of notebook 06, a line per table; empty tables are passed over.

    `lengths` has protocol, model, median_words and collapse_rate of the benchmark's questions;
    `changes` is `bias.collapse_changes`, `taught` `merge.after_short_table`, `shifts`
    `probe.margin_table`, `faithful` `faithfulness_table` per model and protocol.
    """
    lines = [_bias(lengths, changes, labels), _alone(lengths, labels), _origin(taught, labels)]
    lines += [_mechanism(shifts, labels), _price(lengths, faithful, labels)]
    return "\n".join(f"- {line}" for line in lines if line) or "There was nothing to compare."


def _cells(table: pd.DataFrame, column: str) -> dict[tuple[str, str], Any]:
    return table.set_index(["model", "protocol"])[column].to_dict()


def _bias(lengths: pd.DataFrame, changes: pd.DataFrame, labels: Mapping[str, str]) -> str:
    rates, medians = _cells(lengths, "collapse_rate"), _cells(lengths, "median_words")
    both = [name for name in labels if {(name, ALONE), (name, AFTER)} <= rates.keys()]
    if not both:
        return ""
    numbers = "; ".join(
        f"{labels[n]} {medians[n, ALONE]:.0f} → {medians[n, AFTER]:.0f} words, "
        f"{rates[n, ALONE]:.0f} → {rates[n, AFTER]:.0f} % collapsed"
        for n in both
    )
    rises = [labels[n] for n in both if sign(rows_of(changes, change(n).name, COLLAPSE)) > 0]
    found = f"one is shown for: {', '.join(rises)}" if rises else "there is no clear one"
    return (
        "**Is there a length bias?** Medians and collapse, single round → multi-round: "
        f"{numbers}. By the paired change of collapse, {found}."
    )


def _alone(lengths: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Say how long the answers of models are that were asked in single round only."""
    rates, medians = _cells(lengths, "collapse_rate"), _cells(lengths, "median_words")
    found = [
        f"{labels[name]} {median:.0f} words"
        + ("" if pd.isna(rates[name, ALONE]) else f", {rates[name, ALONE]:.0f} % collapsed")
        for (name, protocol), median in medians.items()
        if protocol == ALONE and (name, AFTER) not in medians
    ]
    if not found:
        return ""
    return f"**How long are answers without a round before?** Single-round: {'; '.join(found)}."


def _origin(taught: pd.DataFrame, labels: Mapping[str, str]) -> str:
    if taught.empty:
        return ""
    rows = taught[taught.context == "after a short answer"].set_index("mixture")
    shares = "; ".join(
        f"{labels.get(name, name)}: {rows.short_share[name]:.0%} of the answers that follow a "
        f"short one are short, and {rows.prompt_share[name]:.0%} of their questions ask for a form"
        if name in rows.index
        else f"{labels.get(name, name)}: no answer follows a short one"
        for name in taught.mixture.unique()
    )
    return f"**Where does it come from?** In training, by mixture: {shares}."


def _mechanism(shifts: pd.DataFrame, labels: Mapping[str, str]) -> str:
    if shifts.empty:
        return ""
    rows = shifts[shifts.measure == "shift"].set_index("model")
    moves = ", ".join(
        f"{labels.get(name, name)} {row.value:+.1f} nats ({row.low:+.1f} to {row.high:+.1f})"
        for name, row in rows.iterrows()
    )
    return (
        "**How does it work?** The short round shifts the margin of the short answer's first token "
        f"over the full one's by: {moves}."
    )


def _price(lengths: pd.DataFrame, faithful: pd.DataFrame, labels: Mapping[str, str]) -> str:
    rates, both = _cells(lengths, "collapse_rate"), ("mix", "merged")
    if not {(name, AFTER) for name in both} <= rates.keys():
        return ""
    after, alone = ([rates.get((name, one)) for name in both] for one in (AFTER, ALONE))
    text = (
        f"**Does the merge remove it, and at what price?** Multi-round collapse is {after[0]:.0f} "
        f"% with the {labels['mix']} and {after[1]:.0f} % with the {labels['merged']}."
    )
    if None not in alone:
        text += f" In single round it is {alone[0]:.0f} and {alone[1]:.0f} %."
    if len(faithful):
        shares = _cells(faithful, "absent_share")
        shown = [n for n in both if pd.notna(shares.get((n, AFTER)))]
        named = ", ".join(f"{labels[n]} {shares[n, AFTER]:.0f} %" for n in shown)
        text += f" Mentions in multi-round of what the image does not show: {named or 'none'}."
    return text + f" (Collapse: an answer of {SHORT_WORDS} words or fewer.)"
