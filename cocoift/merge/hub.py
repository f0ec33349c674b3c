"""Mixtures as a dataset folder for the hub: Parquet with an `Image` column, configs and a card."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from tqdm.auto import tqdm

from cocoift.core.files import DataError, inside, refuse_filled, replacing_folder, write_text
from cocoift.merge.export import NO_IMAGES
from cocoift.merge.formats import PICTURE, RECORD_SCHEMA, for_datasets

_SCHEMA = for_datasets(
    pa.schema(
        [pa.field("image", PICTURE) if field.name == "image" else field for field in RECORD_SCHEMA]
    )
)
# Small row groups, since the hub's viewer reads whole ones; shards of about half a gigabyte with
# COCO's pictures in them.
_GROUP_RECORDS, _SHARD_RECORDS = 100, 3_000


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """Which mixtures of a merged set go to the hub.

    With `image_root` every record holds its picture's bytes; without, its path below COCO's
    image folder.  A shard holds `shard_records`, the last one what is left.
    """

    merged: Path
    mixtures: Sequence[str] = ("merged",)
    image_root: Path | None = None
    shard_records: int = _SHARD_RECORDS


def write_hub_dataset(dataset: HubDataset, out: Path) -> Path:
    """Write a folder that `datasets.load_dataset` reads and `hf upload` takes; return it.

    One config per mixture, `data/<mixture>/train-*.parquet` each, and the card of the merged set.
    Raises `DataError` for a mixture or a picture that is not there, and for a folder that holds
    something already; nothing is written then.
    """
    refuse_filled(out)
    with replacing_folder(out) as unfinished:
        for name in dataset.mixtures:
            path = dataset.merged / f"{name}.parquet"
            if not path.is_file():
                raise DataError(f"no mixture {path}; run notebook 02_merge")
            _write_shards(dataset, path, unfinished / "data" / name)
        write_text(unfinished / "README.md", _card(dataset))
    return out


def _write_shards(dataset: HubDataset, path: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    file = pq.ParquetFile(path)
    if file.schema_arrow.names != RECORD_SCHEMA.names:
        raise DataError(f"{path}: not the columns of this version; run notebook 02_merge again")
    total = file.metadata.num_rows
    shards = max(1, -(-total // dataset.shard_records))
    parts = file.iter_batches(batch_size=dataset.shard_records)
    written = 0
    for number in tqdm(range(shards), desc=path.stem, unit=" shards"):
        shard = folder / f"train-{number:05d}-of-{shards:05d}.parquet"
        with pq.ParquetWriter(shard, _SCHEMA) as writer:
            for rows in islice(parts, 1):
                for at in range(0, len(rows), _GROUP_RECORDS):
                    group = rows.slice(at, _GROUP_RECORDS)
                    writer.write_table(_with_pictures(group, dataset.image_root))
                written += len(rows)
    if written != total:
        raise DataError(f"{path}: {written} of {total} records fit the shards; make them smaller")


def _with_pictures(rows: pa.RecordBatch, root: Path | None) -> pa.Table:
    names = rows["image"].to_pylist()
    pictures = [{"bytes": _content(root, name) if root else None, "path": name} for name in names]
    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns["image"] = pa.array(pictures, PICTURE)
    return pa.table([columns[field.name] for field in _SCHEMA], schema=_SCHEMA)


def _content(root: Path, name: str) -> bytes:
    path = inside(root, name)
    if not path.is_file():
        raise DataError(f"{path}: no picture on disk; write the dataset without pictures")
    return path.read_bytes()


def _card(dataset: HubDataset) -> str:
    """Return the merged set's card with the configs of this folder."""
    path = dataset.merged / "README.md"
    if not path.is_file():
        raise DataError(f"no card {path}; run notebook 02_merge")
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    stated = yaml.safe_load(head)
    stated["configs"] = [
        {"config_name": name, "data_files": f"data/{name}/train-*.parquet"}
        for name in dataset.mixtures
    ]
    if dataset.image_root:
        body = body.replace(NO_IMAGES, "The images are included; each is under its own licence.")
    return f"---\n{yaml.safe_dump(stated, sort_keys=False)}---\n{body}"
