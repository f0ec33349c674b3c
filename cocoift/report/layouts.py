"""What layout does: what the mixtures differ in, the 2 x 2 as an interaction, and the doses."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cocoift.evaluation.ablations import FACTORS
from cocoift.evaluation.lengths import SHORT_WORDS, record_rounds
from cocoift.evaluation.protocols import AFTER
from cocoift.evaluation.score import COLLAPSE
from cocoift.report.ablations import CHANGE
from cocoift.tuning.data import TrainingSet

# Which arm of notebook 07 answers for a difference between the mixtures.
_ARMS = {
    "sources a record": "first turn, mixed; merged, turns masked",
    "rounds a record": "merged, chopped; apart, long",
    "records a step": "merged, chopped; apart, long",
    "questions that state a format (%)": "every turn, apart",
    "short answers without a prompt (%)": "every turn, apart; instructed",
    "of these, VisDial's (%)": "baseline and merged without VisDial",
    "tokens read": "merged, chopped, which reads as many as the LLaVA-style mixture",
    "supervised tokens": "none is needed",
}


def differences(
    folder: Path,
    labels: Mapping[str, str],
    *,
    steps: int,
    sets: Mapping[str, TrainingSet] | None = None,
) -> pd.DataFrame:
    """Return what the mixtures differ in besides the layout, and which arm answers for it.

    A row per difference, a column per mixture of `labels`.  `folder` holds the mixtures, `steps`
    are those of a training on all of them; with `sets`, what one training reads, of a training on
    those, whose tokens are then told too.
    """
    found = {}
    for name, label in labels.items():
        rounds = record_rounds(folder / f"{name}.parquet")
        by_record = rounds.groupby("record").source
        bare = rounds[(rounds.words <= SHORT_WORDS) & ~rounds.has_prompt]
        count = len(sets[name].samples) if sets else by_record.ngroups
        row = {
            "sources a record": f"{by_record.nunique().mean():.1f}",
            "rounds a record": f"{by_record.size().mean():.1f}",
            "records a step": f"{count / steps:.1f}",
            "questions that state a format (%)": f"{100 * rounds.has_prompt.mean():.0f}",
            "short answers without a prompt (%)": f"{100 * len(bare) / max(1, len(rounds)):.0f}",
            "of these, VisDial's (%)": _share(bare.source == "visdial"),
        }
        if sets:
            row["tokens read"] = f"{sum(sets[name].lengths):,}"
            row["supervised tokens"] = f"{sets[name].supervised_tokens:,}"
        found[label] = row
    table = pd.DataFrame(found).rename_axis("difference").reset_index()
    return table.assign(**{"answered for in notebook 07 by": table.difference.map(_ARMS)})


def _share(chosen: pd.Series) -> str:
    return f"{100 * chosen.mean():.0f}" if len(chosen) else "none"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rise of collapse in the four cells of the 2 x 2, for `interval_plot`.

    `table` is that of notebook 07.  `setting` is then where the prompt stands, `sources` whether
    they are apart or mixed.
    """
    rows = _rises(table)
    parts = rows.setting.str.split(", ", expand=True).reindex(columns=[0, 1])
    return rows.assign(setting=parts[0], sources=parts[1])


def _rises(table: pd.DataFrame) -> pd.DataFrame:
    rows = table[(table.ablation == "factors") & (table.protocol == CHANGE)]
    return rows[rows.metric == COLLAPSE]


def cells_by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rise of collapse per seed, a column per cell of the 2 x 2, the mean last."""
    wide = _rises(table).pivot_table(index="seed", columns="setting", values="value", sort=False)
    names = [f"{layout.prompts} turn, {layout.sources}" for layout in FACTORS]
    wide = wide.reindex(columns=[name for name in names if name in wide])
    ordered = sorted(wide.index, key=lambda seed: (seed == "all", seed))
    return wide.loc[ordered].rename_axis(columns=None).reset_index()


def dose_points(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return, per seed and over all (`all`), where along the doses half of the change is reached.

    `table` is that of notebook 07, `half` the dose in percent: interpolated between the doses of
    the curve after the short round, at its first crossing of the middle between its two ends.
    Missing where the ends are equal.  `steepest` is the pair of doses between which the metric
    changes most a point of dose in the direction of the whole change, `moved` by how much, and
    `change` from the first dose to the last.
    """
    rows = table[(table.ablation == "dose") & (table.protocol == AFTER) & (table.metric == metric)]
    found = []
    for seed, of_seed in rows.groupby("seed", sort=False):
        doses = of_seed.setting.str.removesuffix(" %").astype(float).to_numpy()
        order = np.argsort(doses)
        doses, values = doses[order], of_seed.value.to_numpy(float)[order]
        if len(doses) < 2 or values[0] == values[-1] or np.isnan(values).any():
            continue
        gone = (values - values[0]) / (values[-1] - values[0])
        at = int(np.argmax(gone >= 0.5))
        half = np.interp(0.5, gone[at - 1 : at + 1], doses[at - 1 : at + 1])
        most = int(np.argmax(np.diff(gone) / np.diff(doses)))
        moved = values[most + 1] - values[most]
        between = f"{doses[most]:g} to {doses[most + 1]:g} %"
        found.append((seed, half, between, moved, values[-1] - values[0]))
    return pd.DataFrame(found, columns=["seed", "half", "steepest", "moved", "change"])


def dose_sentence(table: pd.DataFrame, score: str) -> str:
    """Say at which dose half of the change of collapse is reached, and where the score falls most.

    By linear interpolation of the mean curve, with the range over seeds.  `score` is the metric's
    name.
    """
    rise, fall = dose_points(table, COLLAPSE), dose_points(table, score)
    parts = []
    whole = rise[rise.seed == "all"]
    if len(whole):
        each = rise[rise.seed != "all"].half
        span = f" ({each.min():.0f} to {each.max():.0f} % over seeds)" if len(each) > 1 else ""
        parts.append(
            "Half of the change of collapse from the first to the last dose "
            f"({whole.change.iloc[0]:+.1f} points) is reached at {whole.half.iloc[0]:.0f} % of the "
            f"images{span}, by linear interpolation."
        )
    whole = fall[fall.seed == "all"]
    if len(whole):
        way = "falls" if whole.moved.iloc[0] < 0 else "rises"
        same = (fall[fall.seed != "all"].steepest == whole.steepest.iloc[0]).sum()
        count = (fall.seed != "all").sum()
        on = f", on {same} of {count} seeds in the same place" if count > 1 else ""
        parts.append(
            f"The score {way} most from {whole.steepest.iloc[0]} "
            f"({whole.moved.iloc[0]:+.1f} points{on})."
        )
    return " ".join(parts)
