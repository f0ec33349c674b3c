"""Figures: every one has a title, units, readable names and an alternative text."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cocoift.core.files import replacing
from cocoift.core.images import data_address
from cocoift.core.text import tidy
from cocoift.report.tables import LABELS

P = ParamSpec("P")

MODEL_COLOURS = {"base": "#7f7f7f", "mix": "#d1752a", "merged": "#1f5fa8", "instructed": "#2f8f5b"}
OTHER_COLOURS = ("#3b75af", "#c44e52", "#55803b", "#8064a2")
PLAIN, MARKED = OTHER_COLOURS[:2]
PANELS = 4  # in a row of a figure
MARKS, LINES = "osD^vPX", ("-", "--", ":", "-.")
_STYLE = {
    **sns.axes_style("whitegrid"),
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "figure.titleweight": "bold",
    "legend.frameon": False,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw a figure in the study's style without changing matplotlib's settings for others."""

    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return with_style


def show(figure: Figure, path: Path) -> HTML:
    """Save a figure as PNG and return it for display; the file carries its title and `alt_text`.

    256 colours are enough for a figure and take a third of the space in the file, the notebook and
    its page.
    """
    drawn, texts, alt = io.BytesIO(), PngInfo(), alt_text(figure)
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    texts.add_itxt("Title", figure.get_suptitle())
    texts.add_itxt("Description", alt)
    with replacing(path) as temporary, Image.open(drawn) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True, pnginfo=texts)
    tag = Markup('<img class="figure" alt="{}" style="max-width:100%" src="{}">')
    return HTML(tag.format(alt, data_address(path.read_bytes(), "png")))


def alt_text(figure: Figure) -> str:
    """Return what a figure shows, in the words that stand on it: title, panels, axes, series."""
    axes = figure.axes
    legends = [*figure.legends, *(legend for ax in axes if (legend := ax.get_legend()))]
    words = {
        "Panels": [ax.get_title(loc="left") for ax in axes],
        "Horizontal axis": [figure.get_supxlabel(), *(ax.get_xlabel() for ax in axes)],
        "Vertical axis": [figure.get_supylabel(), *(ax.get_ylabel() for ax in axes)],
        "Series": [text.get_text() for legend in legends for text in legend.get_texts()],
    }
    found = {
        kind: "; ".join(filter(None, dict.fromkeys(map(tidy, some))))
        for kind, some in words.items()
    }
    parts = [figure.get_suptitle(), *(f"{kind}: {text}" for kind, text in found.items() if text)]
    return ". ".join(parts)


def new_axes(
    width: float, height: float, *, title: str, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure outside pyplot, so that notebooks do not show it twice."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def legend_beside(ax: Axes, *, panels: Sequence[Axes] = ()) -> None:
    """Put the legend to the right of the axes, where it hides nothing.

    It names what any of the `panels` shows (none: the axes alone); a series may lack in some.
    """
    named: dict[str, Artist] = {}
    for panel in panels or [ax]:
        handles, labels = panel.get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True)) | named
    ax.legend(named.values(), named, loc="upper left", bbox_to_anchor=(1.01, 1))


def colour_of(name: str, number: int) -> str:
    """Return a model's colour, by its name or label, or that of another series by its number."""
    named = MODEL_COLOURS | {LABELS[model]: colour for model, colour in MODEL_COLOURS.items()}
    return named.get(name, OTHER_COLOURS[number % len(OTHER_COLOURS)])


@styled
def facets(
    table: pd.DataFrame, *, x: str, texts: tuple[str, str, str], kind: str = "hist",
    panels: Sequence[str] | None = None, columns: int = PANELS, **look: Any,
) -> Figure:  # fmt: skip
    """Show a panel per value of `panel`, and in it a series per value of `series`, by seaborn.

    `texts` are the title and the labels of the axes, `kind` is `hist`, `ecdf` or `line`.  Of the
    `panels` to show, those without rows stay blank; where they are more than a quarter they are
    left out and what follows moves up.
    """
    filled = list(dict.fromkeys(table.panel))
    panels = filled if panels is None else list(panels)
    if len(filled) < 0.75 * len(panels):
        panels, columns = [name for name in panels if name in filled], PANELS
    series = list(dict.fromkeys(table.series))
    palette = [colour_of(name, number) for number, name in enumerate(series)]
    plot: Any = sns.relplot if kind == "line" else sns.displot
    size = {"height": 4.2, "aspect": 2.0} if len(panels) == 1 else {"height": 2.4, "aspect": 1.4}
    hue = {"hue": "series", "hue_order": series, "palette": palette, "legend": len(series) > 1}
    grid = plot(table, x=x, kind=kind, col="panel", col_order=panels, **hue, **size, **look,
                col_wrap=min(columns, len(panels)))  # fmt: skip
    grid.set_axis_labels("", "").set_titles("{col_name}" if len(panels) > 1 else "", loc="left")
    for name, ax in grid.axes_dict.items():
        if name not in filled:
            ax.set_axis_off()
            ax.set_title("", loc="left")
    if len(series) > 1:
        for handle in grid.legend.legend_handles:
            handle.set(alpha=1, linewidth=1.5)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.3 / grid.figure.get_figheight())}
        sns.move_legend(grid, title="", ncol=len(series), **below)
        grid.figure.subplots_adjust(right=0.97)
    _name_axes(grid.figure, *texts)
    plt.close(grid.figure)  # or a notebook would show it twice
    return grid.figure


