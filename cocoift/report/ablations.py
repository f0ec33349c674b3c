"""What the ablations say: one tidy table, and a sentence for each that its numbers decide."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cocoift.evaluation.ablations import Arm
from cocoift.evaluation.effects import AFTER, Contrast, change, effect_table, versus
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.score import Metric, score_table

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


def compared(
    arms: Sequence[Arm], verdicts: pd.DataFrame, metrics: Sequence[Metric], *, resamples: int
) -> pd.DataFrame:
    """Return the paired differences after the short round that the sentences rest on.

    Per ablation: the last dose minus none, sentences minus phrases, every number of images minus
    all of them, every group of sources left out minus none; and what each factor of the 2 x 2
    adds to multi-round minus single round (`factor_contrasts`). Columns: ablation, then those of
    `effects.effect_table`.
    """
    by: dict[str, dict[str, str]] = {}
    for arm in arms:
        by.setdefault(arm.ablation, {})[arm.setting] = arm.variant.name
    wanted: dict[str, list[Contrast]] = {}
    if dose := list(by.get("dose", {}).values()):
        wanted["dose"] = [_after("last - first", dose[-1], dose[0])]
    if {"short", "sentence"} <= set(answers := by.get("answers", {})):
        wanted["answers"] = [_after("sentence - short", answers["sentence"], answers["short"])]
    for ablation, whole in (("images", "all"), ("sources", "all sources")):
        if whole in (settings := by.get(ablation, {})):
            less = {setting: name for setting, name in settings.items() if setting != whole}
            wanted[ablation] = [_after(one, name, settings[whole]) for one, name in less.items()]
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


def effects_of(effects: pd.DataFrame, ablation: str, metric: str) -> pd.DataFrame:
    """Return the paired effects of an ablation on one metric."""
    return effects[(effects.ablation == ablation) & (effects.metric == metric)]
