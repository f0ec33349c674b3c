"""The figures that show this study's own tables: images, overlap, training, lengths, margins."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cocoift.core.images import open_image, place_labels
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.report.figures import (
    LINES,
    PANELS,
    colour_of,
    legend_beside,
    length_panels,
    log_words,
    new_axes,
    panel_axes,
    stacked_shares,
    styled,
)
from cocoift.sources.instances import Instance

Named = tuple[Instance, str]

_FEW_BOXES = 6  # that can be told apart in a small picture
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


def sample_pictures(
    instances: Mapping[int, Sequence[Named]], folder: Path, *, count: int
) -> list[tuple[Path, str, Sequence[Named]]]:
    """Return images that are in `folder`, those first whose boxes can be told apart.

    These have no crowd, two to six instances, and more than one category.
    """

    def crowded(image_id: int) -> tuple[bool, bool, bool, int]:
        own = instances[image_id]
        few, kinds = 2 <= len(own) <= _FEW_BOXES, {name for _, name in own}
        return any(one.iscrowd for one, _ in own), not few, len(kinds) < 2, image_id

    paths = ((folder / f"{image_id:012d}.jpg", image_id)
             for image_id in sorted(instances, key=crowded))  # fmt: skip
    found = islice(((path, image_id) for path, image_id in paths if path.is_file()), count)
    return [(path, f"image {image_id}", instances[image_id]) for path, image_id in found]


@styled
def picture_grid(
    pictures: Sequence[tuple[Path, str, Sequence[Named]]], *, title: str, columns: int = 5
) -> Figure:
    """Show images with their boxes, each named where there is room, and what they hold above."""
    rows, opened = -(-len(pictures) // columns), [open_image(path) for path, *_ in pictures]
    tallest = max(one.height / one.width for one in opened)
    height = rows * (12 / columns * tallest + 0.6) + 0.5
    figure, axes = new_axes(12, height, title=title, rows=rows, columns=columns)
    for ax in axes:
        ax.axis("off")
    if any(instance.iscrowd for *_, instances in pictures for instance, _ in instances):
        figure.suptitle(f"{title} (dotted: a crowd)", x=0.01, ha="left")
    for ax, picture, (_, caption, instances) in zip(axes, opened, pictures, strict=False):
        ax.imshow(picture, interpolation="nearest")
        for instance, _ in instances:
            x, y, width, height = instance.bbox
            line = ":" if instance.iscrowd else "-"
            ax.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="#d62728", ls=line))
        counts = Counter(f"{name} (crowd)" if one.iscrowd else name for one, name in instances)
        held = ", ".join(f"{name}\u00a0×\u00a0{count}" for name, count in counts.items())
        ax.set_title(fill(f"{caption}: {held}", 34, max_lines=2, placeholder=" …"), fontsize=9)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed in the layout as it is now
    for ax, (*_, instances) in zip(axes, pictures, strict=False):
        _name_boxes(ax, instances, dpi=figure.dpi)
    return figure


def _name_boxes(ax: Axes, instances: Sequence[Named], *, dpi: float) -> None:
    """Write the names of boxes into a picture that is laid out, as `place_labels` has them."""
    ground = {"facecolor": "#a31515", "pad": 1, "lw": 0}
    texts = [ax.text(0, 0, name, fontsize=7, color="white", va="top", bbox=ground)
             for _, name in instances]  # fmt: skip
    right, bottom = ax.get_xlim()[1], ax.get_ylim()[0]  # half a pixel beyond the last one
    scale = right / ax.bbox.width
    pad, extents = scale * dpi / 72, [text.get_window_extent() for text in texts]
    # Letters are a little wider at another resolution.
    sizes = [(1.06 * one.width * scale + 2 * pad, one.height * scale + 2 * pad) for one in extents]
    places = place_labels([one.bbox for one, _ in instances], sizes, (right, bottom))
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


def lengths_by_source(words: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Show answer lengths per source, the shortest median first."""
    medians = words.groupby("source").words.median().sort_values(kind="stable")
    panels = {names[source]: words[words.source == source] for source in medians.index}
    return length_panels(panels, title="Answer lengths by source", columns=4)


