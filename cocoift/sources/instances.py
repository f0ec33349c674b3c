"""COCO's instances in a file by image, so that one picture's are read without the other 860,000."""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.files import replacing
from cocoift.core.schema import row_batch
from cocoift.sources.base import damaged, decode

INSTANCE_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("category", pa.string(), nullable=False),
        pa.field("bbox", pa.list_(pa.float32()), nullable=False),
        pa.field("iscrowd", pa.bool_(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("segmentation", pa.string(), nullable=False),
    ]
)


class _Image(msgspec.Struct):
    id: int
    height: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    width: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    image_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


class _File(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


def write_instances(source: Path, out: Path) -> int:
    """Write the instances of `instances_*.json` sorted by image; return how many there are.

    `segmentation` stays JSON text: polygons, or an RLE for a crowd, in pixels of `height` and
    `width`.  Raises `DataError` for a damaged file.  Format: cocodataset.org/#format-data.
    """
    file = decode(source, _File)
    names = {category.id: category.name for category in file.categories}
    sizes = {image.id: (image.height, image.width) for image in file.images}
    order = np.argsort([row.image_id for row in file.annotations], kind="stable")
    with replacing(out) as temporary, pq.ParquetWriter(temporary, INSTANCE_SCHEMA) as writer:
        for start in range(0, len(order), 20_000):
            rows = [file.annotations[place] for place in order[start : start + 20_000]]
            try:
                told = [_row(row, names[row.category_id], sizes[row.image_id]) for row in rows]
            except KeyError as error:
                raise damaged(source, f"uses {error}, which is no image or category") from error
            except UnicodeDecodeError as error:
                raise damaged(source, error) from error
            writer.write_batch(row_batch(told, INSTANCE_SCHEMA))
    return len(order)


def _row(row: _Annotation, category: str, size: tuple[int, int]) -> tuple[Any, ...]:
    outline = bytes(row.segmentation).decode()
    return row.image_id, category, row.bbox, bool(row.iscrowd), *size, outline
