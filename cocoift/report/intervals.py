"""The figure of values with intervals: a panel per metric, a mark per setting and series."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cocoift.report.figures import LINES, MARKS, colour_of, legend_beside, new_axes, styled


@styled
def interval_plot(
    table: pd.DataFrame,
    *,
    panels: Mapping[str, str],
    series: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
    by: str = "model",
    title: str,
    joined: bool = False,
) -> Figure:
    """Show values with their 95 % intervals: a panel per metric, a mark per setting and series.

    `table` has the columns metric, value, low, high, setting (in their order of appearance unless
    `settings` names them) and `by` (the series).  `panels` maps metrics to labels with units.
    `joined` draws lines over settings that have an order.  Rows of single seeds, if the column
    seed tells any, are small dots.
    """
    table = table[table[by].isin(series)]
    each = table.seed != "all" if "seed" in table else pd.Series(False, index=table.index)
    seeds, table = table[each], table[~each]
    names = settings or {name: name for name in dict.fromkeys(table.setting)}
    width, places = 1.5 + 4.4 * len(panels), np.arange(len(names))
    height = 4.2 if joined else 1.4 + (0.32 + 0.16 * len(series)) * len(names)
    figure, axes = new_axes(width, height, title=title, columns=len(panels))
    for ax, (metric, label) in zip(axes, panels.items(), strict=True):
        of_metric = table[table.metric == metric]
        for number, (name, named) in enumerate(series.items()):
            rows = of_metric[of_metric[by] == name].set_index("setting").reindex(list(names))
            shifted = places + (number - (len(series) - 1) / 2) * (0.06 if joined else 0.2)
            look: Any = {"color": colour_of(name, number), "capsize": 3, "label": named}
            _dots(
                ax,
                seeds[(seeds.metric == metric) & (seeds[by] == name)],
                list(names),
                shifted,
                joined=joined,
                colour=look["color"],
            )
            _marks(ax, rows, shifted, MARKS[number % 7], LINES[number % 4] if joined else "", look)
        _scale(ax, of_metric, list(names.values()), joined=joined, first=ax is axes[0])
        ax.set_title(label)
    legend_beside(axes[-1])
    return figure


def _marks(
    ax: Axes, rows: pd.DataFrame, places: np.ndarray, mark: str, line: str, look: Any
) -> None:
    """Draw a series with its intervals: over its settings with a `line`, else beside them."""
    spread = np.abs(rows[["low", "high"]].to_numpy().T - rows.value.to_numpy())
    if line:
        ax.errorbar(places, rows.value, yerr=spread, fmt=mark + line, **look)
    else:
        ax.errorbar(rows.value, places, xerr=spread, fmt=mark, **look)


def _dots(
    ax: Axes, rows: pd.DataFrame, names: list[str], places: np.ndarray, *, joined: bool, colour: str
) -> None:
    """Draw the values of single seeds beside their settings' marks."""
    rows = rows[rows.setting.isin(names)]
    at = [places[names.index(setting)] for setting in rows.setting]
    x, y = (at, rows.value) if joined else (rows.value, at)
    ax.plot(x, y, linestyle="none", marker=".", markersize=4, color=colour, alpha=0.45)


def _scale(ax: Axes, rows: pd.DataFrame, names: list[str], *, joined: bool, first: bool) -> None:
    """Label the settings, and mark zero where values lie on both sides of it."""
    places, percent = range(len(names)), rows.low.min() >= 0
    if joined:
        ax.set_xticks(places, names)
        ax.set_ylim(-3, 103)
    else:
        ax.set_yticks(places, names if first else [])
        ax.set(ylim=(len(names) - 0.4, -0.6), **({"xlim": (-3, 103)} if percent else {}))
        ax.grid(axis="y", visible=False)
    if not percent:
        ax.axvline(0, color="#333333", linewidth=1)
