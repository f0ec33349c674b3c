"""Draw scenes with PIL: pictograms on a plain ground, four times too large and then scaled down."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from minicoco.scenes import BACKGROUNDS, COLOURS, GRID, Scene, Thing

_SCALE = 4

# Outlines in a unit square, x to the right and y down, as SVG writes points.
_OUTLINES = {
    "car": "0,0.5 0.2,0.5 0.32,0.22 0.72,0.22 0.85,0.5 1,0.5 1,0.8 0,0.8",
    "boat": "0,0.62 0.45,0.62 0.45,0 0.9,0.5 0.52,0.5 0.52,0.62 1,0.62 0.8,0.95 0.2,0.95",
    "stop sign": "0.3,0 0.7,0 1,0.3 1,0.7 0.7,1 0.3,1 0,0.7 0,0.3",
    "bird": "0,0.3 0.25,0.1 0.5,0.45 0.75,0.1 1,0.3 0.72,0.38 0.5,0.85 0.28,0.38",
    "umbrella": (
        "0,0.5 0.15,0.2 0.5,0.02 0.85,0.2 1,0.5 0.56,0.5 0.56,1 0.36,1 0.36,0.88 0.46,0.88 0.46,0.5"
    ),
    "kite": "0.5,0 0.9,0.38 0.5,0.8 0.62,1 0.38,1 0.5,0.8 0.1,0.38",
    "cup": "0.05,0.1 0.7,0.1 0.7,0.22 1,0.22 1,0.65 0.7,0.65 0.6,0.95 0.15,0.95",
    "apple": (
        "0.5,0.25 0.6,0 0.7,0.05 0.58,0.25 0.85,0.22 1,0.5 0.8,0.92 0.5,1 0.2,0.92 0,0.5 0.15,0.22"
    ),
    "book": "0,0.15 0.45,0.25 0.5,0.3 0.55,0.25 1,0.15 1,0.8 0.55,0.88 0.5,0.93 0.45,0.88 0,0.8",
    "clock": "0.5,0 0.85,0.15 1,0.5 0.85,0.85 0.5,1 0.15,0.85 0,0.5 0.15,0.15",
}


def _points(category: str) -> list[tuple[float, float]]:
    pairs = (point.split(",") for point in _OUTLINES[category].split())
    return [(float(x), float(y)) for x, y in pairs]


def outline(thing: Thing, *, pixels: int) -> list[tuple[float, float]]:
    """Return the polygon of a thing in image pixels, x and y from the top left corner."""
    cell = pixels / GRID
    side = cell * (0.94 if thing.large else 0.6)
    left = thing.column * cell + (cell - side) / 2
    top = thing.row * cell + (cell - side) / 2
    return [(left + x * side, top + y * side) for x, y in _points(thing.category)]


def box(polygon: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Return the box around a polygon: x, y, width, height."""
    xs, ys = zip(*polygon, strict=True)
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def flock_outlines(scene: Scene) -> list[list[tuple[float, float]]]:
    """Return the polygons of the tiny birds of a crowd; none without a crowd."""
    if scene.flock is None:
        return []
    cell = scene.pixels / GRID
    side = cell * 0.3
    row, column = scene.flock
    corners = [(0.05, 0.05), (0.6, 0.12), (0.3, 0.4), (0.02, 0.66), (0.65, 0.66)]
    return [
        [
            (column * cell + u * cell + x * side, row * cell + v * cell + y * side)
            for x, y in _points("bird")
        ]
        for u, v in corners
    ]


def draw(scene: Scene) -> Image.Image:
    """Return the image of a scene, RGB, `pixels` x `pixels`."""
    side = scene.pixels * _SCALE
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    _ground(pen, scene.background, side)
    for polygon in flock_outlines(scene):
        pen.polygon([(x * _SCALE, y * _SCALE) for x, y in polygon], fill=(70, 70, 70))
    for thing in scene.things:
        _thing(pen, thing, scene.pixels)
    return image.resize((scene.pixels, scene.pixels), Image.Resampling.BOX)


def jpeg(scene: Scene) -> bytes:
    """Return the image of a scene as a JPEG with full colour resolution."""
    buffer = io.BytesIO()
    draw(scene).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _ground(pen: ImageDraw.ImageDraw, background: str, side: int) -> None:
    """Draw the pattern of a background, which makes it recognisable without its colour."""
    base = BACKGROUNDS[background]
    darker = tuple(int(value * 0.93) for value in base)
    step = side // 16
    if background == "street":
        pen.rectangle((0, side * 0.75, side, side), fill=darker)
    elif background == "lake":
        for y in range(step, side, 2 * step):
            pen.line((0, y, side, y), fill=darker, width=_SCALE)
    elif background == "park":
        for x in range(step // 2, side, 2 * step):
            pen.line((x, 0, x, side), fill=darker, width=_SCALE)
    elif background == "beach":
        pen.rectangle((0, 0, side, side // 8), fill=(150, 205, 230))
    else:
        for x in range(step, side, 3 * step):
            for y in range(step, side, 3 * step):
                pen.ellipse((x, y, x + step // 2, y + step // 2), fill=darker)


def _thing(pen: ImageDraw.ImageDraw, thing: Thing, pixels: int) -> None:
    polygon = [(x * _SCALE, y * _SCALE) for x, y in outline(thing, pixels=pixels)]
    pen.polygon(polygon, fill=COLOURS[thing.colour], outline=(20, 20, 20), width=_SCALE // 2)
    left, top, width, height = box(polygon)

    def at(x: float, y: float) -> tuple[float, float]:
        return left + x * width, top + y * height

    white = (250, 250, 250)
    if thing.category == "car":
        for x in (0.22, 0.74):
            pen.ellipse((*at(x - 0.13, 0.75), *at(x + 0.13, 1.1)), fill=(20, 20, 20))
        pen.rectangle((*at(0.38, 0.14), *at(0.66, 0.42)), fill=white)
    elif thing.category == "clock":
        pen.ellipse((*at(0.26, 0.26), *at(0.74, 0.74)), fill=white)
        pen.line((*at(0.5, 0.5), *at(0.5, 0.32)), fill=(20, 20, 20), width=_SCALE // 2)
        pen.line((*at(0.5, 0.5), *at(0.66, 0.5)), fill=(20, 20, 20), width=_SCALE // 2)
    elif thing.category == "cup":
        pen.rectangle((*at(0.74, 0.3), *at(0.87, 0.5)), fill=white)
    elif thing.category == "book":
        for y in (0.4, 0.6):
            pen.line((*at(0.1, y), *at(0.4, y + 0.06)), fill=white, width=_SCALE // 2)
            pen.line((*at(0.6, y + 0.06), *at(0.9, y)), fill=white, width=_SCALE // 2)
    elif thing.category == "umbrella":
        pen.line((*at(0.33, 0.5), *at(0.5, 0.04)), fill=white, width=_SCALE // 2)
        pen.line((*at(0.67, 0.5), *at(0.5, 0.04)), fill=white, width=_SCALE // 2)
    elif thing.category == "stop sign":
        font = ImageFont.load_default(size=max(8, height * 0.8))
        pen.text(at(0.5, 0.5), thing.letter, fill=white, font=font, anchor="mm")
