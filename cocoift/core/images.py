"""Images on their way into a model: opened safely, padded to a square, processed as CLIP does."""

import base64
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, inside

if TYPE_CHECKING:
    from transformers import CLIPImageProcessorPil

# Larger images are refused before they are decoded.
LARGEST_PIXELS = 50_000_000


@dataclass(frozen=True)
class BadImage:
    """An image that cannot be used: its name in the record and what is wrong with it."""

    name: str
    reason: str


def open_image(path: Path) -> Image.Image:
    """Return an image as RGB; raises `DataError` when it is missing, corrupt or far too large."""
    try:
        with path.open("rb") as file:
            return read_image(file, path.name)
    except FileNotFoundError as error:
        raise DataError(f"{path.name}: no image on disk") from error
    except OSError as error:
        raise DataError(f"{path.name}: not a whole image ({error})") from error


def read_image(file: BinaryIO, name: str) -> Image.Image:
    """Return an image as RGB from an open file; raises `DataError` as `open_image` does."""
    try:
        with Image.open(file) as image:
            if image.width * image.height > LARGEST_PIXELS:
                raise DataError(f"{name}: {image.width} x {image.height} px is too large")
            return image.convert("RGB")
    except UnidentifiedImageError as error:  # whose text names an object in memory
        raise DataError(f"{name}: not a whole image (of no known format)") from error
    except DataError:
        raise
    except Exception as error:  # damaged images raise errors of zlib, struct and more
        raise DataError(f"{name}: not a whole image ({error})") from error


def bad_images(names: Iterable[str], root: Path) -> list[BadImage]:
    """Open every image once, before training starts, and return those that cannot be used."""

    def fault(name: str) -> BadImage | None:
        try:
            open_image(inside(root, name))
        except DataError as error:
            return BadImage(name, str(error))
        return None

    distinct = list(dict.fromkeys(names))
    # Decoding releases the interpreter lock, so threads share the work.
    with ThreadPoolExecutor() as threads:
        faults = tqdm(threads.map(fault, distinct), total=len(distinct), desc="images", leave=False)
        return [bad for bad in faults if bad is not None]


def mean_colour(mean: Sequence[float]) -> tuple[int, int, int]:
    """Return a processor's `image_mean` (0 to 1 per channel) as a colour, rounded down."""
    red, green, blue = (int(value * 255) for value in mean)
    return red, green, blue


def pad_to_square(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Centre an image on a square of `colour`, as LLaVA-1.5 does (`expand2square`)."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def place_labels(
    boxes: Sequence[Sequence[float]],
    labels: Sequence[tuple[float, float]],
    size: tuple[float, float],
) -> list[tuple[float, float] | None]:
    """Return the top left corner of each box's label: inside the image and on no other label.

    `boxes` are (x, y, width, height), `labels` (width, height), in the image's pixels.  Larger
    boxes are placed first; `None` where no space is left.
    """
    places: list[tuple[float, float] | None] = [None] * len(boxes)
    taken: list[tuple[float, float, float, float]] = []
    for number in sorted(range(len(boxes)), key=lambda n: -boxes[n][2] * boxes[n][3]):
        (x, y, width, height), (wide, high) = boxes[number], labels[number]
        right, bottom = x + width - wide, y + height - high
        if wide > size[0] or high > size[1]:
            continue
        for left, top in ((x, y), (x, y - high), (right, y), (x, bottom), (right, bottom),
                          (x, y + height)):  # fmt: skip
            left = min(max(left, 0), size[0] - wide)
            top = min(max(top, 0), size[1] - high)
            if all(left + wide <= a or c <= left or top + high <= b or d <= top
                   for a, b, c, d in taken):  # fmt: skip
                places[number] = left, top
                taken.append((left, top, left + wide, top + high))
                break
    return places


def data_address(content: bytes, kind: str) -> str:
    """Return an image file's content as a `data:` address; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def png_texts(path: Path) -> tuple[str, str]:
    """Return a PNG's title and description; a PNG without a title is called after its file.

    Raises `DataError` for a damaged one.
    """
    try:
        with Image.open(path) as image:
            image.verify()
            title = image.info.get("Title", path.stem.replace("_", " "))
            return title, image.info.get("Description", title)
    except Exception as error:  # damaged images raise errors of zlib, struct and more
        raise DataError(f"{path}: not a whole image; delete it and run the study again") from error


def image_address(image: Image.Image, kind: str, **options: Any) -> str:
    """Return an image as a `data:` address; `options` are those of Pillow's writer."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return data_address(buffer.getvalue(), kind)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Return images as one, left to right at the height of the first; a single one as it is."""
    if len(images) == 1:
        return images[0]
    height = images[0].height
    widths = [max(1, round(image.width * height / image.height)) for image in images]
    whole = Image.new("RGB", (sum(widths), height))
    for image, width, right in zip(images, widths, accumulate(widths), strict=True):
        whole.paste(image.resize((width, height)), (right - width, 0))
    return whole


def pixel_values(images: Sequence[Image.Image], processor: "CLIPImageProcessorPil") -> np.ndarray:
    """Return images as the checkpoint's processor prepares them, padded to squares first.

    Shape (images, 3, side, side), float32, normalised by the processor's mean and deviation.
    """
    colour = mean_colour(processor.image_mean)
    squares = [pad_to_square(image, colour) for image in images]
    return np.asarray(processor(images=squares, return_tensors="np")["pixel_values"], np.float32)
