"""What the ablations measure: a tidy table of levels and one of paired differences."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cocoift.core.frames import stacked
from cocoift.evaluation.ablations import BASELINE, AskedVariant
from cocoift.evaluation.effects import COLUMNS as EFFECTS
from cocoift.evaluation.effects import Contrast, change, effect_table, versus
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.score import Metric, score_table

COLUMNS = ("ablation", "setting", "model", "seed", "protocol", "metric", "value", "low", "high")
EFFECT_COLUMNS = ("ablation", *EFFECTS)
CHANGE = "difference"
# The share of opening rounds answered in three words or fewer, as they ask: a model that has not
# learnt that cannot collapse.
OBEYS = "short opening replies"
# What the differences of each ablation (`compared`, `position_effects`) compare.
HEADINGS = {
    "dose": "Images in LLaVA's layout: the largest dose against the smallest",
    "factors": "What each factor adds to the rise from single-round to multi-round",
    "answers": "Training answers in sentences against phrases",
    "sources": "Without a group of sources, against all of them",
    "images": "On fewer images, against all",
    "cures": "The merge against each mitigation",
    "cures, single-round": "Each mitigation against the LLaVA-style mixture, single-round",
    "positions": "The short round last of three, against first",
}


def variant_table(
    variants: Sequence[AskedVariant],
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return every variant's metrics per seed and over all (`all`), in `COLUMNS`.

    `protocol` is `single_round`, `multi_round`, or `difference`: multi-round minus single round,
    paired over questions.  Without variants, no rows.
    """
    answers, replied = of_asked(variants, verdicts), _short_replies(verdicts, resamples)
    models = list(dict.fromkeys(asked.model for asked in variants))
    scores = score_table(answers, metrics, resamples=resamples)
    named = {change(name).name: name for name in models}
    changes = effect_table(answers, metrics, list(map(change, models)), resamples=resamples)
    changes = changes.assign(model=changes.contrast.map(named), protocol=CHANGE)
    changes = changes.rename(columns={"difference": "value"})
    both = pd.concat([scores, changes], ignore_index=True)
    parts = []
    for asked in variants:
        replies = replied[replied.model == asked.variant.name].assign(model=asked.model)
        rows = pd.concat([both[both.model == asked.model], replies])
        parts.append(rows.assign(ablation=asked.ablation, setting=asked.setting))
    return stacked(parts, COLUMNS)


def of_asked(variants: Sequence[AskedVariant], verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return each variant's answers under its model's name, as single-round and multi-round.

    `verdicts` has the protocols under which the variants are asked.
    """
    parts = []
    for asked in {asked.model: asked for asked in variants}.values():
        answers = verdicts[verdicts.model == asked.variant.name]
        for protocol, named in ((asked.alone, ALONE), (asked.after, AFTER)):
            rows = answers[answers.protocol == protocol]
            parts.append(rows.assign(model=asked.model, protocol=named))
    return stacked(parts, list(verdicts))


def _short_replies(verdicts: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """Return how many of the opening rounds that ask for a short reply get one."""
    opened = verdicts[verdicts.protocol == AFTER].drop_duplicates(["model", "seed", "image"])
    words = opened.opening_reply.str.split().str.len()
    short = opened.assign(score=(words <= SHORT_WORDS).astype(float))
    metric = Metric(OBEYS, dict.fromkeys(short.question_id, 1.0))
    return score_table(short, [metric], resamples=resamples)


def opening_table(
    protocols: Mapping[str, Protocol],
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return the metrics after each kind of opening, in `COLUMNS`; settings are named as given.

    `protocols` are the openings by how they are called; no rows without any.
    """
    if not protocols:
        return pd.DataFrame(columns=list(COLUMNS))
    called = {protocol.name: setting for setting, protocol in protocols.items()}
    answers = verdicts[verdicts.protocol.isin(called)]
    scores = score_table(answers, metrics, resamples=resamples)
    named = scores.assign(ablation="openings", setting=scores.protocol.map(called))
    order = {name: number for number, name in enumerate(called)}
    return named.sort_values("protocol", key=lambda names: names.map(order), kind="stable")[
        list(COLUMNS)
    ].reset_index(drop=True)


def compared(
    variants: Sequence[AskedVariant],
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return the paired differences after the short round that the answers rest on.

    Per ablation: the last dose minus none, sentences minus phrases, every number of images minus
    all of them, every group of sources left out minus none, the merge minus every mitigation; and
    what each factor of the 2 x 2 adds to multi-round minus single round (`factor_contrasts`).
    Columns: ablation, then those of `effects.effect_table`.
    """
    by: dict[str, dict[str, str]] = {}
    for asked in variants:
        by.setdefault(asked.ablation, {})[asked.setting] = asked.model
    wanted: dict[str, list[Contrast]] = {}
    if len(dose := list(by.get("dose", {}).values())) > 1:
        wanted["dose"] = [_versus("last - first", dose[-1], dose[0])]
    if {"short", "sentence"} <= set(answers := by.get("answers", {})):
        wanted["answers"] = [_versus("sentence - short", answers["sentence"], answers["short"])]
    for ablation, whole in (("images", "all"), ("sources", "all sources")):
        if whole in (settings := by.get(ablation, {})):
            less = {setting: name for setting, name in settings.items() if setting != whole}
            wanted[ablation] = [_versus(of, name, settings[whole]) for of, name in less.items()]
    if "merged" in (cures := by.get("cures", {})):
        rivals = {setting: name for setting, name in cures.items() if setting != "merged"}
        wanted["cures"] = [_versus(of, cures["merged"], name) for of, name in rivals.items()]
        wanted["cures, single-round"] = [
            _versus(of, name, cures[BASELINE], ALONE)
            for of, name in cures.items()
            if of != BASELINE
        ]
    if "factors" in by:
        wanted["factors"] = factor_contrasts()
    answers = of_asked(variants, verdicts)
    parts = [
        effect_table(answers, metrics, contrasts, resamples=resamples).assign(ablation=name)
        for name, contrasts in wanted.items()
    ]
    return stacked(parts, EFFECT_COLUMNS)


def _versus(name: str, model: str, other: str, protocol: str = AFTER) -> Contrast:
    return Contrast(name, versus(model, other, protocol).weights)


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


def position_effects(
    protocols: Mapping[str, Protocol],
    verdicts: pd.DataFrame,
    metrics: Sequence[Metric],
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return what the short round does in the last of three positions against the first, by model.

    `protocols` are `ablations.position_protocols`, contrasts are named by model; empty without
    them.
    """
    if not protocols:
        return pd.DataFrame(columns=list(EFFECT_COLUMNS))
    first, *_, last = [protocol.name for protocol in protocols.values()]
    models = list(dict.fromkeys(verdicts.model[verdicts.protocol == first]))
    contrasts = [Contrast(name, {(name, last): 1.0, (name, first): -1.0}) for name in models]
    table = effect_table(verdicts, metrics, contrasts, resamples=resamples)
    return table.assign(ablation="positions")


def effects_of(effects: pd.DataFrame, ablation: str, metric: str) -> pd.DataFrame:
    """Return the paired effects of an ablation on one metric."""
    return effects[(effects.ablation == ablation) & (effects.metric == metric)]
