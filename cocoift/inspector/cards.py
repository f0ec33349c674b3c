"""An image of the merged set as HTML: turns, drops, decisions and answers, all text escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cocoift.core.templates import render_part
from cocoift.core.text import counted
from cocoift.inspector.data import ImageView, Inspection
from cocoift.inspector.overlay import colour_of, overlay
from cocoift.merge.curation import Decision
from cocoift.merge.rules import TurnKey


def turn_table(
    view: ImageView, titles: Mapping[str, str], flags: Mapping[TurnKey, Decision]
) -> Markup:
    """Return the kept turns in the order of the merged record, with decisions in words."""
    rows = []
    for turn in view.turns:
        source = turn["source"]
        flag = flags.get((source, turn["dialog_id"], turn["round"]))
        rows.append((turn, titles.get(source, source), colour_of(source), flag))
    records = len({turn["record"] for turn in view.turns})
    caption = f"{counted(len(rows), 'turn')} in {counted(records, 'record')}; image: {view.licence}"
    return render_part("inspector.html", "turns", caption, rows, any(row[3] for row in rows))


def dropped_table(view: ImageView, titles: Mapping[str, str], reasons: Mapping[str, str]) -> Markup:
    """Return the dropped turns, collapsed, with the reason for each in words."""
    rows = [(turn, reasons.get(turn["reason"], turn["reason"]),
             titles.get(turn["source"], turn["source"])) for turn in view.dropped]  # fmt: skip
    return render_part("inspector.html", "dropped", counted(len(rows), "dropped turn"), rows)


def answer_table(answers: pd.DataFrame, protocols: tuple[str, str]) -> Markup:
    """Return an image's answers under two protocols side by side, with scores and reasons.

    `answers` are the rows of `verdicts.csv.gz` about the image.
    """
    rows = []
    shown = answers[answers.protocol.isin(protocols)]
    for (question, model, seed), group in shown.groupby(["question", "model", "seed"], sort=False):
        by_protocol = group.drop_duplicates("protocol").set_index("protocol").to_dict("index")
        rows.append((question, f"{model}, seed {seed}", *map(by_protocol.get, protocols)))
    return render_part("inspector.html", "answers", rows, *protocols)


def legend(view: ImageView, colours: Mapping[str, str]) -> Markup:
    """Return the categories of an image with their numbers of instances."""
    counts = Counter(row["category"] for row in view.instances)
    shown = {name: (colours[name], count) for name, count in sorted(counts.items())}
    return render_part("inspector.html", "legend", shown)


def image_card(*, title: str, drawn: Markup, parts: Sequence[Markup]) -> Markup:
    """Return the static card of an image: the content of the widget without its controls."""
    return render_part("inspector.html", "card", title, drawn, parts)


def raw_card(name: str, text: str) -> Markup:
    """Return an upstream record as text, headed by the name of its file."""
    return render_part("inspector.html", "raw", name, text)


def turn_label(number: int, turn: Mapping[str, Any]) -> str:
    """Return a turn's name for the list of turns: short, without control characters."""
    text = "".join(c if c.isprintable() else " " for c in turn["instruction"])
    return f"{number + 1} {turn['source']}: {text[:60]}"


def drawn_image(
    inspection: Inspection,
    view: ImageView,
    *,
    layers: Sequence[str],
    categories: Sequence[str] | None,
) -> Markup:
    """Return an image with its instances drawn over it, and the legend of their categories."""
    names = sorted({row["category"] for row in view.instances})
    alt = f"image {view.image_id}: {', '.join(names) or 'no instances'}"
    drawn = overlay(
        Path(view.file),
        inspection.image_root,
        view.instances,
        layers=layers,
        categories=categories,
        alt=alt,
    )
    return drawn + legend(view, {name: colour_of(name) for name in names})
