"""Alternative mitigations beside the merge: score, collapse, compliance, and what each costs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from cocoift.core.frames import stacked
from cocoift.core.resampling import ratio
from cocoift.evaluation.ablations import BASELINE, DROPPED, AskedVariant
from cocoift.evaluation.adherence import ADHERENCE
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.rollout import Run
from cocoift.evaluation.score import COLLAPSE
from cocoift.report.ablations import COLUMNS
from cocoift.report.evaluation import adherence_scores
from cocoift.tuning.checkpoints import training_log


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
    in percent of `mix`, over all seeds; `history` is by how many nats per token later answers of
    held-out conversations are predicted worse without it (`history.history_worth`), with its 95 %
    interval over images.  It is missing where the history is kept, and where nothing measures it;
    the interval, where one image does.
    """

    def totals(asked: AskedVariant) -> tuple[float, float]:
        logs = [training_log(path) for (name, _), path in adapters.items()
                if name == asked.variant.name]  # fmt: skip
        read = [[row["tokens"] for row in log["log"] if "tokens" in row][-1] for log in logs]
        return sum(log["supervised_tokens"] for log in logs), sum(read)

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
    mean, *ends = ratio(worth.image, lost, worth.tokens, resamples=resamples)
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
