"""Figures of what models learnt and answered: losses, scores, lengths, ablations."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.report.figures import FORM_NAMES, MIXTURE_COLOURS, log_histogram, new_axes, styled

_MARKS = "osD^vPX"
_LINES = ("-", "--", ":", "-.")


@styled
def loss_curves(losses: pd.DataFrame, *, names: Mapping[str, str], smooth: int) -> Figure:
    """Show the loss of every training over its steps, thin, and the mean over `smooth` steps."""
    figure, (ax,) = new_axes(9, 4.2)
    for (mixture, label), line in zip(names.items(), ("-", "--"), strict=False):
        runs = [run for _, run in losses[losses.mixture == mixture].groupby("seed")]
        colour = MIXTURE_COLOURS[mixture]
        for run in runs:
            ax.plot(run.step, run.loss, color=colour, alpha=0.2, linewidth=0.8)
        mean = losses[losses.mixture == mixture].groupby("step").loss.mean()
        smoothed = mean.rolling(smooth, min_periods=1).mean()
        ax.plot(smoothed.index, smoothed, line, color=colour, linewidth=2, label=label)
    ax.set(xlabel="optimiser step", ylabel="loss (nats per supervised token)", ylim=(0, None))
    ax.set_title(f"Training loss, thin: every step, thick: mean of {smooth} steps")
    ax.legend(frameon=False)
    return figure


@styled
def form_bars(losses: pd.DataFrame, *, names: Mapping[str, str]) -> Figure:
    """Show the loss by form of answer, one bar per mixture, the number of tokens beside."""
    wide = losses.pivot_table(index="form", columns="mixture", values="loss")
    order = [form for form in (*FORM_NAMES, "other") if form in wide.index]
    figure, (ax,) = new_axes(9, 1.4 + 0.55 * len(order))
    places = np.arange(len(order))
    for number, (mixture, label) in enumerate(names.items()):
        values = wide[mixture].reindex(order)
        height = 0.8 / len(names)
        drawn = ax.barh(
            places + (number - (len(names) - 1) / 2) * height,
            values,
            height,
            color=MIXTURE_COLOURS[mixture],
            hatch="" if number else "//",
            edgecolor="white",
            label=label,
        )
        ax.bar_label(drawn, fmt="%.2f", padding=3, fontsize=9)
    ax.set_yticks(places, [FORM_NAMES.get(form, form) for form in order])
    ax.set(xlabel="loss (nats per supervised token)", ylim=(len(order) - 0.4, -0.6))
    ax.set_title("Loss by form of answer, last quarter of the training")
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@styled
def difference_plot(
    differences: pd.DataFrame, *, names: Mapping[str, str], title: str, xlabel: str
) -> Figure:
    """Show differences with their intervals: a row per metric, a mark per model.

    `differences` has the columns model, metric, difference, low, high.
    """
    metrics = list(dict.fromkeys(differences.metric))
    models = [name for name in names if name in set(differences.model)]
    figure, (ax,) = new_axes(9, 1.6 + 0.5 * len(metrics))
    for number, model in enumerate(models):
        own = differences[differences.model == model].set_index("metric").reindex(metrics)
        places = np.arange(len(metrics)) + (number - (len(models) - 1) / 2) * 0.22
        spread = np.abs(own[["low", "high"]].to_numpy().T - own.difference.to_numpy())
        ax.errorbar(
            own.difference,
            places,
            xerr=spread,
            fmt="osD^v"[number % 5],
            color=MIXTURE_COLOURS.get(model, "#444444"),
            capsize=3,
            label=names[model],
        )
    ax.axvline(0, color="#333333", linewidth=1)
    ax.set_yticks(range(len(metrics)), metrics)
    ax.set(xlabel=xlabel, ylim=(len(metrics) - 0.4, -0.6))
    ax.set_title(title)
    ax.grid(axis="y", visible=False)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@styled
def protocol_bars(
    scores: pd.DataFrame,
    *,
    models: Mapping[str, str],
    protocols: Mapping[str, str],
    metrics: Mapping[str, str],
) -> Figure:
    """Show metrics side by side: a panel each, a group of bars per protocol, a bar per model."""
    figure, axes = new_axes(11, 1.4 + 0.5 * len(protocols), columns=len(metrics))
    places = np.arange(len(protocols))
    for ax, (metric, title) in zip(axes, metrics.items(), strict=True):
        for number, (model, label) in enumerate(models.items()):
            own = scores[(scores.metric == metric) & (scores.model == model)]
            own = own.set_index("protocol").reindex(list(protocols))
            spread = np.abs(own[["low", "high"]].to_numpy().T - own.value.to_numpy())
            height = 0.8 / len(models)
            ax.barh(
                places + (number - (len(models) - 1) / 2) * height,
                own.value,
                height,
                xerr=spread,
                color=MIXTURE_COLOURS.get(model, "#444444"),
                hatch=("", "//", "..")[number % 3],
                edgecolor="white",
                error_kw={"capsize": 2, "linewidth": 1, "ecolor": "#222222"},
                label=label,
            )
        ax.set_title(title, fontsize=11)
        ax.set(xlim=(0, 100), xlabel="percent", ylim=(len(protocols) - 0.4, -0.6))
        ax.set_yticks(places, list(protocols.values()) if ax is axes[0] else [])
        ax.grid(axis="y", visible=False)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@styled
def length_grid(
    answers: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show answer lengths in words (bars) and tokens (line): a row per model, a column a protocol.

    `answers` has the columns model, protocol, words, tokens.  Panels without answers stay empty.
    """
    figure, axes = new_axes(
        3.6 * len(protocols), 2.1 * len(models) + 0.9, rows=len(models), columns=len(protocols)
    )
    figure.suptitle("How long the answers are", fontweight="bold", x=0.01, ha="left")
    top = max(2, int(answers[["words", "tokens"]].max().max()))
    cells = [(model, protocol) for model in models for protocol in protocols]
    for ax, (model, protocol) in zip(axes, cells, strict=True):
        own = answers[(answers.model == model) & (answers.protocol == protocol)]
        if not len(own):
            ax.axis("off")
            continue
        ax.set_title(f"{models[model]}: {protocols[protocol]}", fontsize=10, fontweight="normal")
        log_histogram(ax, own.words, top=top)
        _token_line(ax, own.tokens, top=top)
        share = (own.words <= SHORT_WORDS).mean() * 100
        note = f"median {own.words.median():.0f} words\n{share:.0f} % of {SHORT_WORDS} or fewer"
        ax.annotate(note, (0.97, 0.93), xycoords="axes fraction", ha="right", va="top", fontsize=9)
        ax.set_ylim(0, 100)
    figure.supxlabel("words (bars) and tokens (line) in the answer, log scale")
    figure.supylabel("share of answers (%)")
    return figure


