"""Figures: every one has a title, units, readable names and an alternative text."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from itertools import islice
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cocoift.core.files import replacing
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.sources.coco import Instance

P = ParamSpec("P")

FORM_NAMES = {
    "phrase": "short phrase",
    "number": "number",
    "yes_no": "yes or no",
    "choice": "letter of an option",
    "sentence": "sentence",
    "paragraph": "paragraph",
    "explanation": "phrase and explanation",
    "free": "no stated length",
}
MIXTURE_COLOURS = {"base": "#7f7f7f", "mix": "#d1752a", "merged": "#1f5fa8"}
_STYLE = {
    **sns.axes_style("whitegrid"),
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw a figure in the study's style without changing matplotlib's settings for others."""

    @wraps(draw)
    def with_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return with_style


def show(figure: Figure, path: Path, *, alt: str) -> HTML:
    """Save a figure as PNG and return it for display, with a text for those who cannot see it.

    256 colours do for a figure and take a third of the room, three times: here, in the notebook,
    and in its page.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight")
    with replacing(path) as temporary, Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True)
    data = base64.b64encode(path.read_bytes()).decode()
    return HTML(
        f'<img alt="{html.escape(alt)}" style="max-width:100%" src="data:image/png;base64,{data}">'
    )


def new_axes(
    width: float, height: float, *, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    """Return a figure outside pyplot, so that notebooks do not show it twice."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def sample_pictures(
    instances: Mapping[int, Sequence[tuple[Instance, str]]], folder: Path, *, count: int
) -> list[tuple[Path, str, Sequence[tuple[Instance, str]]]]:
    """Return the first pictures that are in `folder`, those with crowds before the others."""
    crowds_first = sorted(instances, key=lambda i: (-any(x.iscrowd for x, _ in instances[i]), i))
    named = ((folder / f"{image_id:012d}.jpg", image_id) for image_id in crowds_first)
    found = islice(((path, image_id) for path, image_id in named if path.is_file()), count)
    return [(path, f"image {image_id}", instances[image_id]) for path, image_id in found]


