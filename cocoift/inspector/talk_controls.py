"""The chat widget's controls and layout."""

from collections.abc import Mapping, Sequence

import ipywidgets as widgets


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