def lengths_by_mixture(rounds: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Show answer lengths per mixture: of all answers, and of those that follow a short answer."""
    after = rounds.previous_words.between(1, SHORT_WORDS)
    panels = {
        f"{label}: {what}": rounds[(rounds.mixture == mixture) & chosen]
        for mixture, label in names.items()
        for what, chosen in (("all answers", True), ("after a short answer", after))
    }
    return length_panels(panels, title="Answer lengths by mixture, round by round", columns=2)


def lengths_by_protocol(
    answers: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show answer lengths in words and tokens: a row per model, a column per protocol."""
    panels = {
        f"{label}: {named}": answers[(answers.model == model) & (answers.protocol == protocol)]
        for model, label in models.items()
        for protocol, named in protocols.items()
    }
    return length_panels(panels, title="How long the answers are", columns=len(protocols))


@styled
def length_curves(
    answers: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show the cumulative share of answers by words: a panel per model, a line per protocol."""
    title = "Share of answers up to a length"
    figure, axes = panel_axes(len(models), width=3.8, height=2.9, title=title)
    for ax, (model, label) in zip(axes, models.items(), strict=False):
        for number, (protocol, named) in enumerate(protocols.items()):
            own = answers[(answers.model == model) & (answers.protocol == protocol)]
            words, look = own.words.clip(lower=1), {"ls": LINES[number % 4], "label": named}
            sns.ecdfplot(x=words, stat="percent", ax=ax, color=colour_of("", number), **look)
        ax.axvline(SHORT_WORDS, color="#999999", linewidth=1)
        log_words(ax, max(2, int(answers.words.max())))
        ax.set(xlabel="", ylabel="", ylim=(0, 101))
        ax.set_title(label)
    legend_beside(axes[min(len(axes), PANELS) - 1], panels=axes)
    figure.supxlabel("words in the answer, log scale; the grey line marks three")
    figure.supylabel("share of answers (%)")
    return figure


@styled
def loss_curves(losses: pd.DataFrame, *, names: Mapping[str, str], smooth: int) -> Figure:
    """Show the loss of every training over its steps, thin, and the mean over `smooth` steps."""
    title = f"Training loss; thin: every step, thick: mean of {smooth} steps"
    figure, (ax,) = new_axes(9, 4.2, title=title)
    for number, (mixture, label) in enumerate(names.items()):
        own, colour = losses[losses.mixture == mixture], colour_of(mixture, number)
        for _, run in own.groupby("seed"):
            ax.plot(run.step, run.loss, color=colour, alpha=0.2, linewidth=0.8)
        mean = own.groupby("step").loss.mean().rolling(smooth, min_periods=1).mean()
        ax.plot(mean.index, mean, LINES[number % 4], color=colour, linewidth=2, label=label)
    ax.set(xlabel="optimiser step", ylabel="loss (nats per supervised token)", ylim=(0, None))
    ax.legend()
    return figure


@styled
def margin_histograms(
    margins: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show how far the short answer is ahead of the full one: a panel per model, in nats.

    `margins` has the columns model, protocol, margin.
    """
    shown = {name: label for name, label in models.items() if name in set(margins.model)}
    title = "How much likelier the model begins the short answer than the full one"
    figure, axes = panel_axes(len(shown), width=3.8, height=2.7, title=title)
    span = float(margins.margin.min()), float(margins.margin.max()) + 1e-6
    for ax, (model, label) in zip(axes, shown.items(), strict=False):
        for number, (protocol, named) in enumerate(protocols.items()):
            own = margins.margin[(margins.model == model) & (margins.protocol == protocol)]
            look = {"color": colour_of("", number), "fill": number == 0, "label": named}
            sns.histplot(own, ax=ax, stat="percent", element="step", bins=29, binrange=span, **look)
        ax.axvline(0, color="#333333", linewidth=1)
        ax.set(xlabel="", ylabel="")
        ax.set_title(label)
    legend_beside(axes[min(len(axes), PANELS) - 1], panels=axes)
    figure.supxlabel("log-probability of the short start minus that of the full start (nats)")
    figure.supylabel("share of questions (%)")
    return figure
