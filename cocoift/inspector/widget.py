"""The inspector: a widget that shows an image of the merged set, whose turns can be flagged."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import ipywidgets as widgets
import pandas as pd
from markupsafe import Markup
from msgspec import structs

from cocoift.core.files import DataError
from cocoift.core.text import counted, visible
from cocoift.inspector import cards
from cocoift.inspector.cards import LAYERS, overlay
from cocoift.inspector.data import Filter, Inspection
from cocoift.inspector.raw_annotations import raw_annotations
from cocoift.merge.curation import REASONS, Decision, append_decisions, read_decisions
from cocoift.sources.catalogue import Entry

Turns = Sequence[Mapping[str, Any]]
# Further entries of the list of turns, which numbers the turns from 0.
NO_TURN, ALL_TURNS = -2, -1


@dataclass(frozen=True, kw_only=True)
class Lookups:
    """What is looked up for an image: sources by name, reasons in words, model answers.

    `answers` maps (benchmark, image) to rows of `verdicts.csv.gz`, `answers_note` says where they
    come from; `answer_roots` are the image folders of the benchmarks.
    """

    catalogue: Mapping[str, Entry]
    reasons: Mapping[str, str]
    raw: Path
    answers: Mapping[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    answers_note: str = ""
    answer_roots: Mapping[str, Path] = field(default_factory=dict)

    @property
    def titles(self) -> dict[str, str]:
        """The titles of the sources by name."""
        return {name: entry.title for name, entry in self.catalogue.items()}


class Inspector:
    """A widget for an opened merged set: put it on the last line of a cell.

    `controls` holds every control by name, `image_id` the image shown, `decided` the decisions of
    this session, each of which is written to the file `curation` at once.  On an exported page,
    where widgets do not work, a static card of the image takes its place.
    """

    def __init__(self, inspection: Inspection, lookups: Lookups, *, curation: Path) -> None:
        self.inspection, self.lookups, self.curation = inspection, lookups, curation
        self.flags = read_decisions(curation)
        self.decided: list[list[Decision]] = []
        self.changing = False
        self.ids = inspection.images(Filter())
        self.controls = make_controls(inspection, titles=lookups.titles, evaluated=lookups.answers)
        self.widget = lay_out(self.controls)
        self._connect()
        self._draw_answers()
        self.show(int(self.ids[0]))

    def show(self, image_id: int) -> None:
        """Show an image of the set, whether it matches the filter or not.

        For an id that is not in the set, the status line says so and the image stays.
        """
        try:
            self.view = self.inspection.view(image_id)
        except DataError as error:
            self._say(str(error))
            return
        self.image_id = image_id
        names = sorted({row["category"] for row in self.view.instances})
        labels = [(cards.turn_label(n, turn), n) for n, turn in enumerate(self.view.turns)]
        self.changing = True  # the image is drawn once, when all controls are set
        self.controls["categories"].options = names
        self.controls["categories"].value = names
        self.changing = False
        offered = [("choose a turn", NO_TURN), ("all turns of this image", ALL_TURNS)]
        self.controls["turn"].options = [*offered, *labels]
        self.controls["turn"].value = NO_TURN
        self.controls["raw"].value = ""
        self.controls["image_id"].value = image_id
        self._draw()
        self._say("")

    def next(self) -> None:
        """Show the next image that matches the filter, or the first after the last."""
        if len(self.ids):
            place = int(self.ids.searchsorted(self.image_id, side="right"))
            self.show(int(self.ids[place % len(self.ids)]))

    def previous(self) -> None:
        """Show the previous image that matches the filter, or the last before the first."""
        if len(self.ids):
            place = int(self.ids.searchsorted(self.image_id, side="left"))
            self.show(int(self.ids[place - 1]))

    def random(self) -> None:
        """Show a random image that matches the filter."""
        if len(self.ids):
            self.show(int(random.choice(self.ids)))

    def choose(self, chosen: Filter) -> None:
        """Apply a filter; show its first image, or say that none matches."""
        self.ids = self.inspection.images(chosen, flagged=self.flags.keys())
        if len(self.ids) and self.image_id not in self.ids:
            self.show(int(self.ids[0]))
        self._count()

    def decide(
        self, turns: Turns, decision: Literal["flag", "keep"], *, reason: str = "", note: str = ""
    ) -> None:
        """Write a decision on turns of the image shown, and show it; without turns, say so."""
        if not turns:
            self._say(f"nothing to {decision}: choose a turn, or all turns of this image")
            return
        found = [
            Decision(
                image_id=self.image_id,
                source=turn["source"],
                dialog_id=turn["dialog_id"],
                round=turn["round"],
                decision=decision,
                reason=reason,
                note=note,
                at=_now(),
            )
            for turn in turns
        ]
        if self._write(found):
            self.decided.append(found)
            self._draw()
            count = counted(len(found), "turn")
            self._say(f"{decision}: {count}, written to {self.curation.name}")

    def undo(self) -> None:
        """Revert the last decision of this session and show its image."""
        if not self.decided:
            self._say("nothing to undo since this cell ran; use keep to revert an earlier flag")
            return
        last = self.decided[-1]
        change = {"decision": "undo", "reason": "", "note": "", "at": _now()}
        undone = [structs.replace(decision, **change) for decision in last]
        if self._write(undone):
            self.decided.pop()
            self.show(last[0].image_id)
            self._say(f"undone: {last[0].decision}, {counted(len(last), 'turn')}")

    def _write(self, decisions: Sequence[Decision]) -> bool:
        """Append decisions and reread the file; return whether that worked, or say why not."""
        try:
            append_decisions(self.curation, decisions)
            self.flags = read_decisions(self.curation)
        except DataError as error:
            self._say(str(error))
            return False
        return True

    def _connect(self) -> None:
        c = self.controls
        c["previous"].on_click(lambda _: self.previous())
        c["next"].on_click(lambda _: self.next())
        c["random"].on_click(lambda _: self.random())
        c["go"].on_click(lambda _: self.show(c["image_id"].value))
        c["flag"].on_click(lambda _: self._decide("flag"))
        c["keep"].on_click(lambda _: self._decide("keep"))
        c["undo"].on_click(lambda _: self.undo())
        c["show_raw"].on_click(lambda _: self._show_raw())
        for name in ("source", "form", "least_sources", "conflicts", "flagged", "text"):
            c[name].observe(lambda _: self.choose(self._filter()), names="value")
        for name in (*LAYERS, "categories"):
            c[name].observe(lambda _: self._draw_image(), names="value")
        c["evaluated"].observe(lambda _: self._draw_answers(), names="value")

    def _filter(self) -> Filter:
        names = ("source", "form", "least_sources", "conflicts", "flagged")
        values = {name: self.controls[name].value for name in names}
        return Filter(**values, text=self.controls["text"].value.strip())

    def _chosen(self) -> Turns:
        place = self.controls["turn"].value
        if place is None or place == NO_TURN:
            return []
        return self.view.turns if place == ALL_TURNS else [self.view.turns[place]]

    def _decide(self, decision: Literal["flag", "keep"]) -> None:
        reason, note = self.controls["reason"].value, self.controls["note"].value
        self.decide(self._chosen(), decision, reason=reason, note=note)

    def _show_raw(self) -> None:
        parts = []
        for turn in (self._chosen() or self.view.turns)[:5]:
            entry = self.lookups.catalogue.get(turn["source"])
            found = raw_annotations(entry, self.lookups.raw, turn) if entry else {}
            parts += [cards.raw_card(name, text) for name, text in found.items()]
            if not found:
                parts.append(cards.raw_card(turn["source"], "no JSON record holds this turn"))
        self.controls["raw"].value = "".join(parts)

    def _draw(self) -> None:
        self.controls["turns"].value, self.controls["dropped"].value = self._tables()
        self._draw_image()
        self._count()

    def _tables(self) -> tuple[Markup, Markup]:
        titles, flags = self.lookups.titles, self.flags.get(self.image_id, {})
        turns = cards.turn_table(self.view, titles, flags)
        return turns, cards.dropped_table(self.view, titles, self.lookups.reasons)

    def _draw_image(self) -> None:
        if self.changing:
            return
        layers = [name for name in LAYERS if self.controls[name].value]
        self.controls["image"].value = cards.drawn_image(
            self.inspection, self.view, layers=layers, categories=self.controls["categories"].value
        )

    def _draw_answers(self) -> None:
        key, note = self.controls["evaluated"].value, f"<p>{visible(self.lookups.answers_note)}</p>"
        if key is None:
            self.controls["answers"].value = note
            return
        root, name = self.lookups.answer_roots.get(key[0]), key[1]
        alt = f"benchmark image {name}"
        drawn = overlay(Path(name), root, [], alt=alt) if root else Markup("")
        table = cards.answer_table(self.lookups.answers[key], ("single_round", "multi_round"))
        card = cards.image_card(title=name, drawn=drawn, parts=[table])
        self.controls["answers"].value = note + card

    def _count(self) -> None:
        place = int(self.ids.searchsorted(self.image_id)) if len(self.ids) else 0
        here = place < len(self.ids) and self.ids[place] == self.image_id
        position = f"{place + 1:,} of {len(self.ids):,}" if here else f"not among {len(self.ids):,}"
        self.controls["counter"].value = f'<span role="status">{position}</span>'

    def _say(self, text: str) -> None:
        self.controls["status"].value = f'<span role="status">{visible(text)}</span>'

    def card(self) -> str:
        """Return the image shown as static HTML: the content of the widget without its controls."""
        drawn = cards.drawn_image(self.inspection, self.view, layers=LAYERS, categories=None)
        parts = [*self._tables()]
        if self.lookups.answers:
            parts.append(self.controls["answers"].value)
        title = f"image {self.image_id}, one of {len(self.inspection.turns.ids):,}"
        return cards.image_card(title=title, drawn=drawn, parts=parts)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/html": self.card()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


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
