"""An image of the merged set as HTML: turns, drops, decisions and answers, every text escaped."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from cocoift.core.templates import render_part
from cocoift.core.text import counted
from cocoift.inspector.data import ImageView, Inspection
from cocoift.inspector.overlay import colour_of
from cocoift.inspector.overlay import overlay as drawn_over
from cocoift.merge.curation import Decision
from cocoift.merge.rules import TurnKey


def turn_table(
    view: ImageView, titles: Mapping[str, str], flags: Mapping[TurnKey, Decision]
) -> Markup:
    """Return the kept turns in the order of the merged record, decisions in words."""
    rows = [
        (
            turn,
            titles.get(turn["source"], turn["source"]),
            colour_of(turn["source"]),
            flags.get((turn["source"], turn["dialog_id"], turn["round"])),
        )
        for turn in view.turns
    ]
    records = len({turn["record"] for turn in view.turns})
    caption = (
        f"{counted(len(rows), 'turn')} in {counted(records, 'record')}; picture: {view.licence}"
    )
    return render_part("inspector.html", "turns", caption, rows, any(row[3] for row in rows))


def dropped_table(view: ImageView, titles: Mapping[str, str], reasons: Mapping[str, str]) -> Markup:
    """Return the dropped turns folded away, with the reason for each in words."""
    rows = [
        (
            turn,
            reasons.get(turn["reason"], turn["reason"]),
            titles.get(turn["source"], turn["source"]),
        )
        for turn in view.dropped
    ]
    return render_part("inspector.html", "dropped", counted(len(rows), "dropped turn"), rows)


def answer_table(answers: pd.DataFrame, *, one: str, other: str) -> Markup:
    """Return a picture's answers under two protocols side by side, with scores and reasons.

    `answers` are rows of `verdicts.csv.gz` about one picture.
    """
    own = answers[answers.protocol.isin([one, other])]
    rows = []
    for (question, model, seed), group in own.groupby(["question", "model", "seed"], sort=False):
        by_protocol = group.drop_duplicates("protocol").set_index("protocol").to_dict("index")
        both = by_protocol.get(one), by_protocol.get(other)
        rows.append((question, f"{model}, seed {seed}", *both))
    return render_part("inspector.html", "answers", rows, one, other)


def legend(view: ImageView, colours: Mapping[str, str]) -> Markup:
    """Return the categories of an image with how often each stands in it."""
    counts = Counter(row["category"] for row in view.instances)
    shown = {name: (colours[name], count) for name, count in sorted(counts.items())}
    return render_part("inspector.html", "legend", shown)


def image_card(*, title: str, overlay: Markup, parts: Sequence[Markup]) -> Markup:
    """Return the static card of an image: the same content as the widget, nothing to click."""
    return render_part("inspector.html", "card", title, overlay, parts)


def raw_card(name: str, text: str) -> Markup:
    """Return an upstream record as text, under the name of its file."""
    return render_part("inspector.html", "raw", name, text)


def turn_label(number: int, turn: Mapping[str, Any]) -> str:
    """Return a turn's name in the list of turns: short, without control characters."""
    text = "".join(c if c.isprintable() else " " for c in turn["instruction"])
    return f"{number + 1} {turn['source']}: {text[:60]}"


def picture(
    inspection: Inspection,
    view: ImageView,
    *,
    layers: Sequence[str],
    categories: Sequence[str] | None,
) -> Markup:
    """Return an image's picture with its instances, and which categories they are, as HTML."""
    names = sorted({row["category"] for row in view.instances})
    alt = f"image {view.image_id}: {', '.join(names) or 'no instances'}"
    drawn = drawn_over(
        Path(view.picture),
        inspection.image_root,
        view.instances,
        layers=layers,
        categories=categories,
        alt=alt,
    )
    return drawn + legend(view, {name: colour_of(name) for name in names})
