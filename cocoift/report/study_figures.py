"""The figures that show this study's own tables: images, overlap, training, lengths, margins."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cocoift.core.images import open_image, place_labels
from cocoift.evaluation.choice import TRUTH_FIRST, chance
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import AFTER, ALONE
from cocoift.evaluation.score import COLLAPSE
from cocoift.report.figures import (
    MARKS,
    PANELS,
    colour_of,
    facets,
    interval_plot,
    log_words,
    new_axes,
    stacked_shares,
    styled,
)
from cocoift.sources.instances import Instance

Named = tuple[Instance, str]

_FEW_BOXES = 6  # that can be told apart in a small image
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


def sample_images(
    instances: Mapping[int, Sequence[Named]], folder: Path, *, count: int
) -> list[tuple[Path, str, Sequence[Named]]]:
    """Return images that are in `folder`, those first whose boxes can be told apart.

    These have no crowd, two to six instances, and more than one category.
    """

    def crowded(image_id: int) -> tuple[bool, bool, bool, int]:
        boxes = instances[image_id]
        few, kinds = 2 <= len(boxes) <= _FEW_BOXES, {name for _, name in boxes}
        return any(box.iscrowd for box, _ in boxes), not few, len(kinds) < 2, image_id

    paths = ((folder / f"{image_id:012d}.jpg", image_id)
             for image_id in sorted(instances, key=crowded))  # fmt: skip
    found = islice(((path, image_id) for path, image_id in paths if path.is_file()), count)
    return [(path, f"image {image_id}", instances[image_id]) for path, image_id in found]


@styled
def image_grid(
    images: Sequence[tuple[Path, str, Sequence[Named]]], *, title: str, columns: int = 5
) -> Figure:
    """Show images with their boxes, each named where there is room, and what they hold above."""
    rows, opened = -(-len(images) // columns), [open_image(path) for path, *_ in images]
    tallest = max(image.height / image.width for image in opened)
    height = rows * (12 / columns * tallest + 0.6) + 0.5
    figure, axes = new_axes(12, height, title=title, rows=rows, columns=columns)
    for ax in axes:
        ax.axis("off")
    if any(instance.iscrowd for *_, instances in images for instance, _ in instances):
        figure.suptitle(f"{title} (dotted: a crowd)", x=0.01, ha="left")
    for ax, image, (_, caption, instances) in zip(axes, opened, images, strict=False):
        ax.imshow(image, interpolation="nearest")
        for instance, _ in instances:
            x, y, width, height = instance.bbox
            line = ":" if instance.iscrowd else "-"
            ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#d62728", ls=line))
        counts = Counter(
            f"{name} (crowd)" if instance.iscrowd else name for instance, name in instances
        )
        held = ", ".join(f"{name}\u00a0×\u00a0{count}" for name, count in counts.items())
        ax.set_title(fill(f"{caption}: {held}", 34, max_lines=2, placeholder=" …"), fontsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed in the layout as it is now
    for ax, (*_, instances) in zip(axes, images, strict=False):
        _name_boxes(ax, instances, dpi=figure.dpi)
    return figure


def _name_boxes(ax: Axes, instances: Sequence[Named], *, dpi: float) -> None:
    """Write the names of boxes into an image that is laid out, as `place_labels` has them."""
    ground = {"facecolor": "#a31515", "pad": 1, "lw": 0}
    texts = [ax.text(0, 0, name, fontsize=7, color="white", va="top", bbox=ground)
             for _, name in instances]  # fmt: skip
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]  # half a pixel beyond the last one
    scale = right / ax.bbox.width
    pad, extents = scale * dpi / 72, [text.get_window_extent() for text in texts]
    # Letters are a little wider at another resolution.
    sizes = [
        (1.06 * text.width * scale + 2 * pad, text.height * scale + 2 * pad) for text in extents
    ]
    places = place_labels([instance.bbox for instance, _ in instances], sizes, (right, bottom))
    for text, place in zip(texts, places, strict=True):
        if place is None:
            text.remove()
        else:
            text.set_position((place[0] + pad, place[1] + pad))


@styled
def overlap_map(counts: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Show what share of the images of one source (row) another annotates too (column)."""
    shares = counts.div(np.maximum(np.diag(counts), 1), axis=0) * 100
    shares = shares.rename(index=names, columns=names)
    size = 2.6 + 0.42 * len(shares)
    figure, (ax,) = new_axes(size + 1.6, size, title="Images that two sources share")
    bar = {"label": "share of the row's images (%)", "shrink": 0.6}
    look = {"cmap": "Blues", "vmin": 0, "vmax": 100, "linewidths": 0.5, "cbar_kws": bar}
    sns.heatmap(shares, ax=ax, annot=True, fmt=".0f", annot_kws={"size": 8}, **look)
    ax.set(xlabel="is annotated by this source too", ylabel="of the images of this source")
    ax.tick_params(axis="y", rotation=0)
    for label in ax.get_xticklabels():
        label.set(rotation=60, ha="right", rotation_mode="anchor")
    return figure


