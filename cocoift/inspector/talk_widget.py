"""A chat widget with a column per model."""

import io
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from markupsafe import Markup
from PIL import Image

from cocoift.core.files import DataError, inside
from cocoift.core.images import image_address, open_image, read_image
from cocoift.core.templates import render_part
from cocoift.core.text import visible
from cocoift.evaluation.candidates import Candidate
from cocoift.inspector.talk import Chat, Exchange

# Seconds between redraws: each one sends a whole column to the browser.
_PAUSE = 0.1


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images to choose from, by name below `root`."""

    root: Path
    names: Sequence[str]

    def open(self, name: str) -> Image.Image:
        """Return an image as RGB; raises `DataError` as `open_image` does."""
        return open_image(inside(self.root, name))


@dataclass(frozen=True, kw_only=True)
class ModelStyles:
    """Each model's label and colour, by model name."""

    labels: Mapping[str, str]
    colours: Mapping[str, str]


class ChatWidget:
    """A chat with several models about an image, for the last line of a cell.

    `opening` are the questions of the short round, `controls` all controls by name.  Exported pages
    show a static transcript instead.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        images: Images,
        *,
        opening: Sequence[str],
        styles: ModelStyles,
    ) -> None:
        self.images, self.opening, self.styles = images, tuple(opening), styles
        self.stopped, self.working = threading.Event(), threading.Lock()
        self.drawn = 0.0
        first = images.names[0]
        self.chat = Chat(candidates, first, images.open(first))
        thumbnails = {name: self._image(images.open(name), name) for name in images.names}
        names = [candidate.name for candidate in candidates]
        self.controls = make_chat_controls(thumbnails, models=names)
        self.widget = lay_out_chat(self.controls, images=images.names, models=names)
        self._connect()
        self._begin(first, self.chat.image)

    @property
    def exchanges(self) -> list[Exchange]:
        """The questions and answers of this dialog, oldest first."""
        return self.chat.exchanges

    def choose(self, name: str) -> None:
        """Start a new dialog about one of the images."""
        self._begin(name, self.images.open(name))

    def restart(self) -> None:
        """Start a new dialog about the same image."""
        self._begin(self.chat.name, self.chat.image)

    def ask(self, *questions: str) -> None:
        """Ask every model these questions in order, and wait for the answers."""
        self.stopped.clear()
        for question in questions:
            for name in self.chat.ask(question):
                if time.monotonic() - self.drawn > _PAUSE:
                    self._draw_column(name)
                if self.stopped.is_set():
                    self._draw()
                    self._set_status("Stopped. Every model's history leaves this question out.")
                    return
            self._draw()
        self._set_status("")

    def ask_short_first(self) -> None:
        """Start a new dialog with the short round, and wait for the answers."""
        self.restart()
        self.ask(*self.opening)

    def compare(self) -> None:
        """Show each model's margin for the last question."""
        found = self.chat.compare()
        self._draw()
        self._set_status("" if found else "Nothing to compare: the answers are the same.")

    def transcript(self) -> Markup:
        """Return the dialog as static HTML: the image and every model's answers."""
        shown = self._image(self.chat.image, self.chat.name, width="14rem")
        columns = [self._column(candidate.name) for candidate in self.chat.candidates]
        return render_part("talk.html", "transcript", shown, columns) + self._compared()

    def _connect(self) -> None:
        c = self.controls
        for number, name in enumerate(self.images.names):
            c[f"image_{number}"].on_click(lambda _, name=name: self._in_background(
                lambda: self.choose(name)))  # fmt: skip
        actions: dict[str, Callable[[], None]] = {
            "ask": self._ask, "short_first": self.ask_short_first, "restart": self.restart,
            "compare": self.compare,
        }  # fmt: skip
        for name, action in actions.items():
            c[name].on_click(lambda _, action=action: self._in_background(action))
        c["stop"].on_click(lambda _: self.stopped.set())
        c["question"].on_msg(lambda _, content, __: self._typed(content))
        c["upload"].observe(lambda change: self._in_background(self._uploaded), names="value")

    def _typed(self, content: Mapping[str, Any]) -> None:
        if content.get("event") == "submit":  # Enter
            self._in_background(self._ask)

    def _ask(self) -> None:
        question = self.controls["question"].value.strip()
        if question:
            self.ask(question)

    def _uploaded(self) -> None:
        for file in self.controls["upload"].value:
            self._begin(file["name"], read_image(io.BytesIO(file["content"]), file["name"]))

    def _begin(self, name: str, image: Image.Image) -> None:
        self.chat.start(name, image)
        self.controls["image"].value = self._image(image, name, width="18rem")
        self._draw()
        self._set_status("")

    def _in_background(self, action: Callable[[], None]) -> None:
        """Run an action in a thread, so that the kernel can receive *stop*, and show its errors."""

        def work() -> None:
            if not self.working.acquire(blocking=False):
                self._set_status("The models are still answering; press stop to interrupt them.")
                return
            self._enable(False)
            try:
                action()
            except DataError as error:
                self._set_status(str(error))
            except Exception as error:  # a thread's errors would otherwise go unseen
                self._set_status(f"{type(error).__name__}: {error}")
            finally:
                self.working.release()
                self._enable(True)

        threading.Thread(target=work, daemon=True).start()

    def _enable(self, on: bool) -> None:
        for name, control in self.controls.items():
            if hasattr(control, "disabled") and name not in ("stop", "question"):
                control.disabled = not on

    def _draw(self) -> None:
        self.controls["compared"].value = self._compared()
        for candidate in self.chat.candidates:
            self._draw_column(candidate.name)

    def _draw_column(self, name: str) -> None:
        self.drawn = time.monotonic()
        self.controls[f"column_{name}"].value = self._column(name)

    def _column(self, name: str) -> Markup:
        label, colour = self.styles.labels[name], self.styles.colours[name]
        return render_part("talk.html", "column", label, colour, name, self.chat.exchanges)

    def _compared(self) -> Markup:
        last = self.chat.exchanges[-1] if self.chat.exchanges else None
        return render_part("talk.html", "compared", last and last.compared)

    def _image(self, image: Image.Image, name: str, *, width: str = "7rem") -> Markup:
        data = image_address(image, "jpeg", quality=90)
        return render_part("talk.html", "image", data, f"image {name}", width)

    def _set_status(self, text: str) -> None:
        self.controls["status"].value = f'<span role="status">{visible(text)}</span>'

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        bundle = self.widget._repr_mimebundle_(**kwargs) or {}
        return {**bundle, "text/html": self.transcript()}


