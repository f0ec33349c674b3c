"""What the ablations say: one tidy table, and a sentence for each that its numbers decide."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cocoift.evaluation import gates as held_out
from cocoift.evaluation.ablations import Arm
from cocoift.evaluation.effects import AFTER, Contrast, change, describe, effect_table, sign, versus
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.score import COLLAPSE, Metric, score_table

COLUMNS = ("ablation", "setting", "model", "seed", "protocol", "metric", "value", "low", "high")
CHANGE = "difference"
# The share of opening rounds answered in three words or fewer, as they ask: a model that has not
# learnt that cannot collapse.
OBEYS = "short opening replies"


def arm_table(
    arms: Sequence[Arm], verdicts: pd.DataFrame, metrics: Sequence[Metric], *, resamples: int
) -> pd.DataFrame:
    """Return every arm's metrics per seed and over all (`all`), in `COLUMNS`.

    `protocol` is `single_round`, `multi_round`, or `difference`: multi-round minus single round,
    paired over questions.
    """
    models = list(dict.fromkeys(arm.variant.name for arm in arms))
    own = verdicts[verdicts.model.isin(models)]
    scores = score_table(own, metrics, resamples=resamples)
    named = {change(name).name: name for name in models}
    changes = effect_table(own, metrics, list(map(change, models)), resamples=resamples)
    changes = changes.assign(model=changes.contrast.map(named), protocol=CHANGE)
    changes = changes.rename(columns={"difference": "value"})
    both = pd.concat([scores, changes, _obedience(own, resamples)], ignore_index=True)
    parts = [
        both[both.model == arm.variant.name].assign(ablation=arm.ablation, setting=arm.setting)
        for arm in arms
    ]
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _obedience(verdicts: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Return how many of the opening rounds that ask for a short reply get one."""
    opened = verdicts[verdicts.protocol == AFTER].drop_duplicates(["model", "seed", "image"])
    words = opened.opening_reply.str.split().str.len()
    short = opened.assign(score=(words <= SHORT_WORDS).astype(float))
    metric = Metric(OBEYS, dict.fromkeys(short.question_id, 1.0))
    return score_table(short, [metric], resamples=resamples)


