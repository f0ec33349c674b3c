"""The answer of notebook 06, which its tables decide."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from cocoift.evaluation.effects import change, rows_of, sign
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE


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
