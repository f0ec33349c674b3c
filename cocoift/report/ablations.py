"""What the ablations measure: tables of levels, paired differences, mitigations' costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from cocoift.core.frames import stacked
from cocoift.core.resampling import ratio
from cocoift.evaluation.ablations import BASELINE, DROPPED, AskedVariant
from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.effects import COLUMNS as EFFECTS
from cocoift.evaluation.effects import (
    INTERACTION,
    Contrast,
    change,
    corrected,
    effect_table,
    versus,
)
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.rollout import Run
from cocoift.evaluation.score import COLLAPSE, Metric, score_table
from cocoift.evaluation.variants import SEVERAL
from cocoift.report.evaluation import adherence_scores
from cocoift.tuning.checkpoints import training_log

COLUMNS = ("ablation", "setting", "model", "seed", "protocol", "metric", "value", "low", "high")
EFFECT_COLUMNS = ("ablation", *EFFECTS)
CHANGE = "difference"
# The share of opening rounds answered in three words or fewer, as they ask: a model that has not
# learnt that cannot collapse.
OBEYS = "short opening replies"
# What the differences of each ablation (`compared`, `position_effects`) compare.
HEADINGS = {
    "dose": "Images in LLaVA's layout: the largest dose against the smallest",
    "factors": "One factor changed in the LLaVA-style mixture, and both: what it adds to the rise",
    "layouts": "What else differs between the mixtures, one difference at a time",
    "layouts, single-round": "The same arms against the LLaVA-style mixture, single-round",
    "pretraining": "The base taught several rounds against single ones",
    "answers": "Training answers in sentences against phrases",
    "sources": "Without a group of sources, against all of them",
    "overlap": "Sources on the same images against disjoint ones",
    "others": "With text-only records or other pictures, against merged alone",
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
    all of them, every group of sources left out minus none, every share of other data minus none,
    the merge minus every mitigation, every arm of the layouts minus the mixture that it changes
    (`layout_contrasts`); and how much more multi-round minus single round is in the 2 x 2
    (`factor_contrasts`).  Columns: ablation, then those of `effects.effect_table`.
    """
    by: dict[str, dict[str, str]] = {}
    for asked in variants:
        by.setdefault(asked.ablation, {})[asked.setting] = asked.model
    wanted: dict[str, list[Contrast]] = {}
    if len(dose := list(by.get("dose", {}).values())) > 1:
        wanted["dose"] = [_versus("last - first", dose[-1], dose[0])]
    if {"short", "sentence"} <= set(answers := by.get("answers", {})):
        wanted["answers"] = [_versus("sentence - short", answers["sentence"], answers["short"])]
    if overlap := by.get("overlap"):
        wanted["overlap"] = [_versus("same images - disjoint images", *overlap.values())]
    for ablation, whole in (("images", "all"), ("sources", "all sources"), ("others", "none")):
        if whole in (settings := by.get(ablation, {})):
            less = {setting: name for setting, name in settings.items() if setting != whole}
            wanted[ablation] = [_versus(of, name, settings[whole]) for of, name in less.items()]
    if "merged" in (cures := by.get("cures", {})):
        rivals = {setting: name for setting, name in cures.items() if setting != "merged"}
        wanted["cures"] = [_versus(of, cures["merged"], name) for of, name in rivals.items()]
    for ablation in ("cures", "layouts"):
        settings = by.get(ablation, {})
        arms = {of: name for of, name in settings.items() if of != BASELINE}
        if arms and BASELINE in settings:
            wanted[f"{ablation}, single-round"] = [
                _versus(of, name, settings[BASELINE], ALONE) for of, name in arms.items()
            ]
    for ablation, contrasts in _OF_NAMED.items():
        if ablation in by:
            wanted[ablation] = contrasts()
    answers = of_asked(variants, verdicts)
    parts = [
        effect_table(answers, metrics, contrasts, resamples=resamples).assign(ablation=name)
        for name, contrasts in sorted(
            wanted.items(), key=lambda item: list(HEADINGS).index(item[0])
        )
    ]
    return corrected(stacked(parts, EFFECT_COLUMNS), INTERACTION)


def _versus(name: str, model: str, other: str, protocol: str = AFTER) -> Contrast:
    return Contrast(name, versus(model, other, protocol).weights)


def factor_contrasts() -> list[Contrast]:
    """Return what one factor, changed in the LLaVA-style mixture, and both add to its rise.

    A rise is multi-round minus single round.  `interaction` is the LLaVA-style one's, less those of
    the two variants with one factor changed, plus the one with both, which is merged.
    """
    every, mixed, both = (
        change(name).minus(change("mix")) for name in ("every-apart", "first-mixed", "merged")
    )
    cells = {"mix": 1.0, "first-mixed": -1.0, "every-apart": -1.0, "merged": 1.0}
    weights = {key: sign * weight for name, sign in cells.items()
               for key, weight in change(name).weights.items()}  # fmt: skip
    return [
        Contrast("interaction", weights),
        Contrast("prompt in every turn, sources apart - LLaVA-style", every.weights),
        Contrast("prompt in the first turn, sources mixed - LLaVA-style", mixed.weights),
        Contrast("both, which is merged - LLaVA-style", both.weights),
    ]