def drop_bars(drops: pd.DataFrame, names: Mapping[str, str], reasons: Mapping[str, str]) -> Figure:
    """Show per source what share of its turns was kept, and the most frequent reasons of drops."""
    wide = drops.pivot_table(index="source", columns="reason", values="turns", fill_value=0)
    ranked = sorted(set(wide.columns) - {"kept"}, key=lambda name: -wide[name].sum())
    shown = wide.reindex(columns=["kept", *ranked[:6]], fill_value=0).rename(columns=reasons)
    shown["other reasons"] = wide[ranked[6:]].sum(axis=1)
    shares = shown.div(wide.sum(axis=1), axis=0).sort_values("kept").rename(index=names)
    title, xlabel = "What the merge keeps and drops", "share of the source's turns (%)"
    return stacked_shares(shares, title=title, xlabel=xlabel)


def lengths(
    table: pd.DataFrame, *, title: str, panels: Sequence[str] | None = None, columns: int = PANELS
) -> Figure:
    """Show answer lengths on a log scale: a histogram per panel, its median and short share noted.

    `table` has the columns panel and words.
    """
    counts = table.assign(words=table.words.clip(lower=1), series="")  # a log scale has no zero
    top = max(2, int(counts.words.max()))
    bins = np.unique(np.round(np.geomspace(1, top + 1, 28)).astype(int))
    texts = (title, "words in the answer, log scale", "share of answers (%)")
    figure = facets(counts, x="words", texts=texts, panels=panels, columns=columns, bins=bins,
                    stat="percent", common_norm=False, element="step")  # fmt: skip
    words = dict(list(table.groupby("panel").words))
    for ax in figure.axes:
        if (panel := ax.get_title(loc="left")) in words:
            short = (words[panel] <= SHORT_WORDS).mean()
            note = f"median {words[panel].median():.0f}\n{short:.0%} of {SHORT_WORDS} or fewer"
            ax.text(0.97, 0.95, note, transform=ax.transAxes, ha="right", va="top", fontsize=9)
        log_words(ax, top)
        ax.set_ylim(0, 100)
    return figure


