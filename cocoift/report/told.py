"""Results in words: effects, the study's finding, the answer of notebook 06."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.choice import KNOWN_UNSAID, TRUTH_FIRST, chance
from cocoift.evaluation.effects import (
    ASKED_ALONE,
    HEADLINE,
    INSTRUCTED_AFTER,
    INSTRUCTED_ALONE,
    LAYOUT,
    change,
    describe,
    overall,
    rows_of,
    sign,
    trainings_of,
)
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE, OTHER_PICTURE
from cocoift.evaluation.score import COLLAPSE, TOTALS
from cocoift.report.tables import in_words, read_saved

NOT_MEASURED = "*This run did not measure it.*"
_VERDICTS = {-1: "lower", 1: "higher", 0: "no difference shown in", None: "not measured:"}
_BETTER = {1: "better than", -1: "worse than", 0: "not shown to differ from"}


def told(effects: pd.DataFrame, *, brief: bool = False) -> str:
    """Return paired differences as a list in Markdown: a line per contrast, with every metric.

    `effects` has the columns of `effects.effect_table`.  A metric is higher or lower where that is
    shown (`effects.sign`); `brief` only names what is not shown to differ.  Where not
    `brief`, a last line says what the intervals are over (`basis`).  Without rows, `NOT_MEASURED`.
    """
    lines, unclear = [], []
    for contrast, rows in effects.groupby("contrast", sort=False):
        found: dict[int | None, list[str]] = {}
        for metric, part in rows.groupby("metric", sort=False):
            measured = overall(part) is not None
            effect = f" ({describe(part)})" if measured else ""
            verdict = sign(part) if measured else None
            found.setdefault(verdict, []).append(f"{in_words(str(metric))}{effect}")
        parts = [f"{_VERDICTS[key]} {', '.join(found[key])}" for key in _VERDICTS if key in found]
        if brief and found.keys() == {0}:
            unclear.append(in_words(str(contrast)))
        else:
            lines.append(f"- **{in_words(str(contrast))}**: {'; '.join(parts)}.")
    if unclear:
        lines.append(f"- No difference shown: {'; '.join(unclear)}.")
    if not lines:
        return NOT_MEASURED
    return "\n".join(lines if brief else [*lines, "", f"*{basis(effects)}*"])


def basis(effects: pd.DataFrame) -> str:
    """Say what effects rest on: named before the run or exploratory, and over how many trainings.

    Tables of earlier versions know no families: all their effects are exploratory.
    """
    named = effects.family.eq(HEADLINE) if "family" in effects else pd.Series([False])
    which = "Headline contrasts, corrected for each other (Holm)"
    if not named.all():
        which = "Contrasts with a Holm p are headline ones, the others exploratory"
    if not named.any():
        which = "Exploratory"
    several = "opening" in effects and (effects.opening == "all").any()
    over = "openings and images" if several else "images"
    few, many = trainings_of(effects)
    if many == 1:
        return f"{which}; one training, 95 % intervals over {over}."
    number, link = str(many) if few == many else f"{few} to {many}", "," if several else " and"
    return f"{which}; means over {number} trainings, 95 % intervals over trainings{link} {over}."


def conclusion(effects: pd.DataFrame, metric: str) -> str:
    """Say what one short round does to both tuned models and how they compare in single round.

    `effects` is `effect_table` of one benchmark, `metric` its headline.  Empty where one of the
    two models is missing.
    """
    layout, other = (rows_of(effects, of.name, metric) for of in (LAYOUT, ASKED_ALONE))
    if layout.empty:
        both = len(rows_of(effects, LAYOUT.name, COLLAPSE))
        none = (
            "No question has a score under both protocols: what the short round costs is unknown."
        )
        return none if both else ""
    effect = describe(layout)
    text = {
        -1: "One short-answer round costs the model tuned on the LLaVA-style mixture more than the "
        f"one tuned on the same annotations in merged conversations: {effect} is the difference of "
        "the changes.",
        1: "One short-answer round costs the model tuned on the merged mixture more, the opposite "
        f"of the paper: {effect} is the difference of the changes.",
        0: "That one short-answer round costs either of the two tuned models more is not shown: "
        f"{effect} is the difference of the changes.",
    }[sign(layout)]
    text = (
        f"{text} In single round, the merged mixture is {_BETTER[sign(other)]} the LLaVA-style one "
        f"({describe(other)})."
    )
    alone, after = (
        rows_of(effects, of.name, metric) for of in (INSTRUCTED_ALONE, INSTRUCTED_AFTER)
    )
    if not (alone.empty or after.empty):
        text = (
            f"{text} The instructed mixture is, in single round, {_BETTER[sign(alone)]} the "
            f"LLaVA-style one ({describe(alone)}) and, after the short-answer round, "
            f"{_BETTER[sign(after)]} the merged one ({describe(after)})."
        )
    return f"{text} {basis(pd.concat([layout, other, alone, after]))}"


def finding(
    scores: pd.DataFrame, effects: pd.DataFrame, *, labels: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the study's finding on its first benchmark: conclusion, sentence, table.

    `scores` and `effects` are `scores.csv` and `effects.csv` of notebook 05.  `None` where they
    hold no model under both protocols.
    """
    if scores.empty:
        return None
    first = scores.benchmark.iloc[0]
    whole = scores[(scores.benchmark == first) & (scores.seed.astype(str) == "all")]
    metric = next((name for name in whole.metric.unique() if name in TOTALS), "")
    held = scores[(scores.metric == ADHERENCE) & (scores.seed.astype(str) == "all")]
    value = pd.concat([whole, held]).set_index(["model", "metric", "protocol"]).value
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
            f"{what}, {when}": f"{value[name, column, protocol]:.0f}{unit}"
            for column, (what, unit) in shown.items()
            for protocol, when in ((ALONE, "single-round"), (AFTER, "after"))
            if (name, column, protocol) in value
        }
        effect = describe(changes, unit="")
        changed = f"change of {'the score' if metric else 'collapse'}"
        rows.append({"tuned on": labels[name], **cells, changed: effect})
    if not rows:
        return None
    paired = effects[effects.contrast.isin([change(name).name for name in labels])]
    paired = paired[paired.metric == (metric or COLLAPSE)]
    sentence = (
        f"Single-round and after one short-answer round: {int(whole.n.max()):,} answers per model "
        f"and protocol on {first} (judge: {', '.join(sorted(set(whole.judge)))}). {basis(paired)} "
        f"Collapsed: {SHORT_WORDS} words or fewer to an open question. Compliance: as short when a "
        "held-out question asks for that."
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
    known: str = "",
) -> str:
    """Return the answer of notebook 06, a line per table; empty tables are passed over.

    `lengths` has protocol, model, median_words and collapse_rate of the benchmark's questions;
    `changes` is `bias.collapse_changes`, `taught` `merge.after_short_table`, `shifts`
    `probe.margin_table`, `faithful` `faithfulness_table` per model and protocol, `known`
    is `choice_answer`.
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
        found = f"collapse rises with: {', '.join(rises)}" if rises else "no rise is shown"
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
    if known:
        lines.append(known)
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


def choice_answer(levels: pd.DataFrame, effects: pd.DataFrame, *, labels: Mapping[str, str]) -> str:
    """Say whether models rank the truth first after the short round, those that collapse too.

    `levels` is `choice.choice_table`, `effects` `choice.choice_effects`; empty without levels.
    """
    if levels.empty:
        return ""
    rows = levels.set_index(["metric", "model", "protocol"]).sort_index()
    first, parts = rows.loc[TRUTH_FIRST].value, []
    for name in levels.model.unique():
        shares = [f"{first[name, protocol]:.0f}" for protocol in (ALONE, AFTER)
                  if (name, protocol) in first]  # fmt: skip
        changed = describe(rows_of(effects, change(name).name, TRUTH_FIRST))
        parts.append(f"{labels.get(name, name)} {' → '.join(shares)} % ({changed})")
    other = first[first.index.get_level_values("protocol") == OTHER_PICTURE]
    ends = f"{other.min():.0f} to {other.max():.0f} %"
    control = f" With another image: {ends}." if len(other) else ""
    unsaid = [
        _unsaid(rows.loc[:, name, :], labels.get(name, name), chance(levels))
        for name in _silenced(effects, list(levels.model.unique()))
    ]
    return (
        "**Does a model still know what it no longer says?** The true sentence is the likeliest "
        f"(chance {chance(levels):.0f} %), single-round → after one short-answer round: "
        f"{'; '.join(parts)}.{control} {' '.join(unsaid) or 'None collapses.'} {basis(effects)}"
    )


def _silenced(effects: pd.DataFrame, models: list[str]) -> list[str]:
    """Return the models whose collapse is shown to rise, or else the one that has the most of it.

    None where no model collapses more often after the round.
    """
    rises = {name: rows_of(effects, change(name).name, COLLAPSE) for name in models}
    shown = [name for name, rows in rises.items() if sign(rows) > 0]
    most = {name: of.difference for name, rows in rises.items()
            if (of := overall(rows)) is not None and of.difference > 0}  # fmt: skip
    return shown or sorted(most, key=lambda name: -most[name])[:1]


def _unsaid(rows: pd.DataFrame, label: str, guessed: float) -> str:
    """Say how often a model ranks the truth first where its own answer collapsed.

    It knows more than it says where that is more than by chance and than with another image.
    `rows` are by metric and protocol.
    """
    said = rows.loc[KNOWN_UNSAID, AFTER]
    other = rows.value.get((TRUTH_FIRST, OTHER_PICTURE), guessed)
    more = said.low > max(guessed, other)
    return (
        f"{label} answers {rows.value[COLLAPSE, ALONE]:.0f} → {rows.value[COLLAPSE, AFTER]:.0f} % "
        f"of these questions in {SHORT_WORDS} words or fewer, and ranks the truth first in "
        f"{said.value:.0f} % [{said.low:.0f}, {said.high:.0f}] of the cases where it does: "
        + ("it knows more than it says." if more else "no more than guessing is shown.")
    )


def _lengths(label: str, rows: pd.DataFrame) -> str:
    """Return a model's median words and collapse under the protocols that it was asked under."""
    rows = rows.set_index("protocol").reindex([ALONE, AFTER])
    words = " → ".join(f"{median:.0f}" for median in rows.median_words.dropna())
    rates = " → ".join(f"{rate:.0f}" for rate in rows.collapse_rate.dropna())
    return f"{label} {words} words" + (f", {rates} % collapsed" if rates else "")


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a run left, by name; seeds are texts."""
    return {path.stem: read_saved(path) for path in sorted(folder.glob("*.csv"))}