def opening_table(
    protocols: Mapping[str, str],
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return the metrics after each kind of opening, in `COLUMNS`; settings are named as given.

    `protocols` maps a protocol's name to how its opening is called.
    """
    scores = score_table(verdicts, metrics, resamples=resamples)
    named = scores.assign(ablation="openings", setting=scores.protocol.map(protocols))
    order = {name: number for number, name in enumerate(protocols)}
    return named.sort_values("protocol", key=lambda names: names.map(order), kind="stable")[
        list(COLUMNS)
    ].reset_index(drop=True)


def _of(table: pd.DataFrame, protocol: str, metric: str) -> pd.DataFrame:
    """Return value, low and high by setting, in the order of settings, all seeds together."""
    rows = table[(table.seed == "all") & (table.protocol == protocol) & (table.metric == metric)]
    return rows.set_index("setting")[["value", "low", "high"]]


def _told(row: pd.Series, unit: str) -> str:
    return f"{row.value:.1f}{unit} [{row.low:.1f}, {row.high:.1f}]"


def dose_sentence(table: pd.DataFrame, ends: pd.DataFrame, metric: str) -> str:
    """Say how collapse and the change of the score go with the share of images as in `mix`.

    `ends` is the effect on collapse of the last dose against the first.
    """
    collapse, change = _of(table, AFTER, COLLAPSE), _of(table, CHANGE, metric)
    first, last = collapse.iloc[0], collapse.iloc[-1]
    half = (first.value + last.value) / 2
    text = (
        f"With the share of images laid out as in the baseline going from {collapse.index[0]} to "
        f"{collapse.index[-1]}, multi-round collapse goes from {_told(first, ' %')} to "
        f"{_told(last, ' %')}, the change of the score from {change.value.iloc[0]:+.1f} to "
        f"{change.value.iloc[-1]:+.1f} points."
    )
    text += f" The ends differ by {describe(ends)}."
    if sign(ends) <= 0:
        return f"{text} No dose-response is shown."
    passed = collapse.index[collapse.value >= half][0]
    return f"{text} Half of the rise is reached at {passed}."


def compared(
    arms: Sequence[Arm], verdicts: pd.DataFrame, metrics: Sequence[Metric], *, resamples: int
) -> pd.DataFrame:
    """Return the paired differences after the short round that the sentences rest on.

    Per ablation: the last dose minus none, sentences minus phrases, every number of images minus
    all of them; and what each factor of the 2 x 2 adds to multi-round minus single round
    (`factor_contrasts`).  Columns: ablation, then those of `effects.effect_table`.
    """
    by: dict[str, dict[str, str]] = {}
    for arm in arms:
        by.setdefault(arm.ablation, {})[arm.setting] = arm.variant.name
    wanted: dict[str, list[Contrast]] = {}
    if dose := list(by.get("dose", {}).values()):
        wanted["dose"] = [_after("last - first", dose[-1], dose[0])]
    if {"short", "sentence"} <= set(answers := by.get("answers", {})):
        wanted["answers"] = [_after("sentence - short", answers["sentence"], answers["short"])]
    if "all" in (images := by.get("images", {})):
        wanted["images"] = [
            _after(setting, name, images["all"])
            for setting, name in images.items()
            if setting != "all"
        ]
    if "factors" in by:
        wanted["factors"] = factor_contrasts()
    parts = [
        effect_table(verdicts, metrics, contrasts, resamples=resamples).assign(ablation=name)
        for name, contrasts in wanted.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _after(name: str, one: str, other: str) -> Contrast:
    return Contrast(name, versus(one, other, AFTER).weights)


def factor_contrasts() -> list[Contrast]:
    """Return what each factor of the 2 x 2 adds to multi-round minus single round.

    The effect of `prompts` is first turn minus every turn, averaged over both ways to lay out the
    sources; that of `sources` is apart minus mixed; `interaction` is how much more the two do
    together than one after the other; `prompts - sources` compares the two.
    """
    cells = ("mix", "first-mixed", "every-apart", "merged")
    signs = {
        "prompts": (0.5, 0.5, -0.5, -0.5),
        "sources": (0.5, -0.5, 0.5, -0.5),
        "interaction": (1.0, -1.0, -1.0, 1.0),
        "prompts - sources": (0.0, 1.0, -1.0, 0.0),
    }
    return [
        Contrast(
            name,
            {
                key: weight * sign
                for model, weight in zip(cells, weights, strict=True)
                for key, sign in change(model).weights.items()
            },
        )
        for name, weights in signs.items()
    ]


def factor_sentence(collapse: pd.DataFrame) -> str:
    """Say which factor of the 2 x 2 matters more for collapse, or that neither does.

    `collapse` holds the effects of `factor_contrasts` on the collapse rate.
    """
    by = dict(iter(collapse.groupby("contrast")))
    text = (
        "On the rise of collapse from single round to multi-round, the prompt standing in the "
        f"first turn only adds {describe(by['prompts'])}, keeping the sources apart "
        f"{describe(by['sources'])}, their interaction is {describe(by['interaction'])}."
    )
    if sign(by["interaction"]) > 0:
        text += " Together they do more than the sum of each alone."
    if not (sign(by["prompts"]) or sign(by["sources"])):
        return f"{text} Neither effect is shown."
    apart = sign(by["prompts - sources"])
    if not apart:
        return f"{text} Which of the two matters more is not shown."
    winner = "where the prompt stands" if apart > 0 else "keeping the sources apart"
    return f"{text} More of it comes from {winner}."


def answer_sentence(table: pd.DataFrame, apart: pd.DataFrame, metric: str) -> str:
    """Say whether full sentences as training answers prevent the collapse.

    `apart` is the effect on collapse of sentences against phrases.
    """
    collapse, change = _of(table, AFTER, COLLAPSE), _of(table, CHANGE, metric)
    short, full = collapse.loc["short"], collapse.loc["sentence"]
    text = (
        "With the same questions of GQA answered in a phrase, multi-round collapse is "
        f"{_told(short, ' %')} and the score changes by {change.value['short']:+.1f} points; "
        f"answered in a full sentence, {_told(full, ' %')} and {change.value['sentence']:+.1f}."
    )
    text += f" The difference is {describe(apart)}."
    found = sign(apart)
    if found < 0:
        return f"{text} Short answers, not the layout alone, make the collapse."
    return f"{text} {'Full sentences do not prevent it' if found else 'It is not shown'}."


def image_sentence(table: pd.DataFrame, apart: pd.DataFrame, metric: str) -> str:
    """Say from how many images on a model is short when asked and scores as with all of them.

    `apart` holds the effects on the score of every number of images against all.
    """
    scores, obeys = _of(table, AFTER, metric), _of(table, AFTER, OBEYS)
    told = "; ".join(
        f"{name}: {row.value:.1f} and {obeys.value[name]:.0f} %" for name, row in scores.iterrows()
    )
    text = (
        "Multi-round score and share of opening rounds answered as shortly as they ask, by number "
        f"of images, one pass each: {told}."
    )
    least = 100 * held_out.OPENING
    lower = {name for name, rows in apart.groupby("contrast") if sign(rows) < 0}
    enough = scores[~scores.index.isin(lower) & (obeys.value >= least)]
    if enough.empty:
        return f"{text} None is both as good as all images and short when asked."
    return (
        f"{text} The smallest number that is short when asked (at least {least:.0f} %) and is not "
        f"shown to score lower than all images is {enough.index[0]}."
    )


def opening_sentence(table: pd.DataFrame) -> str:
    """Say what each kind of opening does to each model, at one round and at the most."""
    rows = table[(table.seed == "all") & (table.metric == COLLAPSE)]
    parts = []
    for model, own in rows.groupby("model", sort=False):
        by = own.set_index("setting")
        kinds = dict.fromkeys(name.split(" x ")[0] for name in by.index if " x " in name)
        told = [f"none {_told(by.loc['none'], ' %')}"] if "none" in by.index else []
        for kind in kinds:
            counts = [name for name in by.index if name.startswith(f"{kind} x ")]
            ends = list(dict.fromkeys((counts[0], counts[-1])))
            told += [f"{name} {_told(by.loc[name], ' %')}" for name in ends]
        parts.append(f"**{model}** {', '.join(told)}")
    return f"Collapse by kind and number of opening rounds: {'; '.join(parts)}."