def length_curves(
    answers: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show the cumulative share of answers by words: a panel per model, a line per protocol."""
    table = _by_protocol(answers, models, protocols)
    table["words"] = table.words.clip(lower=1)
    panels = [label for label in models.values() if label in set(table.panel)]
    xlabel = "words in the answer, log scale; the grey line marks three"
    texts = ("Share of answers up to a length", xlabel, "share of answers (%)")
    figure = facets(table, x="words", texts=texts, kind="ecdf", panels=panels, stat="percent")
    for ax in figure.axes:
        ax.axvline(SHORT_WORDS, color="#999999", linewidth=1)
        log_words(ax, max(2, int(table.words.max())))
    return figure


def margin_histograms(
    margins: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show how far the short answer is ahead of the full one: a panel per model, in nats.

    `margins` has the columns model, protocol, margin.
    """
    texts = ("How much likelier the model begins the short answer than the full one",
             "log-probability of the short start minus that of the full start (nats)",
             "share of questions (%)")  # fmt: skip
    table = _by_protocol(margins, models, protocols)
    panels = [label for label in models.values() if label in set(table.panel)]
    look: Any = {"stat": "percent", "common_norm": False, "bins": 29, "element": "step"}
    figure = facets(table, x="margin", texts=texts, panels=panels, **look)
    for ax in figure.axes:
        ax.axvline(0, color="#333333", linewidth=1)
    return figure


def _by_protocol(
    table: pd.DataFrame, models: Mapping[str, str], protocols: Mapping[str, str]
) -> pd.DataFrame:
    """Return the rows of these models and protocols: a panel per model, a series per protocol."""
    rows = table.assign(panel=table.model.map(models), series=table.protocol.map(protocols))
    order = {label: place for place, label in enumerate(protocols.values())}
    return rows.dropna(subset=["panel", "series"]).sort_values(
        "series", key=lambda labels: labels.map(order), kind="stable"
    )


def knows_and_says(
    levels: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show what models say beside what they know: own answers that collapse, truths ranked first.

    `levels` is `choice.choice_table`; a line marks what guessing ranks first.
    """
    panels = {COLLAPSE: "says: three words or fewer (%)",
              TRUTH_FIRST: "knows: truth ranked first (%)"}  # fmt: skip
    table, asked = levels.assign(setting=levels.protocol), set(levels.protocol)
    named = {name: fill(label, 22) for name, label in protocols.items() if name in asked}
    series = {name: label for name, label in models.items() if name in set(table.model)}
    title = "What the models say, and which of the sentences they hold for likeliest"
    figure = interval_plot(table, panels=panels, series=series, settings=named, title=title)
    guessed = chance(levels)
    figure.axes[1].axvline(guessed, color="#333333", linestyle=":", linewidth=1.2)
    figure.axes[1].text(guessed + 1, -0.5, "chance", color="#333333", va="top", fontsize=9)
    return figure


def loss_curves(losses: pd.DataFrame, *, names: Mapping[str, str], smooth: int) -> Figure:
    """Show the loss of every training over its steps, thin, and the mean over `smooth` steps."""
    texts = (f"Training loss; thin: every step, thick: mean of {smooth} steps", "optimiser step",
             "loss (nats per supervised token)")  # fmt: skip
    table = losses.assign(panel="", series=losses.mixture.map(names))
    figure = facets(table, x="step", y="loss", kind="line", texts=texts, units="seed",
                    estimator=None, alpha=0.2, linewidth=0.8)  # fmt: skip
    for name, rows in table.groupby("series", sort=False):
        mean = rows.groupby("step").loss.mean().rolling(smooth, min_periods=1).mean()
        figure.axes[0].plot(mean.index, mean, color=colour_of(str(name), 0), linewidth=2)
    figure.axes[0].set_ylim(0, None)
    return figure


ARMS = {
    "mix": "prompt in the first turn, sources apart (LLaVA-style)",
    "first-mixed": "prompt in the first turn, sources mixed",
    "every-apart": "prompt in every turn, sources apart",
    "merged": "prompt in every turn, sources mixed (merged)",
}
WORDINGS = {
    "short sources": "worded as in the short-answer sources",
    "conversations": "worded as in the conversational sources",
    "never tuned on": "worded as in no source",
}


@styled
def headline(levels: pd.DataFrame, models: Mapping[str, str]) -> Figure:
    """Show short answers alone and after the short round: a panel a wording, a line a training.

    `levels` is `evaluation.wording_levels`; `models` are the labels of those to show.
    """
    known = [name for name in WORDINGS if name in set(levels.wording)]
    panels = known + [name for name in dict.fromkeys(levels.wording) if name not in known]
    shown = {name: label for name, label in models.items() if name in set(levels.model)}
    title = "Answers of three words or fewer, before and after one short-answer round"
    figure, axes = new_axes(2 + 3.4 * len(panels), 5.2, title=title, columns=len(panels))
    colours = {name: colour_of(name, number + 1) for number, name in enumerate(shown)}
    for ax, panel in zip(axes, panels, strict=True):
        ends = {}
        for place, name in enumerate(shown):
            rows = levels[(levels.wording == panel) & (levels.model == name)]
            wide = rows.pivot_table(index="seed", columns="protocol", values="short")
            wide = wide.reindex(columns=[ALONE, AFTER])
            aside = 0.035 * (place - (len(shown) - 1) / 2)
            look: Any = {"color": colours[name], "marker": MARKS[place % 7], "markersize": 5}
            ax.plot([aside, 1 + aside], wide.to_numpy().T, alpha=0.6, linewidth=1.3, **look)
            ax.plot([], [], label=shown[name], **look)
            ends[name] = wide[AFTER].mean()
        for name, height in _apart(ends, 6).items():
            ax.text(1.12, height, f"{ends[name]:.0f}", color=colours[name], va="center")
        closed = levels[levels.wording == panel].closed.mean()
        ax.set(xlim=(-0.15, 1.3), ylim=(-3, 103))
        ax.set_title(f"{WORDINGS.get(panel, panel)}\n({closed:.0f} % closed questions)")
        ax.set_xticks([0, 1], ["alone", "after one short-\nanswer round"])
        ax.tick_params(axis="y", labelleft=ax is axes[0])
        ax.grid(axis="x", visible=False)
    axes[0].set_ylabel("answers of three words or fewer (%)")
    handles, labels = axes[0].get_legend_handles_labels()
    meaning = "a line: one training; a number: the mean over trainings"
    below: Any = {"loc": "outside lower left", "ncols": 2, "title": meaning}
    figure.legend(handles, labels, alignment="left", **below)
    return figure


def _apart(heights: Mapping[str, float], least: float) -> dict[str, float]:
    """Return heights that are at least so far apart, in their order, moved up where they must."""
    found: dict[str, float] = {}
    last = -np.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        if not np.isnan(height):
            last = found[name] = max(height, last + least)
    return found
