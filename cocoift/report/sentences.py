"""The answer of notebook 06, which its tables decide."""

from collections.abc import Mapping

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
    lines = []
    compared = lengths[lengths.protocol.isin([ALONE, AFTER])].groupby("model", sort=False)
    if parts := [_lengths(labels.get(str(name), str(name)), rows) for name, rows in compared]:
        lines.append(
            "**How long are the answers?** Median words, and answers to open questions of "
            f"{SHORT_WORDS} words or fewer (collapsed), single-round → after one short-answer "
            f"round: {'; '.join(parts)}."
        )
    if len(changes):
        rises = [label for name, label in labels.items()
                 if sign(rows_of(changes, change(name).name, COLLAPSE)) > 0]  # fmt: skip
        found = f"collapse clearly rises with: {', '.join(rises)}" if rises else "no clear rise"
        lines.append(f"**Is there a length bias?** By the paired change, {found}.")
    if len(taught):
        after = taught[taught.context == "after a short answer"].set_index("mixture")
        shares = "; ".join(
            f"{labels.get(name, name)}: {after.short_share[name]:.0%} of the answers that follow a "
            f"short one are short, and {after.prompt_share[name]:.0%} of their questions ask for a "
            "format"
            if name in after.index
            else f"{labels.get(name, name)}: no answer follows a short one"
            for name in taught.mixture.unique()
        )
        lines.append(f"**Where does it come from?** In training, by mixture: {shares}.")
    if len(shifts):
        moves = ", ".join(
            f"{labels.get(row.model, row.model)} {row.value:+.1f} nats "
            f"({row.low:+.1f} to {row.high:+.1f})"
            for row in shifts[shifts.measure == "shift"].itertuples()
        )
        lines.append(
            "**How does it work?** The short-answer round shifts the margin of the short answer's "
            f"first token over the full one's by: {moves}."
        )
    if len(faithful):
        mentioned = (faithful.protocol == AFTER) & faithful.absent_share.notna()
        faithful = faithful[mentioned]
    if len(faithful):
        named = ", ".join(f"{labels.get(row.model, row.model)} {row.absent_share:.0f} %"
                          for row in faithful.itertuples())  # fmt: skip
        lines.append(
            "**At what price?** Mentions, after the short-answer round, of what the image does not "
            f"show: {named}."
        )
    return "\n".join(f"- {line}" for line in lines) or "There was nothing to compare."


def _lengths(label: str, rows: pd.DataFrame) -> str:
    """Return a model's median words and collapse under the protocols that it was asked under."""
    rows = rows.set_index("protocol").reindex([ALONE, AFTER])
    words = " → ".join(f"{median:.0f}" for median in rows.median_words.dropna())
    rates = " → ".join(f"{rate:.0f}" for rate in rows.collapse_rate.dropna())
    return f"{label} {words} words" + (f", {rates} % collapsed" if rates else "")
