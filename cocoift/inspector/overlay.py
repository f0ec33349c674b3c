"""A picture with its instances drawn over it, as one SVG that carries everything it shows."""

import base64
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cocoift.core.files import DataError, inside
from cocoift.core.images import open_image
from cocoift.core.text import visible

# Colours that colour-blind readers tell apart (Okabe and Ito); names stand beside the boxes too.
_COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
LAYERS = ("boxes", "masks", "names")


def overlay(
    picture: Path,
    root: Path,
    instances: Sequence[Mapping[str, Any]],
    *,
    layers: Collection[str] = LAYERS,
    categories: Collection[str] | None = None,
    alt: str,
) -> str:
    """Return a picture below `root` as SVG with the instances of the wanted categories over it.

    `instances` are rows of `sources.instances`; `categories` `None` means all.  Crowds have dashed
    outlines.  A picture that is missing, damaged or outside `root` is told in words.
    """
    try:
        data, (width, height) = _embedded(inside(root, str(picture)))
    except DataError as error:
        return f'<p role="img" aria-label="{visible(alt)}">{visible(error)}</p>'
    wanted = [row for row in instances if categories is None or row["category"] in categories]
    shapes = "".join(_instance(row, width, height, layers) for row in wanted)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{visible(alt)}" style="width:100%;max-width:{max(width, 384)}px;'
        f'height:auto;image-rendering:{"pixelated" if width < 200 else "auto"}">'
        f'<image href="{data}" width="{width}" height="{height}"/>{shapes}</svg>'
    )


def _embedded(path: Path) -> tuple[str, tuple[int, int]]:
    picture = open_image(path)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", picture.size


def colour_of(category: str) -> str:
    """Return the colour of a category, the same in every picture."""
    return _COLOURS[sum(category.encode()) % len(_COLOURS)]


def _instance(row: Mapping[str, Any], width: int, height: int, layers: Collection[str]) -> str:
    """Return one instance as SVG, scaled from the annotation's picture size to the picture's."""
    sx, sy = width / max(row["width"], 1), height / max(row["height"], 1)
    name, colour = visible(row["category"]), colour_of(row["category"])
    stroke = max(0.4, width / 320)
    dash = f' stroke-dasharray="{3 * stroke:g}"' if row["iscrowd"] else ""
    outline = f'stroke="{colour}" stroke-width="{stroke:g}"{dash}'
    title = f"<title>{name}{' (crowd)' if row['iscrowd'] else ''}</title>"
    x, y, w, h = (float(v) * s for v, s in zip(row["bbox"], (sx, sy, sx, sy), strict=True))
    parts = [title]
    if "masks" in layers:
        parts.append(_mask(row, sx, sy, width, height, colour))
    if "boxes" in layers:
        box = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
        parts.append(f'<rect {box} fill="none" {outline}/>')
    if "names" in layers:
        size = max(width / 36, 4)
        style = (
            f'font-size="{size:g}" paint-order="stroke" stroke="#000" stroke-width="{size / 6:g}"'
        )
        parts.append(
            f'<text x="{x + stroke:.1f}" y="{max(y, size):.1f}" fill="#fff" '
            f'font-family="sans-serif" {style}>{name}</text>'
        )
    return f"<g>{''.join(parts)}</g>"


def _mask(
    row: Mapping[str, Any], sx: float, sy: float, width: int, height: int, colour: str
) -> str:
    segmentation = json.loads(row["segmentation"])
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, width, height, colour)
    fill = f'fill="{colour}" fill-opacity="0.35" stroke="{colour}" stroke-width="0.5"'
    polygons = []
    for polygon in segmentation:
        pairs = zip(polygon[::2], polygon[1::2], strict=False)
        points = " ".join(f"{float(x) * sx:.1f},{float(y) * sy:.1f}" for x, y in pairs)
        polygons.append(f'<polygon points="{points}" {fill}/>')
    return "".join(polygons)


def _run_lengths(rle: dict[str, Any], width: int, height: int, colour: str) -> str:
    """Return a crowd's mask (COCO's RLE, compressed or not) as a see-through picture."""
    from pycocotools import mask as coco_mask

    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *rle["size"])
    drawn = np.zeros((*coco_mask.decode(rle).shape, 4), np.uint8)
    drawn[coco_mask.decode(rle) > 0] = (*bytes.fromhex(colour[1:]), 90)
    buffer = io.BytesIO()
    Image.fromarray(drawn).save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    place = f'width="{width}" height="{height}" preserveAspectRatio="none"'
    return f'<image href="data:image/png;base64,{data}" {place}/>'
