"""COCO's instances: read from the files that list a preset's images, and stored by image.

Format: the "Object Detection" section of cocodataset.org/#format-data.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import structs

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
    """An object: its box as x, y, width, height in pixels, and its outline as upstream wrote it."""

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
        for instance in self.annotations:
            named = instance, names[instance.category_id]
            found.setdefault(instance.image_id, []).append(named)
        return found


class _Sections(msgspec.Struct):
    categories: list[msgspec.Raw] = []
    annotations: list[msgspec.Raw] = []


class _Fields(msgspec.Struct):
    category_id: Any = None
    bbox: Any = None


def read_instances(path: Path) -> InstanceFile:
    """Read an instances file; raises `DataError` for one that is damaged or contradicts itself."""
    file = decode(path, InstanceFile)
    images, names = {image.id for image in file.images}, file.names
    for instance in file.annotations:
        if instance.category_id not in names or instance.image_id not in images:
            what = f"image {instance.image_id} or category {instance.category_id}"
            raise damaged(path, f"an annotation names {what}, which the file does not list")
        try:
            bytes(instance.segmentation).decode()
        except UnicodeDecodeError as error:
            raise damaged(path, f"an outline on image {instance.image_id}: {error}") from error
    return file


def holds_instances(path: Path) -> bool:
    """Tell whether a COCO file has objects with boxes, not only images, captions or segments.

    Any COCO file may say which images train.  Raises `DataError` for a damaged file.
    """
    file = decode(path, _Sections)
    if not (file.categories and file.annotations):
        return False
    try:
        first = msgspec.json.decode(file.annotations[0], type=_Fields)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(path, f"{error} - at `$.annotations[0]`") from error
    return first.category_id is not None or first.bbox is not None


def read_listed(paths: Iterable[Path]) -> InstanceFile:
    """Read the instances of several files as one; files that are absent or hold none add nothing.

    For an image in several files, the last file counts.  Categories are renumbered by name.  Raises
    `DataError` as `read_instances` does.
    """
    images: dict[int, InstanceImage] = {}
    instances: list[Instance] = []
    numbers: dict[str, int] = {}
    found = [path for path in paths if path.is_file() and holds_instances(path)]
    for file in map(read_instances, reversed(found)):
        names = file.names
        for instance in file.annotations:
            if instance.image_id not in images:
                number = numbers.setdefault(names[instance.category_id], len(numbers) + 1)
                instances.append(structs.replace(instance, category_id=number))
        images = {image.id: image for image in file.images} | images
    categories = [Category(number, name) for name, number in numbers.items()]
    return InstanceFile(list(images.values()), categories, instances)


def write_instances(file: InstanceFile, out: Path) -> int:
    """Write instances sorted by image to a Parquet file of `INSTANCE_SCHEMA`; return their number.

    Those of one image can then be read without the other 860,000.
    """
    names = file.names
    sizes = {image.id: (image.height, image.width) for image in file.images}
    order = np.argsort([row.image_id for row in file.annotations], kind="stable")
    with replacing(out) as temporary, pq.ParquetWriter(temporary, INSTANCE_SCHEMA) as writer:
        for start in range(0, len(order), 20_000):
            rows = [file.annotations[place] for place in order[start : start + 20_000]]
            cells = [(row.image_id, names[row.category_id], row.bbox, bool(row.iscrowd),
                      *sizes[row.image_id], bytes(row.segmentation).decode())
                     for row in rows]  # fmt: skip
            writer.write_batch(row_batch(cells, INSTANCE_SCHEMA))
    return len(order)