def _token_line(ax: Axes, tokens: pd.Series, *, top: int) -> None:
    bins = np.unique(np.round(np.geomspace(1, top + 1, 28)).astype(int))
    weights = np.full(len(tokens), 100 / len(tokens))
    ax.hist(tokens.clip(lower=1), bins=bins, weights=weights, histtype="step", color="#c44e52")


@styled
def length_curves(
    answers: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show the share of answers of at most so many words: a panel per model, a line a protocol."""
    figure, axes = new_axes(3.8 * len(models), 3.4, columns=len(models))
    figure.suptitle("Share of answers up to a length", fontweight="bold", x=0.01, ha="left")
    top = max(2, int(answers.words.max()))
    for ax, (model, label) in zip(axes, models.items(), strict=True):
        for number, (protocol, named) in enumerate(protocols.items()):
            words = answers.words[(answers.model == model) & (answers.protocol == protocol)]
            if len(words):
                shares = np.arange(1, len(words) + 1) / len(words) * 100
                style = {"linestyle": _LINES[number % 4], "where": "post"}
                ax.step(np.sort(words.clip(lower=1)), shares, label=named, **style)
        ax.axvline(SHORT_WORDS, color="#999999", linewidth=1)
        ax.set(xscale="log", xlim=(0.9, top * 1.2), ylim=(0, 101))
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300) if tick <= top * 1.2]
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_title(label, fontsize=11)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel("words in the answer (log scale); the grey line marks three")
    figure.supylabel("share of answers (%)")
    return figure


@styled
def setting_plot(
    table: pd.DataFrame,
    *,
    series: Mapping[str, str],
    panels: Mapping[str, str],
    title: str,
    xlabel: str,
    by: str = "protocol",
    joined: bool = True,
) -> Figure:
    """Show values with intervals over settings: a panel per metric, a line per series.

    `table` has the columns setting, metric, value, low, high and the one named `by`, whose values
    `series` names; settings stand in the order they first occur.  `joined` draws lines.
    """
    table = table[table[by].isin(series)]
    settings = list(dict.fromkeys(table.setting))
    figure, axes = new_axes(1.2 + 4.6 * len(panels), 4.0, columns=len(panels))
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    for ax, (metric, label) in zip(axes, panels.items(), strict=True):
        for number, (name, named) in enumerate(series.items()):
            own = table[(table.metric == metric) & (table[by] == name)]
            own = own.set_index("setting").reindex(settings)
            places = np.arange(len(settings)) + (number - (len(series) - 1) / 2) * 0.08
            ax.errorbar(
                places,
                own.value,
                yerr=np.abs(own[["low", "high"]].to_numpy().T - own.value.to_numpy()),
                fmt=_MARKS[number % 7] + (_LINES[number % 4] if joined else ""),
                color=MIXTURE_COLOURS.get(name, ("#1f5fa8", "#d1752a", "#555555")[number % 3]),
                capsize=3,
                label=named,
            )
        ax.set(ylim=(0, 100), xlabel=xlabel, ylabel="percent")
        turned = max(map(len, settings)) * len(settings) > 45
        ax.set_xticks(range(len(settings)), settings, rotation=35 if turned else 0,
                      ha="right" if turned else "center")  # fmt: skip
        ax.set_title(label, fontsize=11)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@styled
def margin_histograms(
    margins: pd.DataFrame, *, models: Mapping[str, str], protocols: Mapping[str, str]
) -> Figure:
    """Show how far the short answer is ahead of the full one: a panel per model, in nats.

    `margins` has the columns model, protocol, margin.
    """
    shown = {name: label for name, label in models.items() if name in set(margins.model)}
    figure, axes = new_axes(3.8 * len(shown), 3.2, columns=len(shown))
    title = "How much likelier the model begins the short answer than the full one"
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    bins = np.linspace(margins.margin.min(), margins.margin.max() + 1e-6, 30)
    for ax, (model, label) in zip(axes, shown.items(), strict=True):
        for number, (protocol, named) in enumerate(protocols.items()):
            own = margins.margin[(margins.model == model) & (margins.protocol == protocol)]
            weights = np.full(len(own), 100 / max(len(own), 1))
            colour = ("#8fb4d9", "#c44e52")[number % 2]
            style = {"histtype": "stepfilled" if number == 0 else "step", "linewidth": 1.6}
            ax.hist(own, bins=bins, weights=weights, color=colour, label=named, **style)
        ax.axvline(0, color="#333333", linewidth=1)
        ax.set_title(label, fontsize=11)
    axes[-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    figure.supxlabel("log-probability of the short start minus that of the full start (nats)")
    figure.supylabel("share of questions (%)")
    return figure