def make_chat_controls(
    thumbnails: Mapping[str, str], *, models: Sequence[str]
) -> dict[str, widgets.Widget]:
    """Return every control by name; `thumbnails` holds the images as HTML, by name."""
    buttons = {
        "ask": ("ask", "ask every model this question"),
        "short_first": ("short round first", "start over with a short-answer round"),
        "restart": ("start over", "clear the dialog about this image"),
        "stop": ("stop", "interrupt the models"),
        "compare": (
            "margins",
            "how likely was each model to begin the shortest and the longest answer?",
        ),
    }
    wide = widgets.Layout(width="auto", margin="2px 10px 2px 2px")
    found: dict[str, widgets.Widget] = {
        name: widgets.Button(description=text, tooltip=hint, layout=wide)
        for name, (text, hint) in buttons.items()
    }
    for number, (name, shown) in enumerate(thumbnails.items()):
        found[f"image_{number}"] = widgets.Button(
            description=f"image {number + 1}", tooltip=f"talk about {name}", layout=wide
        )
        found[f"thumbnail_{number}"] = widgets.HTML(shown)
    for name in ("image", "compared", "status", *(f"column_{name}" for name in models)):
        found[name] = widgets.HTML()
    found["question"] = widgets.Text(
        description="question",
        placeholder="type a question, press Enter",
        layout=widgets.Layout(flex="1 1 24rem", width="auto"),
    )
    found["upload"] = widgets.FileUpload(
        accept="image/*", multiple=False, description="upload an image", layout=wide
    )
    return found


def lay_out_chat(
    c: Mapping[str, widgets.Widget], *, images: Sequence[str], models: Sequence[str]
) -> widgets.VBox:
    """Return the widget: thumbnails, the chosen image beside the models' columns, controls."""
    wrap = widgets.Layout(flex_flow="row wrap", align_items="center")
    thumbnails = [
        widgets.VBox([c[f"thumbnail_{n}"], c[f"image_{n}"]], layout=widgets.Layout(width="auto"))
        for n in range(len(images))
    ]
    column = widgets.Layout(flex="1 1 10rem", min_width="9rem", width="auto")
    for name in models:
        c[f"column_{name}"].layout = column
    columns = widgets.HBox(
        [c[f"column_{name}"] for name in models],
        layout=widgets.Layout(flex="1 1 30rem", flex_flow="row wrap", align_items="flex-start"),
    )
    talk = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
    buttons = ("short_first", "restart", "stop", "compare")
    return widgets.VBox(
        [
            widgets.HBox([*thumbnails, c["upload"]], layout=wrap),
            widgets.HBox([c["image"], columns], layout=talk),
            c["compared"],
            widgets.HBox([c["question"], c["ask"]], layout=wrap),
            widgets.HBox([c[name] for name in buttons], layout=wrap),
            c["status"],
        ]
    )
