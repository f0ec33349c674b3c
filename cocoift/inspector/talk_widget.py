"""Talk to several models at once: a chat in a widget, one column a model."""

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from cocoift.core.files import DataError, inside
from cocoift.core.html import render_part
from cocoift.core.images import image_address, open_image, read_image
from cocoift.core.text import visible
from cocoift.evaluation.candidates import Candidate
from cocoift.inspector.talk import Talk
from cocoift.inspector.talk_controls import lay_out_talk, make_talk_controls

# The page is redrawn at most so often, in seconds: a remote notebook sends whole columns.
_PAUSE = 0.1


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures to choose from: names below a folder."""

    root: Path
    names: Sequence[str]

    def open(self, name: str) -> Image.Image:
        """Return a picture as RGB; raises `DataError` as `open_image` does."""
        return open_image(inside(self.root, name))


@dataclass(frozen=True, kw_only=True)
class Looks:
    """How each model is called and coloured, by its name."""

    labels: Mapping[str, str]
    colours: Mapping[str, str]


class TalkWidget:
    """A chat with several models about a picture: put it on the last line of a cell.

    `opening` are the questions of the short round that *short round first* asks.  `controls` holds
    every control by name.  Where no widget can live, a static transcript takes its place.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        pictures: Pictures,
        *,
        opening: Sequence[str],
        looks: Looks,
    ) -> None:
        self.pictures, self.opening, self.looks = pictures, tuple(opening), looks
        self.stopped, self.working = threading.Event(), threading.Lock()
        self.drawn = 0.0
        first = pictures.names[0]
        self.talk = Talk(candidates, first, pictures.open(first))
        thumbnails = {name: self._picture(pictures.open(name), name) for name in pictures.names}
        names = [one.name for one in candidates]
        self.controls = make_talk_controls(thumbnails, models=names)
        self.widget = lay_out_talk(self.controls, pictures=pictures.names, models=names)
        self._connect()
        self._draw()

    def choose(self, name: str) -> None:
        """Begin anew about one of the pictures."""
        self._begin(name, self.pictures.open(name))

    def again(self) -> None:
        """Begin anew about the same picture."""
        self._begin(self.talk.name, self.talk.picture)

    def say(self, *questions: str) -> None:
        """Ask every model these questions, one after the other, and wait for the answers."""
        self.stopped.clear()
        for question in questions:
            for name in self.talk.ask(question):
                if time.monotonic() - self.drawn > _PAUSE:
                    self._draw_column(name)
                if self.stopped.is_set():
                    self._draw()
                    self._tell("Stopped. This question is in no model's history.")
                    return
            self._draw()
        self._tell("")

    def short_first(self) -> None:
        """Begin anew with the short round, and wait for the answers."""
        self.again()
        self.say(*self.opening)

    def compare(self) -> None:
        """Show for the last question which answer each model would sooner begin."""
        found = self.talk.compare()
        self._draw()
        self._tell("" if found else "Nothing to compare: the models did not answer differently.")

    def card(self) -> Markup:
        """Return the talk as static HTML: the picture and what each model said about it."""
        shown = self._picture(self.talk.picture, self.talk.name, width="14rem")
        columns = [self._column(one.name) for one in self.talk.candidates]
        return render_part("talk.html", "transcript", shown, columns) + self._compared()

    def _connect(self) -> None:
        c = self.controls
        for number, name in enumerate(self.pictures.names):
            c[f"picture_{number}"].on_click(lambda _, name=name: self._in_background(
                lambda: self.choose(name)))  # fmt: skip
        actions: dict[str, Callable[[], None]] = {
            "ask": self._ask, "short_first": self.short_first, "again": self.again,
            "compare": self.compare,
        }  # fmt: skip
        for name, action in actions.items():
            c[name].on_click(lambda _, action=action: self._in_background(action))
        c["stop"].on_click(lambda _: self.stopped.set())
        c["question"].on_msg(lambda _, content, __: self._typed(content))
        c["own"].observe(lambda change: self._in_background(self._uploaded), names="value")

    def _typed(self, content: Mapping[str, Any]) -> None:
        if content.get("event") == "submit":  # Enter
            self._in_background(self._ask)

    def _ask(self) -> None:
        question = self.controls["question"].value.strip()
        if question:
            self.say(question)

    def _uploaded(self) -> None:
        for one in self.controls["own"].value:
            self._begin(one["name"], read_image(io.BytesIO(one["content"]), one["name"]))

    def _begin(self, name: str, picture: Image.Image) -> None:
        self.talk.start(name, picture)
        self._draw()
        self._tell("")

    def _in_background(self, action: Callable[[], None]) -> None:
        """Do something while the kernel stays free to hear *stop*; what goes wrong is told."""

        def work() -> None:
            if not self.working.acquire(blocking=False):
                self._tell("The models are still answering; press stop to interrupt them.")
                return
            self._enable(False)
            try:
                action()
            except DataError as error:
                self._tell(str(error))
            except Exception as error:  # the page would not show it, nor the thread
                self._tell(f"{type(error).__name__}: {error}")
            finally:
                self.working.release()
                self._enable(True)

        threading.Thread(target=work, daemon=True).start()

    def _enable(self, on: bool) -> None:
        for name, control in self.controls.items():
            if hasattr(control, "disabled") and name not in ("stop", "question"):
                control.disabled = not on

    def _draw(self) -> None:
        shown = self._picture(self.talk.picture, self.talk.name, width="18rem")
        self.controls["picture"].value = shown
        self.controls["compared"].value = self._compared()
        for candidate in self.talk.candidates:
            self._draw_column(candidate.name)

    def _draw_column(self, name: str) -> None:
        self.drawn = time.monotonic()
        self.controls[f"column_{name}"].value = self._column(name)

    def _column(self, name: str) -> Markup:
        label, colour = self.looks.labels[name], self.looks.colours[name]
        return render_part("talk.html", "column", label, colour, name, self.talk.exchanges)

    def _compared(self) -> Markup:
        last = self.talk.exchanges[-1] if self.talk.exchanges else None
        return render_part("talk.html", "compared", last and last.compared)

    def _picture(self, picture: Image.Image, name: str, *, width: str = "7rem") -> Markup:
        data = image_address(picture, "jpeg", quality=90)
        return render_part("talk.html", "picture", data, f"picture {name}", width)

    def _tell(self, text: str) -> None:
        self.controls["status"].value = f'<span role="status">{visible(text)}</span>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/html": self.card()}
