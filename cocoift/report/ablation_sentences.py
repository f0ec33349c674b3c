"""A sentence for each ablation of notebook 07, decided by its tables."""

import pandas as pd

from cocoift.evaluation import sanity
from cocoift.evaluation.effects import describe, sign
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE
from cocoift.report.ablations import CHANGE, OBEYS


def _of(table: pd.DataFrame, protocol: str, metric: str) -> pd.DataFrame:
    """Return value, low and high by setting, in the order of settings, all seeds together."""
    rows = table[(table.seed == "all") & (table.protocol == protocol) & (table.metric == metric)]
    return rows.set_index("setting")[["value", "low", "high"]]


def _percent(row: pd.Series) -> str:
    return f"{row.value:.1f} % [{row.low:.1f}, {row.high:.1f}]"


def dose_sentence(table: pd.DataFrame, ends: pd.DataFrame, metric: str) -> str:
    """Say how collapse and the change of the score depend on the share of images as in `mix`.

    `ends` is the effect on collapse of the last dose against the first; a single dose has none.
    """
    collapse, score = _of(table, AFTER, COLLAPSE), _of(table, CHANGE, metric).value
    first, last = collapse.iloc[0], collapse.iloc[-1]
    if len(collapse) == 1:
        return (
            f"With {collapse.index[0]} of the images laid out as in LLaVA's, multi-round "
            f"collapse is {_percent(first)}, the change of the score {score.iloc[0]:+.1f} points. "
            "One dose has none to be compared with."
        )
    text = (
        f"With {collapse.index[0]} to {collapse.index[-1]} of the images laid out in LLaVA's "
        f"style, multi-round collapse goes from {_percent(first)} to {_percent(last)}, the "
        f"change of the score from {score.iloc[0]:+.1f} to {score.iloc[-1]:+.1f} points. "
        f"The ends differ by {describe(ends)}."
    )
    if sign(ends) <= 0:
        return f"{text} There is no clear dose-response."
    half = collapse.index[collapse.value >= (first.value + last.value) / 2][0]
    return f"{text} Half of the rise is reached at {half}."


def factor_sentence(collapse: pd.DataFrame) -> str:
    """Say which factor of the 2 x 2 matters more for collapse, or that neither does.

    `collapse` holds the effects of `ablations.factor_contrasts` on the collapse rate.
    """
    by = dict(iter(collapse.groupby("contrast")))
    text = (
        "To the rise of collapse from single round to multi-round, the prompt standing in the "
        f"first turn only adds {describe(by['prompts'])}, keeping the sources apart "
        f"{describe(by['sources'])}; their interaction is {describe(by['interaction'])}."
    )
    if sign(by["interaction"]) > 0:
        text += " Together they do more than the sum of each alone."
    if not (sign(by["prompts"]) or sign(by["sources"])):
        return f"{text} Neither effect is clear."
    more = {
        1: "More of it comes from where the prompt stands.",
        -1: "More of it comes from keeping the sources apart.",
        0: "Which of the two matters more is not clear.",
    }
    return f"{text} {more[sign(by['prompts - sources'])]}"


def answers_sentence(table: pd.DataFrame, effect: pd.DataFrame, metric: str) -> str:
    """Say whether full sentences as training answers prevent the collapse.

    `effect` is that of sentences against phrases on collapse.
    """
    collapse, score = _of(table, AFTER, COLLAPSE), _of(table, CHANGE, metric).value
    text = (
        "With the same questions of GQA answered in a phrase, multi-round collapse is "
        f"{_percent(collapse.loc['short'])} and the score changes by {score['short']:+.1f} "
        f"points; "
        f"answered in a sentence, {_percent(collapse.loc['sentence'])} and "
        f"{score['sentence']:+.1f}. The difference is {describe(effect)}."
    )
    verdict = {
        -1: "Short answers, not the layout alone, make the collapse.",
        1: "Full sentences do not prevent it.",
        0: "That is no clear difference.",
    }
    return f"{text} {verdict[sign(effect)]}"


def sources_sentence(table: pd.DataFrame, collapse: pd.DataFrame, score: pd.DataFrame) -> str:
    """Say which groups of sources matter for collapse and score: those shown to change either.

    `collapse` and `score` are the effects of leaving a group out, after the short round.
    """
    alone = _of(table, ALONE, COLLAPSE).value
    parts = []
    for name, rows in collapse.groupby("contrast", sort=False):
        own = score[score.contrast == name]
        if sign(rows) or sign(own):
            parts.append(
                f"**{name}** collapse {describe(rows)}, score {describe(own)}, single-round "
                f"collapse {alone['all sources']:.0f} → {alone[name]:.0f} %"
            )
    rest = len(set(collapse.contrast)) - len(parts)
    text = f"After the short round, against all sources: {'; '.join(parts) or 'no group matters'}."
    return f"{text} For {rest} of the groups neither effect is clear."


def images_sentence(table: pd.DataFrame, effects: pd.DataFrame, metric: str) -> str:
    """Say from how many images on a model is brief when asked to be and scores as with all.

    `effects` holds those on the score of every number of images against all.
    """
    scores, obeys = _of(table, AFTER, metric), _of(table, AFTER, OBEYS).value
    numbers = "; ".join(
        f"{name}: {row.value:.1f} and {obeys[name]:.0f} %" for name, row in scores.iterrows()
    )
    text = (
        "Multi-round score, and share of opening rounds answered as briefly as they ask, by number "
        f"of images, one pass each: {numbers}."
    )
    least = 100 * sanity.LEAST_OPENING
    lower = {name for name, rows in effects.groupby("contrast") if sign(rows) < 0}
    enough = scores[~scores.index.isin(lower) & (obeys >= least)]
    if enough.empty:
        return f"{text} None is both as good as all images and brief when asked."
    return (
        f"{text} The smallest number that is brief when asked (at least {least:.0f} %) and does "
        f"not clearly score lower than all images is {enough.index[0]}."
    )


def openings_sentence(table: pd.DataFrame) -> str:
    """Say what each kind of opening does to each model, after one round and after the most."""
    rows = table[(table.seed == "all") & (table.metric == COLLAPSE)]
    parts = []
    for model, own in rows.groupby("model", sort=False):
        by = own.set_index("setting")
        # The first and the last setting of each kind; `none` is a kind of its own.
        ends: dict[str, list[str]] = {}
        for name in by.index:
            ends.setdefault(name.split(" x ")[0], [name, name])[1] = name
        names = dict.fromkeys(name for both in ends.values() for name in both)
        parts.append(f"**{model}** " + ", ".join(f"{n} {_percent(by.loc[n])}" for n in names))
    return f"Collapse by kind and number of opening rounds: {'; '.join(parts)}."


def positions_sentence(table: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Say whether it matters for each model where among long rounds the short one stands.

    `table` holds the three positions, `effects` is `ablations.position_effects` on collapse.
    """
    rows = table[(table.seed == "all") & (table.metric == COLLAPSE)]
    parts = []
    for model, own in rows.groupby("model", sort=False):
        numbers = " / ".join(f"{value:.0f}" for value in own.value)
        found = effects[effects.contrast == model]
        more = {1: "clearly more", -1: "clearly less", 0: "no clear difference"}
        parts.append(
            f"**{model}** {numbers} % (last against first {more[sign(found)]}: {describe(found)})"
        )
    return (
        "Collapse with the short round first / second / third of three opening rounds: "
        f"{'; '.join(parts)}."
    )
