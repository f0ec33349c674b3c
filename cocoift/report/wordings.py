"""Scores by wording: as the sources ask, or as nothing that tunes does."""

import pandas as pd

from cocoift.core.frames import stacked
from cocoift.evaluation.effects import COLUMNS, effect_table, versus
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import Metric, collapsed

# Each mixture with a prompt in every turn against the LLaVA-style one, and against the base model.
_COMPARED = tuple(
    (one, other, protocol)
    for other, protocol in (("mix", ALONE), ("base", AFTER))
    for one in ("merged", "instructed")
)


def wording_table(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return score and collapse by model, wording and protocol, a row per model and wording."""
    worded = verdicts[verdicts.wording != ""]
    worded = worded.assign(collapse=collapsed(worded.words))
    means = worded.groupby(["model", "wording", "protocol"], sort=False)[["score", "collapse"]]
    table = means.mean().unstack("protocol")
    table.columns = [f"{metric}, {protocol}" for metric, protocol in table.columns]
    return table.reset_index()


def wording_effects(
    verdicts: pd.DataFrame, metric: Metric, *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return how models differ in a metric within each wording: `effect_table` and `wording`.

    Merged and instructed are compared with the LLaVA-style mixture in single round, and with the
    base model after the short round.  Empty where questions have no wordings.
    """
    contrasts = [versus(*names) for names in _COMPARED]
    parts = [
        effect_table(own, [metric], contrasts, resamples=resamples).assign(wording=wording)
        for wording, own in verdicts[verdicts.wording != ""].groupby("wording")
    ]
    return stacked(parts, [*COLUMNS, "wording"])
