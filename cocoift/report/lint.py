"""Whether a data file tells beforehand what a model tuned on it will do: arms, table, figure."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cocoift.core.schema import IMAGE_MARKER, Record, read_records
from cocoift.evaluation.ablations import AskedVariant
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE
from cocoift.evaluation.variants import BASE, SEVERAL
from cocoift.lint.conversations import Conversation, Round
from cocoift.lint.cues import Raw, raw_prediction
from cocoift.lint.prediction import (
    FEWEST,
    Arm,
    agreement,
    interval,
    left_out,
    prediction_error,
)
from cocoift.report.figures import MARKS, colour_of, new_axes, styled
from cocoift.tuning.recipe import Training

COLUMNS = (
    "arm", "ablation", "setting", "alone", "after", "raw_alone", "raw_after", "predicted_alone",
    "predicted_after", "low", "high",
)  # fmt: skip
# How the notebook's table calls them.
TITLES = {
    "alone": "measured alone (%)",
    "after": "measured after the round (%)",
    "raw_alone": "raw, alone",
    "raw_after": "raw, after",
    "predicted_alone": "predicted alone (%)",
    "predicted_after": "predicted after the round (%)",
}


def is_data_change(asked: AskedVariant) -> bool:
    """Tell whether a setting differs in its data alone: only then can the data file know of it.

    The ablation `pretraining` changes the base.
    """
    variant = asked.variant
    as_always = (asked.alone, asked.after) == (ALONE, AFTER)
    trained = variant not in (BASE, SEVERAL) and asked.ablation != "pretraining"
    return as_always and trained and (variant.loss_on, variant.attend) == ("all", "record")


def other_changes(asked: Sequence[AskedVariant]) -> list[str]:
    """Return the settings whose difference is not in their data, by ablation and setting."""
    names = (f"{each.ablation}: {each.setting}" for each in asked if not is_data_change(each))
    return list(dict.fromkeys(names))


def conversations(records: Sequence[Record], images: Sequence[str]) -> Iterator[Conversation]:
    """Yield the records about these images as lint looks at them."""
    wanted = set(images)
    for place, record in enumerate(records):
        if record.image in wanted:
            texts = [m.value.replace(IMAGE_MARKER, "").strip() for m in record.conversations]
            rounds = tuple(map(Round, texts[::2], texts[1::2]))
            yield Conversation(f"[{place}]", record.id, "", (record.image,), rounds)


def raw_predictions(
    asked: Sequence[AskedVariant], trainings: Mapping[tuple[str, int], Training]
) -> dict[str, Raw]:
    """Return what the cues of each variant's training records foretell, by variant.

    Raises `DataError` where a mixture is damaged.
    """
    found: dict[tuple[Path, tuple[str, ...]], Raw] = {}
    by_variant = {}
    wanted = {each.variant.name for each in asked if is_data_change(each)}
    for (name, _), training in trainings.items():
        if name in wanted and name not in by_variant:
            key = training.mixture, tuple(training.images)
            if key not in found:
                records = read_records(training.mixture)
                found[key] = raw_prediction(conversations(records, training.images))
            by_variant[name] = found[key]
    return by_variant


def arms(asked: Sequence[AskedVariant], levels: pd.DataFrame, raw: Mapping[str, Raw]) -> list[Arm]:
    """Return the trained mixtures with their measured collapse, means over all seeds they have.

    `levels` is notebook 07's table of levels.
    """
    rows = levels[(levels.metric == COLLAPSE) & (levels.seed.astype(str) != "all")]
    seeds = rows.drop_duplicates(["model", "seed", "protocol"])
    means = seeds.groupby(["model", "protocol"]).value.mean()
    found = []
    for name, foretold in raw.items():
        ablations = [e.ablation for e in asked if e.variant.name == name and is_data_change(e)]
        if (name, ALONE) in means and (name, AFTER) in means:
            measured = float(means[name, ALONE]), float(means[name, AFTER])
            shares = foretold.alone, foretold.after
            found.append(Arm(name, tuple(dict.fromkeys(ablations)), *measured, *shares))
    return found


def arm_table(asked: Sequence[AskedVariant], found: Sequence[Arm]) -> pd.DataFrame:
    """Return measured collapse, raw and left-out predictions by ablation and arm, in `COLUMNS`.

    The interval is that of `predicted_after`; predictions are missing where too few arms are left
    without the ablation.
    """
    settings = {(e.ablation, e.variant.name): e.setting for e in asked if is_data_change(e)}
    rows = [
        (arm.name, ablation, settings[ablation, arm.name], arm.alone, arm.after, arm.raw_alone,
         arm.raw_after)
        for arm in found for ablation in arm.ablations
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS[:7]))
    left = left_out(found)
    predicted = left[["arm", "ablation", *COLUMNS[7:9]]].astype(dict.fromkeys(COLUMNS[7:9], float))
    table = table.merge(predicted, on=["arm", "ablation"], how="left")
    error = prediction_error(left) if len(left) else float("nan")
    ends = [interval(value, error) if value == value else (value, value)
            for value in table.predicted_after]  # fmt: skip
    return table.assign(low=[low for low, _ in ends], high=[high for _, high in ends])


def one_per_arm(table: pd.DataFrame) -> pd.DataFrame:
    """Return an arm table with the first ablation of each arm."""
    return table.drop_duplicates("arm").reset_index(drop=True)


def by_ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean error in points of each ablation's left-out predictions: ablation, arms.

    Then `alone` and `after`; no rows where nothing was left out.
    """
    known = table.dropna(subset=["predicted_after"])
    errors = known.assign(
        alone=(known.predicted_alone - known.alone).abs(),
        after=(known.predicted_after - known.after).abs(),
    )
    grouped = errors.groupby("ablation", sort=False)
    return grouped.agg(arms=("arm", "size"), alone=("alone", "mean"), after=("after", "mean"))[
        ["arms", "alone", "after"]
    ].reset_index()


