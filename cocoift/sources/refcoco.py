"""RefCOCO: referring expressions, from refer's pickle and a COCO instances file."""

import io
import pickle
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec

from cocoift.sources.base import QA, Dialog, Drop, damaged, decode

# LLaVA-1.5's own wordings, from the RefCOCO records of llava_v1_5_mix665k.json.
DESCRIBE = "Please provide a short description for this region: {question}"
LOCATE = (
    "Please provide the bounding box coordinate of the region this sentence describes: {question}"
)


class _Image(msgspec.Struct):
    id: int
    width: int
    height: int


class _Box(msgspec.Struct):
    id: int
    bbox: tuple[float, float, float, float]


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Box]


class _Sentence(msgspec.Struct):
    sent: str | None


class _Ref(msgspec.Struct):
    ref_id: int
    ann_id: int
    image_id: int
    split: str
    sentences: list[_Sentence]


class _PlainUnpickler(pickle._Unpickler):
    """An unpickler for dicts, lists, strings and numbers: it loads no class, and so runs no code.

    It is Python's pure implementation: the one in C allocates 17 GB for an eight-byte file that
    names a large memo index.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"refuses to load {module}.{name}")


def refcoco(*, refs: Path, instances: Path) -> Iterator[Dialog | Drop]:
    """Yield the regions of each image as one dialog that alternates between them.

    All expressions of a region but the longest ask for its box, and the longest describes it;
    regions with a single expression are described and located alternately.  So every expression is
    used, no two answers contradict each other, and no question reveals a later answer.

    Files `refs(unc).p` (a pickle, read with an unpickler that loads no classes) and refer's
    `instances.json`; only `split: train`.  Boxes are written as LLaVA-1.5 writes them, as fractions
    of the image padded to a square.  Format: github.com/lichengunc/refer.
    """
    file = decode(instances, _Instances)
    sizes = {image.id: image for image in file.images}
    boxes = {box.id: box.bbox for box in file.annotations}
    regions: dict[int, list[tuple[int, list[QA]]]] = defaultdict(list)
    for ref in sorted(_read_refs(refs), key=lambda ref: ref.ref_id):
        if ref.split != "train":
            yield Drop("other_split", len(ref.sentences))
            continue
        if ref.ann_id not in boxes or ref.image_id not in sizes:
            yield Drop("region_without_box", len(ref.sentences))
            continue
        image = sizes[ref.image_id]
        box = square_box(boxes[ref.ann_id], width=image.width, height=image.height)
        expressions = list(dict.fromkeys(sentence.sent for sentence in ref.sentences))
        if len(expressions) < len(ref.sentences):
            yield Drop("repeated_expression", len(ref.sentences) - len(expressions))
        if not expressions:
            continue
        number = len(regions[ref.image_id])
        regions[ref.image_id].append((ref.ref_id, _rounds(expressions, box, number)))
    for image_id, found in regions.items():
        alternating = zip_longest(*(rounds for _, rounds in found))
        turns = tuple(qa for in_turn in alternating for qa in in_turn if qa is not None)
        yield Dialog(image_id, str(found[0][0]), turns)


def _rounds(expressions: list[str | None], box: str, number: int) -> list[QA]:
    """Return the rounds about an image's region of this number; its expressions differ."""
    longest = max(expressions, key=lambda text: len(text or ""))
    others = [text for text in expressions if text is not longest]
    found = [QA(text, box, "phrase", LOCATE) for text in others]
    if others or number % 2 == 0:
        return [*found, QA(box, longest, "phrase", DESCRIBE)]
    return [QA(longest, box, "phrase", LOCATE)]


def _read_refs(path: Path) -> list[_Ref]:
    try:
        content = io.BytesIO(path.read_bytes())
        return msgspec.convert(_PlainUnpickler(content, encoding="utf-8").load(), list[_Ref])
    except Exception as error:  # a damaged pickle can raise almost anything
        raise damaged(path, error) from error


def square_box(bbox: Sequence[float], *, width: int, height: int) -> str:
    """Return a COCO box (x, y, w, h in pixels) as LLaVA's `[x1, y1, x2, y2]`.

    They are fractions of the side of the image padded to a square, with two decimals: see
    `expand2square` in LLaVA's `mm_utils.py`.
    """
    x, y, w, h = bbox
    side = max(width, height)
    left, top = (side - width) / 2, (side - height) / 2
    corners = (x + left, y + top, x + w + left, y + h + top)
    return "[" + ", ".join(f"{corner / side:.2f}" for corner in corners) + "]"
