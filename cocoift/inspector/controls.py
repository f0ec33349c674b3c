"""The inspector's controls, their labels and their layout."""

from collections.abc import Iterable, Mapping
from typing import Any

import ipywidgets as widgets

from cocoift.inspector.data import Inspection
from cocoift.merge.curation import REASONS

# Further entries of the list of turns, which numbers the turns from 0.
NO_TURN, ALL_TURNS = -2, -1


def make_controls(
    inspection: Inspection, *, titles: Mapping[str, str], evaluated: Iterable[tuple[str, str]]
) -> dict[str, widgets.Widget]:
    """Return every control by name, each with a label.

    `titles` are those of the sources, `evaluated` the benchmark images that have answers.
    """
    sources = [("any source", ""), *((titles.get(n, n), n) for n in inspection.sources)]
    wide = widgets.Layout(width="auto", margin="2px 14px 2px 2px")
    style = {"description_width": "initial"}
    asked = [(f"{benchmark}: {name}", (benchmark, name)) for benchmark, name in evaluated]
    checks = {
        "conflicts": ("with conflicts", False), "flagged": ("flagged", False),
        "boxes": ("boxes", True), "masks": ("masks", True), "names": ("names", True),
    }  # fmt: skip
    buttons = {
        "previous": "◀ previous", "next": "next ▶", "random": "random", "go": "go to id",
        "flag": "⚑ flag", "keep": "keep", "undo": "undo", "show_raw": "raw annotation",
    }  # fmt: skip
    found: dict[str, widgets.Widget] = {
        name: widgets.Checkbox(value=on, description=label, indent=False, layout=wide)
        for name, (label, on) in checks.items()
    }
    found |= {n: widgets.Button(description=d, tooltip=d, layout=wide) for n, d in buttons.items()}
    for name in ("image", "turns", "dropped", "answers", "raw", "counter", "status"):
        found[name] = widgets.HTML()
    forms = [("any answer format", ""), *((n, n) for n in inspection.forms)]
    kinds: dict[str, tuple[type[widgets.Widget], dict[str, Any]]] = {
        "image_id": (widgets.IntText, {"description": "image id"}),
        "source": (widgets.Dropdown, {"description": "source", "options": sources}),
        "form": (widgets.Dropdown, {"description": "answer format", "options": forms}),
        "least_sources": (widgets.BoundedIntText, {"description": "sources at least", "min": 1,
                                                   "max": max(1, len(inspection.sources))}),
        "text": (widgets.Text, {"description": "text", "continuous_update": False,
                                "placeholder": "in instructions and answers; Enter"}),
        "categories": (widgets.SelectMultiple, {"description": "categories"}),
        "turn": (widgets.Dropdown, {"description": "turn"}),
        "reason": (widgets.Dropdown, {"description": "reason", "options": REASONS}),
        "note": (widgets.Text, {"description": "note"}),
        "evaluated": (widgets.Dropdown, {"description": "image", "options": asked}),
    }  # fmt: skip
    return found | {name: kind(style=style, **options) for name, (kind, options) in kinds.items()}


def lay_out(c: Mapping[str, widgets.Widget]) -> widgets.VBox:
    """Return the widget: navigation, filters, the image beside its turns, decisions."""

    def row(*names: str) -> widgets.HBox:
        wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
        return widgets.HBox([c[name] for name in names], layout=wrap)

    left = widgets.VBox(
        [c["image"], row("boxes", "masks", "names"), c["categories"]],
        layout=widgets.Layout(flex="1 1 22rem", min_width="16rem", max_width="34rem"),
    )
    tabs = widgets.Tab(
        [
            widgets.VBox([c["turns"], c["dropped"]]),
            widgets.VBox([c["evaluated"], c["answers"]]),
        ],
        layout=widgets.Layout(flex="2 1 32rem", min_width="18rem"),
    )
    tabs.titles = ("turns", "model answers")
    body = widgets.HBox([left, tabs], layout=widgets.Layout(flex_flow="row wrap"))
    return widgets.VBox(
        [
            row("previous", "next", "random", "image_id", "go", "counter"),
            row("source", "form", "least_sources", "conflicts", "flagged", "text"),
            body,
            row("turn", "reason", "note", "flag", "keep", "undo", "show_raw"),
            c["status"],
            c["raw"],
        ]
    )