def agreement_in_words(table: pd.DataFrame) -> str:
    """Return in a sentence how well the left-out predictions rank and meet the measured collapse.

    Where nothing was left out, why.
    """
    left = table.dropna(subset=["predicted_after"])
    if left.empty:
        return (
            f"Nothing is left out here: of {table.arm.nunique()} arms too few remain without any "
            f"ablation to fit a curve ({FEWEST} are needed)."
        )
    both = agreement(left).set_index("asked")
    ranks = both[["spearman", "raw_spearman"]].map("{:.2f}".format)
    ranks = ranks.replace("nan", "none, all values are equal")
    parts = [
        f"{words}, rank correlation (Spearman) {ranks.spearman[asked]} and a mean error of "
        f"{both.mean_error[asked]:.1f} points (rank correlation of what the cues alone foretell, "
        f"which no calibration has touched: {ranks.raw_spearman[asked]})"
        for asked, words in (("after", "after one short round"), ("alone", "alone"))
    ]
    known = left[["low", "high", "after"]].groupby(left.arm).mean()
    inside = int(((known.low <= known.after) & (known.after <= known.high)).sum())
    return (
        f"Predicted with their ablation left out, {len(known)} arms: {'; '.join(parts)}. "
        f"{inside} of {len(known)} measured values after the round are inside their interval."
    )


@styled
def arm_figure(table: pd.DataFrame) -> Figure:
    """Show predicted against measured collapse after one short round, ablations left out.

    Left all arms together, right each arm by name, its prediction with the 95 % interval.
    `table` is `arm_table`; an arm of several ablations is shown with its first.
    """
    rows = one_per_arm(table.dropna(subset=["predicted_after"]))
    title = "Collapse after one short round: predicted by the data file, and measured"
    figure, (ax, named) = new_axes(13, 2.5 + 0.24 * len(rows), title=title, columns=2)
    ax.plot([0, 100], [0, 100], color="#999999", linewidth=1)
    for number, (ablation, part) in enumerate(rows.groupby("ablation", sort=False)):
        colour, mark = colour_of("", number), MARKS[number % len(MARKS)]
        look: Any = {"color": colour, "marker": mark, "linestyle": "none"}
        ax.plot(part.predicted_after, part.after, label=ablation, alpha=0.8, **look)
        named.hlines(part.index, part.low, part.high, color=colour, linewidth=1.5)
        named.plot(part.predicted_after, part.index, **look)
        named.plot(part.after, part.index, "o", color="black", markersize=4, mfc="white")
    named.plot([], [], "o", color="black", markersize=4, mfc="white", label="measured")
    named.plot([], [], "o", color="#666666", label="predicted, with its 95 % interval")
    top = min(100.0, 1.1 * max(rows.after.max(), rows.predicted_after.max(), 10.0))
    ax.set(xlim=(-1, top), ylim=(-1, top))
    ax.set(xlabel="predicted, ablation left out (%)", ylabel="measured (%)")
    named.set(xlim=(-1, 101), xlabel="collapsed, open questions (%)", ylim=(len(rows) - 0.5, -0.5))
    named.set_yticks(range(len(rows)), rows.ablation + ": " + rows.setting, fontsize=9)
    ax.set_aspect("equal", anchor="N")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.12), ncols=3, title="ablation")
    named.legend(loc="lower right")
    return figure
