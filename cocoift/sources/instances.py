"""COCO's instances: `instances_*.json` read once, by image, and filed for quick access.

Format: the "Object Detection" section of cocodataset.org/#format-data.
"""

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


class InstanceImage(msgspec.Struct, frozen=True):
    """An image of an instances file, its size in pixels."""

    id: int
    height: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    width: Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
    file_name: str = ""


class Category(msgspec.Struct, frozen=True):
    """A category of an instances file."""

    id: int
    name: str


class Instance(msgspec.Struct, frozen=True):
    """One object: its box as x, y, width, height in pixels, its outline as upstream wrote it."""

    image_id: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0
    segmentation: msgspec.Raw = msgspec.Raw(b"[]")


class InstanceFile(msgspec.Struct, frozen=True):
    """An `instances_*.json` whose annotations all name an image and a category of the file."""

    images: list[InstanceImage]
    categories: list[Category]
    annotations: list[Instance]

    @property
    def names(self) -> dict[int, str]:
        """The names of the categories by id."""
        return {category.id: category.name for category in self.categories}

    def by_image(self) -> dict[int, list[tuple[Instance, str]]]:
        """Return the instances of each image that has any, with the names of their categories."""
        names = self.names
        found: dict[int, list[tuple[Instance, str]]] = {}
        for one in self.annotations:
            found.setdefault(one.image_id, []).append((one, names[one.category_id]))
        return found


def read_instances(path: Path) -> InstanceFile:
    """Read an instances file; raises `DataError` for one that is damaged or contradicts itself."""
    file = decode(path, InstanceFile)
    images, names = {image.id for image in file.images}, file.names
    for one in file.annotations:
        if one.category_id not in names or one.image_id not in images:
            what = f"image {one.image_id} or category {one.category_id}"
            raise damaged(path, f"an annotation names {what}, which the file does not list")
    return file


def write_instances(source: Path, out: Path, *, file: InstanceFile | None = None) -> int:
    """File the instances of `source` by image, as Parquet; return how many there are.

    `file` is what was read of it already.  The table has `INSTANCE_SCHEMA`, so that one image's
    are read without the other 860,000.  Raises `DataError` as `read_instances` does.
    """
    file = file or read_instances(source)
    names = file.names
    sizes = {image.id: (image.height, image.width) for image in file.images}
    order = np.argsort([row.image_id for row in file.annotations], kind="stable")
    with replacing(out) as temporary, pq.ParquetWriter(temporary, INSTANCE_SCHEMA) as writer:
        for start in range(0, len(order), 20_000):
            rows = [file.annotations[place] for place in order[start : start + 20_000]]
            try:
                cells = [_row(one, names[one.category_id], sizes[one.image_id]) for one in rows]
            except UnicodeDecodeError as error:
                raise damaged(source, error) from error
            writer.write_batch(row_batch(cells, INSTANCE_SCHEMA))
    return len(order)


def _row(one: Instance, category: str, size: tuple[int, int]) -> tuple[Any, ...]:
    outline = bytes(one.segmentation).decode()
    return one.image_id, category, one.bbox, bool(one.iscrowd), *size, outline