@styled
def picture_grid(
    pictures: Sequence[tuple[Path, str, Sequence[tuple[Instance, str]]]], *, title: str
) -> Figure:
    """Show pictures with their boxes named, five a row, each with its caption below."""
    columns = 5
    rows = -(-len(pictures) // columns)
    figure, axes = new_axes(12, 3.2 * rows, rows=rows, columns=columns)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    for ax in axes:
        ax.axis("off")
    for ax, (path, caption, instances) in zip(axes, pictures, strict=False):
        with Image.open(path) as picture:
            ax.imshow(picture.convert("RGB"), interpolation="nearest")
        for instance, name in instances:
            x, y, width, height = instance.bbox
            line = ":" if instance.iscrowd else "-"
            ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#d62728", ls=line))
            box = {"facecolor": "#a31515", "pad": 1, "lw": 0}
            ax.text(x, y - 0.5, name, fontsize=7, color="white", bbox=box)
        ax.text(0.5, -0.05, caption, fontsize=9, ha="center", va="top", transform=ax.transAxes)
    return figure


@styled
def overlap_map(counts: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Show what share of the images of one source (row) another annotates too (column)."""
    shares = counts.div(np.maximum(np.diag(counts), 1), axis=0) * 100
    shares = shares.rename(index=names, columns=names)
    size = 2.6 + 0.42 * len(shares)
    figure, (ax,) = new_axes(size + 1.6, size)
    sns.heatmap(
        shares,
        ax=ax,
        cmap="Blues",
        vmin=0,
        vmax=100,
        annot=True,
        fmt=".0f",
        annot_kws={"size": 8},
        linewidths=0.5,
        cbar_kws={"label": "share of the row's images (%)", "shrink": 0.6},
    )
    ax.set_title("Images that two sources share", pad=12)
    ax.set(xlabel="is annotated by this source too", ylabel="of the images of this source")
    ax.tick_params(axis="x", rotation=60)
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation_mode="anchor")
    ax.tick_params(axis="y", rotation=0)
    return figure


@styled
def length_histograms(
    words: pd.DataFrame, *, by: str, names: Mapping[str, str], title: str
) -> Figure:
    """Show a histogram of answer lengths per group, log scale, medians marked, shortest first."""
    medians = words.groupby(by).words.median().sort_values(kind="stable")
    columns = 4
    rows = -(-len(medians) // columns)
    figure, axes = new_axes(12, 1.9 * rows + 0.8, rows=rows, columns=columns)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    top = max(2, int(words.words.max()))
    for ax, (name, median) in zip(axes, medians.items(), strict=False):
        log_histogram(ax, words.words[words[by] == name], top=top)
        ax.axvline(max(median, 1), color="#c44e52", linewidth=1.5)
        label = f"{names.get(str(name), name)}, median {median:.0f}"
        ax.set_title(label, fontsize=10, fontweight="normal")
    for ax in axes[len(medians) :]:
        ax.axis("off")
    figure.supxlabel("words in the answer (log scale)")
    figure.supylabel("share of turns (%)")
    return figure


def log_histogram(ax: Axes, words: pd.Series, *, top: int) -> None:
    """Draw shares in percent over word counts on a log axis; an empty answer counts as one word."""
    bins = np.unique(np.round(np.geomspace(1, top + 1, 28)).astype(int))
    values = words.clip(lower=1)
    weights = np.full(len(values), 100 / max(len(values), 1))
    ax.hist(values, bins=bins, weights=weights, color="#3b75af", edgecolor="white", linewidth=0.4)
    ax.set_xscale("log")
    ax.set_xlim(0.9, top * 1.2)
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300) if tick <= top * 1.2]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


@styled
def stacked_shares(shares: pd.DataFrame, *, title: str, xlabel: str) -> Figure:
    """Show rows as bars of 100 %, columns as their parts, values written where they fit."""
    figure, (ax,) = new_axes(10, 1.6 + 0.36 * len(shares))
    left = np.zeros(len(shares))
    palette = sns.color_palette("colorblind", len(shares.columns))
    for (name, column), colour in zip(shares.items(), palette, strict=True):
        values = column.to_numpy() * 100
        ax.barh(shares.index, values, left=left, color=colour, label=name, edgecolor="white")
        light = sum(colour) > 1.5
        for y, (start, value) in enumerate(zip(left, values, strict=True)):
            if value >= 8:
                ax.text(start + value / 2, y, f"{value:.0f}", ha="center", va="center", fontsize=9,
                        color="black" if light else "white")  # fmt: skip
        left += values
    ax.set(xlim=(0, 100), ylim=(len(shares) - 0.4, -0.6), xlabel=xlabel)
    ax.set_title(title)
    ax.grid(axis="y", visible=False)
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


@styled
def histogram(
    values: pd.Series, *, title: str, xlabel: str, ylabel: str, limit: float | None = None
) -> Figure:
    """Show a histogram of whole numbers; `limit` draws a line that values must not pass."""
    figure, (ax,) = new_axes(7.5, 3.6)
    discrete = values.max() - values.min() <= 40
    sns.histplot(
        values,
        ax=ax,
        discrete=discrete,
        bins="auto" if discrete else 40,
        color="#3b75af",
        alpha=1,
        edgecolor="white",
    )
    if limit is not None:
        ax.axvline(limit, color="#c44e52", linewidth=1.5)
        across = ax.get_xaxis_transform()
        ax.text(limit, 0.95, f"limit {limit:.0f} ", ha="right", color="#a33", transform=across)
    if discrete:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_title(title)
    return figure


@styled
def bars(values: pd.Series, *, title: str, xlabel: str) -> Figure:
    """Show one horizontal bar per index entry, its value written behind it."""
    figure, (ax,) = new_axes(8, 1.2 + 0.36 * len(values))
    drawn = ax.barh(values.index, values, color="#3b75af")
    ax.bar_label(drawn, labels=[f"{value:,.0f}" for value in values], padding=4, fontsize=9)
    ax.set(xlabel=xlabel, ylim=(len(values) - 0.4, -0.6), xlim=(0, values.max() * 1.12))
    ax.set_title(title)
    ax.grid(axis="y", visible=False)
    return figure


def drop_bars(drops: pd.DataFrame, names: Mapping[str, str], reasons: Mapping[str, str]) -> Figure:
    """Show per source what share of its turns was kept, and the most frequent reasons of drops."""
    wide = drops.pivot_table(index="source", columns="reason", values="turns", fill_value=0)
    ranked = sorted(set(wide.columns) - {"kept"}, key=lambda name: -wide[name].sum())
    shown = wide.reindex(columns=["kept", *ranked[:6]], fill_value=0).rename(columns=reasons)
    shown["other reasons"] = wide[ranked[6:]].sum(axis=1)
    shares = shown.div(wide.sum(axis=1), axis=0).sort_values("kept").rename(index=names)
    return stacked_shares(
        shares, title="What the merge keeps and drops", xlabel="share of the source's turns (%)"
    )


@styled
def lengths_by_mixture(rounds: pd.DataFrame, *, names: Mapping[str, str]) -> Figure:
    """Show answer lengths per mixture: of all answers, and of those that follow a short answer."""
    mixtures = list(names)
    figure, axes = new_axes(11, 2.7 * len(mixtures) + 0.6, rows=len(mixtures), columns=2)
    figure.suptitle(
        "Answer lengths of both mixtures, per round", fontweight="bold", x=0.01, ha="left"
    )
    short = rounds.previous_words.between(1, SHORT_WORDS)
    top = max(2, int(rounds.words.max()))
    for row, mixture in enumerate(mixtures):
        own = rounds.mixture == mixture
        panels = (
            (own, "all answers"),
            (own & short, f"answers after one of at most {SHORT_WORDS} words"),
        )
        for ax, (chosen, what) in zip(axes[2 * row : 2 * row + 2], panels, strict=True):
            values = rounds.words[chosen]
            share = (values <= SHORT_WORDS).mean() * 100 if len(values) else float("nan")
            log_histogram(ax, values, top=top)
            ax.set_title(f"{names[mixture]}: {what}", fontsize=11)
            ax.annotate(f"{share:.0f} % have at most {SHORT_WORDS} words", (0.98, 0.9), fontsize=10,
                        xycoords="axes fraction", ha="right")  # fmt: skip
            ax.set_ylim(0, 100)
    figure.supxlabel("words in the answer (log scale)")
    figure.supylabel("share of answers (%)")
    return figure
