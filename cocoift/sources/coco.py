"""COCO's own captions."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from cocoift.sources.base import QA, Dialog, Drop, decode_array


class _Caption(msgspec.Struct):
    id: int
    image_id: int
    caption: str | None


def captions(*, captions: Path) -> Iterator[Dialog | Drop]:
    """Yield each caption of `captions_train2017.json` as the answer to a template without question.

    Format: the "Image Captioning" section of cocodataset.org/#format-data.
    """
    for row in decode_array(captions, _Caption, key="annotations"):
        yield Dialog(row.image_id, str(row.id), (QA("", row.caption),))
