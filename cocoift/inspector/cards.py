"""An image of the merged set as HTML: drawn with its instances, its turns, drops and answers.

All text is escaped.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from cocoift.core.files import DataError, inside
from cocoift.core.images import image_address, open_image, place_labels
from cocoift.core.templates import render_part
from cocoift.core.text import counted
from cocoift.inspector.data import ImageView, Inspection
from cocoift.merge.curation import Decision
from cocoift.merge.rules import TurnKey

# Colours that colour-blind readers can distinguish (Okabe and Ito); boxes are labelled as well.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
LAYERS = ("boxes", "masks", "names")


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


def overlay(
    image: Path,
    root: Path,
    instances: Sequence[Mapping[str, Any]],
    *,
    layers: Collection[str] = LAYERS,
    categories: Collection[str] | None = None,
    alt: str,
) -> Markup:
    """Return an image below `root` as SVG with the instances of the chosen categories over it.

    `instances` are rows of `sources.instances`; without `categories`, all are drawn.  Crowds have
    dashed outlines.  For an image that is missing, damaged or outside `root`, the text says so.
    """
    try:
        opened = open_image(inside(root, str(image)))
    except DataError as error:
        return Markup('<p role="img" aria-label="{}">{}</p>').format(alt, error)
    chosen = [row for row in instances if categories is None or row["category"] in categories]
    shapes = [_shape(row, opened.size, layers) for row in chosen]
    high = max(opened.width / 36, 4)  # of the letters, which are about 0.6 as wide
    sizes = [(0.6 * high * len(shape["name"]), 1.2 * high) for shape in shapes]
    places = place_labels([shape["box"] for shape in shapes], sizes, opened.size)
    for shape, place in zip(shapes, places, strict=True):
        shape["label"] = place if "names" in layers else None
    data = image_address(opened, "jpeg", quality=90, subsampling=0)
    return render_part("inspector.html", "overlay", data, *opened.size, alt, shapes)


def colour_of(category: str) -> str:
    """Return the colour of a category, the same in every image."""
    return _COLOURS[sum(category.encode()) % len(_COLOURS)]


def _shape(
    row: Mapping[str, Any], size: tuple[int, int], layers: Collection[str]
) -> dict[str, Any]:
    """Return an instance, scaled from the image size in the annotation to the real one."""
    scale = size[0] / max(row["width"], 1), size[1] / max(row["height"], 1)
    box = [round(float(v) * s, 1) for v, s in zip(row["bbox"], (*scale, *scale), strict=True)]
    outline: Any = json.loads(row["segmentation"]) if "masks" in layers else []
    runs = isinstance(outline, dict)
    colour = colour_of(row["category"])
    return {
        "name": row["category"],
        "colour": colour,
        "crowd": row["iscrowd"],
        "box": box,
        "outlined": "boxes" in layers,
        "polygons": [] if runs else [_points(polygon, scale) for polygon in outline],
        "mask": _mask(outline, colour) if runs else None,
    }


def _points(polygon: Sequence[float], scale: tuple[float, float]) -> str:
    pairs = zip(polygon[::2], polygon[1::2], strict=False)
    return " ".join(f"{float(x) * scale[0]:.1f},{float(y) * scale[1]:.1f}" for x, y in pairs)


def _mask(rle: dict[str, Any], colour: str) -> str:
    """Return a crowd's mask (COCO's RLE, compressed or not) as a transparent image."""
    from pycocotools import mask as coco_mask

    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    inside_mask = coco_mask.decode(rle) > 0
    drawn = np.zeros((*inside_mask.shape, 4), np.uint8)
    drawn[inside_mask] = (*bytes.fromhex(colour[1:]), 90)
    return image_address(Image.fromarray(drawn), "png")