def _name_axes(figure: Figure, title: str, xlabel: str, ylabel: str) -> None:
    """Put title and labels around a grid of axes, at the same distance whatever its size."""
    width, height = figure.get_size_inches()
    figure.suptitle(title, x=0.01, y=1 + 0.1 / height, ha="left", va="bottom")
    figure.supxlabel(xlabel, y=0, va="top", fontsize=11)
    figure.supylabel(ylabel, x=-0.05 / width, fontsize=11)


def log_words(ax: Axes, top: int) -> None:
    """Make the horizontal axis one of word counts on a log scale, up to `top`."""
    ax.set(xscale="log", xlim=(0.9, top * 1.2))
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300) if tick <= top * 1.2]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


@styled
def histogram(
    values: pd.Series, *, title: str, xlabel: str, ylabel: str, limit: float | None = None
) -> Figure:
    """Show a histogram of whole numbers; `limit` draws a line that values must not pass."""
    figure, (ax,) = new_axes(7.5, 3.6, title=title)
    discrete = values.max() - values.min() <= 40
    bins = "auto" if discrete else 40
    sns.histplot(values, ax=ax, discrete=discrete, bins=bins, color=PLAIN, alpha=1)
    if limit is not None:
        ax.axvline(limit, color=MARKED, linewidth=1.5)
        across = ax.get_xaxis_transform()
        ax.text(limit, 0.95, f"limit {limit:.0f} ", ha="right", color=MARKED, transform=across)
    if discrete:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    return figure


@styled
def bars(table: pd.DataFrame, *, x: str, y: str, title: str, xlabel: str) -> Figure:
    """Show horizontal bars of column `x`, counts, by `y`, their values beside."""
    figure, (ax,) = new_axes(9, 1.2 + 0.36 * table[y].nunique(), title=title)
    sns.barplot(table, x=x, y=y, ax=ax, color=PLAIN)
    drawn: Any = ax.containers
    ax.bar_label(drawn[0], fmt="{:,.0f}", padding=4, fontsize=9)
    ax.set(xlabel=xlabel, ylabel="", xlim=(0, table[x].max() * 1.12))
    ax.grid(axis="y", visible=False)
    return figure


@styled
def stacked_shares(shares: pd.DataFrame, *, title: str, xlabel: str) -> Figure:
    """Show rows as bars of 100 %, columns as their parts, values written where they fit."""
    figure, (ax,) = new_axes(10, 1.6 + 0.36 * len(shares), title=title)
    colours = sns.color_palette("colorblind", len(shares.columns))
    (shares * 100).plot.barh(stacked=True, ax=ax, color=colours, width=0.8)
    bars: Any = ax.containers
    for drawn, colour in zip(bars, colours, strict=True):
        labels = [f"{value:.0f}" if value >= 8 else "" for value in drawn.datavalues]
        ink = "black" if sum(colour) > 1.5 else "white"
        ax.bar_label(drawn, labels, label_type="center", fontsize=9, color=ink)
    ax.set(xlim=(0, 100), ylim=(len(shares) - 0.4, -0.6), xlabel=xlabel, ylabel="")
    ax.grid(axis="y", visible=False)
    legend_beside(ax)
    return figure


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
    seed tells any, are small dots beside the interval.  A panel whose label has `%` goes from 0 to
    100, another one as far to both sides of zero as its values and intervals do.
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
        every = pd.concat([of_metric, seeds[seeds.metric == metric]])
        ends = _ends(every[["value", "low", "high"]].to_numpy(float), percent="%" in label)
        _scale(ax, list(names.values()), ends, joined=joined, first=ax is axes[0])
        ax.set_title(label)
    legend_beside(axes[-1])
    return figure


def _marks(
    ax: Axes, rows: pd.DataFrame, places: np.ndarray, mark: str, line: str, look: Any
) -> None:
    """Draw a series with its intervals: over its settings with a `line`, else beside them.

    Marks are small enough to leave an interval of a point or two visible.
    """
    spread = np.abs(rows[["low", "high"]].to_numpy().T - rows.value.to_numpy())
    look = look | {"markersize": 4, "elinewidth": 1.6, "capthick": 1.6}
    if line:
        ax.errorbar(places, rows.value, yerr=spread, fmt=mark + line, **look)
    else:
        ax.errorbar(rows.value, places, xerr=spread, fmt=mark, **look)


def _dots(
    ax: Axes, rows: pd.DataFrame, names: list[str], places: np.ndarray, *, joined: bool, colour: str
) -> None:
    """Draw the values of single seeds beside their settings' marks, clear of the interval."""
    rows = rows[rows.setting.isin(names)]
    at = [places[names.index(setting)] + (0.035 if joined else 0.08) for setting in rows.setting]
    x, y = (at, rows.value) if joined else (rows.value, at)
    ax.plot(x, y, linestyle="none", marker=".", markersize=3.5, color=colour, alpha=0.6)


def _ends(values: np.ndarray, *, percent: bool) -> tuple[float, float]:
    """Return the ends of an axis on which nothing is cut off."""
    known = values[~np.isnan(values)]
    if percent:
        return float(min([-3.0, *(known - 1)])), float(max([103.0, *(known + 1)]))
    furthest = 1.05 * float(max([1.0, *np.abs(known)]))
    return -furthest, furthest


def _scale(
    ax: Axes, names: list[str], ends: tuple[float, float], *, joined: bool, first: bool
) -> None:
    """Label the settings, bound the axis of values, and mark zero where values may be negative."""
    places = range(len(names))
    if joined:
        ax.set_xticks(places, names)
        ax.set_ylim(*ends)
    else:
        ax.set_yticks(places, names if first else [])
        ax.set(ylim=(len(names) - 0.4, -0.6), xlim=ends)
        ax.grid(axis="y", visible=False)
    if ends[0] < -3:
        (ax.axhline if joined else ax.axvline)(0, color="#333333", linewidth=1)