def layout_contrasts() -> list[Contrast]:
    """Return each arm of the layouts against the mixture that it changes, after the short round.

    The last two set both mixtures equal in what they differ in besides prompts and mixing: the
    rounds of a record, and VisDial.
    """
    return [
        _versus("merged, chopped - merged", "merged-chopped", "merged"),
        _versus("merged, turns masked - merged", "merged-masked", "merged"),
        _versus("apart, long - LLaVA-style", "apart-long", "mix"),
        _versus("without VisDial - LLaVA-style", "mix-without-visdial", "mix"),
        _versus("without VisDial - merged", "merged-without-visdial", "merged"),
        _versus("LLaVA-style - merged, chopped", "mix", "merged-chopped"),
        _versus(
            "LLaVA-style - merged, both without VisDial",
            "mix-without-visdial",
            "merged-without-visdial",
        ),
    ]


def pretraining_contrasts() -> list[Contrast]:
    """Return what the base's pretraining changes in each model, and the layouts on the other base.

    All after the short round.
    """
    return [
        _versus("base, several rounds - single rounds", SEVERAL.name, "base"),
        _versus("LLaVA-style, several rounds - single rounds", "mix-several", "mix"),
        _versus("merged, several rounds - single rounds", "merged-several", "merged"),
        _versus("LLaVA-style - merged, both taught several", "mix-several", "merged-several"),
    ]


# The contrasts of ablations whose variants have fixed names.
_OF_NAMED = {
    "factors": factor_contrasts,
    "layouts": layout_contrasts,
    "pretraining": pretraining_contrasts,
}


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


def adherence_rows(
    variants: Sequence[AskedVariant], runs: Sequence[Run], *, resamples: int
) -> pd.DataFrame:
    """Return how often each variant is short when a held-out question asks for that, in `COLUMNS`.

    `runs` are those on held-out questions, alone and after the short round.  A question that asks
    for a short answer is never asked for a full sentence.  No rows without runs.
    """
    scores = adherence_scores(runs, resamples=resamples)
    scores = scores[scores.metric == ADHERENCE]
    parts = []
    for asked in variants:
        rows = scores[scores.model == asked.variant.name]
        named = {"ablation": asked.ablation, "setting": asked.setting, "model": asked.model}
        after = rows[rows.protocol == (ALONE if asked.after == ALONE else AFTER)]
        parts.append(rows[rows.protocol == ALONE].assign(**named))
        parts.append(after.assign(**named, protocol=AFTER))
    return stacked(parts, COLUMNS)


def cost_table(
    variants: Sequence[AskedVariant],
    adapters: Mapping[tuple[str, int], Path],
    worth: pd.DataFrame,
    *,
    resamples: int,
) -> pd.DataFrame:
    """Return what each mitigation costs: cure, trained_tokens, tokens, history, low, high.

    `trained_tokens` are those of answers that carry loss and `tokens` all that one training reads,
    in percent of `mix`, on average over seeds; `history` is by how many nats per token later
    answers of held-out conversations are predicted worse without it (`history.history_worth`),
    with its 95 % interval over trainings and images.  It is missing where the history is kept, and
    where nothing measures it; the interval, where one image does.
    """

    def totals(asked: AskedVariant) -> tuple[float, float]:
        logs = [training_log(path) for (name, _), path in adapters.items()
                if name == asked.variant.name]  # fmt: skip
        read = [[row["tokens"] for row in log["log"] if "tokens" in row][-1] for log in logs]
        return fmean(log["supervised_tokens"] for log in logs), fmean(read)

    whole = totals(next(asked for asked in variants if asked.setting == BASELINE))
    lost, kept = _history_lost(worth, resamples), (float("nan"),) * 3
    rows = []
    for asked in variants:
        shares = [100 * part / all_ for part, all_ in zip(totals(asked), whole, strict=True)]
        rows.append((asked.setting, *shares, *(lost if asked.setting == DROPPED else kept)))
    columns = ["cure", "trained_tokens", "tokens", "history", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _history_lost(worth: pd.DataFrame, resamples: int) -> tuple[float, float, float]:
    """Return by how many nats per token answers are worse without history, and its interval."""
    if worth.empty:
        return (float("nan"),) * 3
    lost = (worth.without - worth.with_history).astype(float)
    mean, *ends = ratio(worth.image, lost, worth.tokens, resamples=resamples, trainings=worth.seed)
    low, high = ends if worth.image.nunique() > 1 else (float("nan"), float("nan"))
    return mean, low, high


def mitigation_table(table: pd.DataFrame, costs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return a row per mitigation: score, collapse, compliance (single-round, after), and costs.

    `table` is that of notebook 07, `costs` is `cost_table`.
    """
    whole = table[(table.ablation == "cures") & (table.seed == "all")]
    whole = whole.set_index(["setting", "metric", "protocol"])
    wanted = {metric: "score", COLLAPSE: "collapsed", ADHERENCE: "compliance"}
    rows = []
    for cost in costs.itertuples():
        row = {"mitigation": cost.cure}
        for name, label in wanted.items():
            for protocol, when in ((ALONE, "single-round"), (AFTER, "after")):
                if (cost.cure, name, protocol) in whole.index:
                    level = whole.loc[(cost.cure, name, protocol)]
                    ends = f"[{level.low:.0f}, {level.high:.0f}]"
                    row[f"{label}, {when}"] = f"{level.value:.0f} {ends}"
        row |= {"trained tokens": f"{cost.trained_tokens:.0f} %", "tokens": f"{cost.tokens:.0f} %"}
        interval = "" if pd.isna(cost.low) else f" [{cost.low:+.2f}, {cost.high:+.2f}]"
        lost = "" if pd.isna(cost.history) else f"{cost.history:+.2f}{interval} nats per token"
        row["history lost"] = lost
        rows.append(row)
    return pd.DataFrame(rows)
