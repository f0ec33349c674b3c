"""Mixtures as a dataset folder for the hub: Parquet with images or their paths, and a card."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from cocoift.core.bars import tqdm
from cocoift.core.files import (
    DataError,
    inside,
    read_json,
    refuse_filled,
    replacing_folder,
    write_text,
)
from cocoift.core.images import BadImage, bad_images
from cocoift.core.tables import RUN_MERGE, read_batches, read_table
from cocoift.merge.export import NO_IMAGES, Licence, markdown_table
from cocoift.merge.formats import IMAGE, RECORD_SCHEMA, for_datasets

_WITH_PATHS = for_datasets(RECORD_SCHEMA)
_WITH_IMAGES = for_datasets(
    RECORD_SCHEMA.set(RECORD_SCHEMA.get_field_index("image"), pa.field("image", IMAGE))
)
# Small row groups, since the hub's viewer reads whole ones; shards of about half a gigabyte with
# COCO's images in them.
_GROUP_RECORDS, _SHARD_RECORDS = 100, 3_000
# At most so many images are named; nobody would read a longer list.
_NAMED = 20


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """Which mixtures of a merged set go to the hub.

    With `image_root` every record holds its image's bytes; without it, the path below COCO's image
    folder as text.  A shard holds `shard_records` records, the last one the rest.
    """

    merged: Path
    mixtures: Sequence[str] = ("merged",)
    image_root: Path | None = None
    shard_records: int = _SHARD_RECORDS


@dataclass
class Written:
    """What the shards of a mixture hold: records, rounds, sources, and the images' licences.

    `left_out` counts the records whose image cannot be opened.
    """

    records: int = 0
    rounds: int = 0
    left_out: int = 0
    sources: set[str] = field(default_factory=set)
    licences: dict[str, int | None] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Add records to the counts."""
        self.records += len(rows)
        sources = pc.list_flatten(rows["sources"])
        self.rounds += len(sources)
        self.sources |= set(sources.unique().to_pylist())
        self.licences |= zip(rows["image"].to_pylist(), rows["licence"].to_pylist(), strict=True)


@dataclass(frozen=True)
class HubFolder:
    """A dataset folder: what it holds by mixture, and the images that are not in it."""

    path: Path
    mixtures: Mapping[str, Written]
    bad: Sequence[BadImage]

    def summary(self) -> str:
        """Return what is in the folder and what is left out, with the reasons."""
        held = (f"{name} {written.records:,} records" for name, written in self.mixtures.items())
        lines = [f"{self.path}: {', '.join(held)}", *filter(None, [self.left_out()])]
        return "\n".join([*lines, *(f"  {image.reason}" for image in self.bad[:_NAMED])])

    def left_out(self) -> str:
        """Return how many records are left out because of their images; empty if none is."""
        if not self.bad:
            return ""
        counts = (f"{written.left_out:,} of {name}" for name, written in self.mixtures.items())
        return (
            f"{len(self.bad):,} images cannot be opened; their records are left out: "
            f"{', '.join(counts)}."
        )


def write_hub_dataset(dataset: HubDataset, out: Path) -> HubFolder:
    """Write a folder for `datasets.load_dataset` and `hf upload`; return what it holds.

    Each mixture is a config, `data/<mixture>/train-*.parquet`; a card describes them all.  Every
    image is decoded first; damaged ones are left out with their records.  Raises `DataError`, and
    writes nothing, for a missing mixture or image, if no image can be opened, and for a folder that
    is not empty.
    """
    refuse_filled(out)
    files = {name: dataset.merged / f"{name}.parquet" for name in dataset.mixtures}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"no mixture {path}; run notebook 02_merge")
    bad = _damaged_images(files.values(), dataset.image_root) if dataset.image_root else []
    names = {image.name for image in bad}
    with replacing_folder(out) as unfinished:
        found = {
            name: _write_shards(dataset, file, unfinished / "data" / name, names)
            for name, file in files.items()
        }
        folder = HubFolder(out, found, bad)
        write_text(unfinished / "README.md", _card(dataset, folder))
    return folder


def _images(path: Path) -> list[str]:
    return read_table(path, RECORD_SCHEMA, columns=["image"])["image"].to_pylist()


def _damaged_images(files: Iterable[Path], root: Path) -> list[BadImage]:
    """Return the images that cannot be decoded; raises `DataError` for one that is missing."""
    names = dict.fromkeys(name for file in files for name in _images(file))
    for name in names:
        if not inside(root, name).is_file():
            raise DataError(f"{root / name}: no image on disk; write the dataset without images")
    bad = bad_images(names, root)
    if names and len(bad) == len(names):
        raise DataError(f"none of the {len(bad):,} images can be opened, such as {bad[0].reason}")
    return bad


def _write_shards(dataset: HubDataset, file: Path, folder: Path, bad: Collection[str]) -> Written:
    """Write the records of a mixture whose images are not `bad`."""
    folder.mkdir(parents=True)
    root, size, written = dataset.image_root, dataset.shard_records, Written()
    names = _images(file)
    written.left_out = sum(name in bad for name in names)
    shards = max(1, -(-(len(names) - written.left_out) // size))
    parts = tqdm(_parts(file, bad, size), desc=folder.name, total=shards, unit=" shards")
    for number, rows in enumerate(parts):
        shard = folder / f"train-{number:05d}-of-{shards:05d}.parquet"
        with pq.ParquetWriter(shard, _WITH_IMAGES if root else _WITH_PATHS) as writer:
            for at in range(0, len(rows), _GROUP_RECORDS):
                group = rows.slice(at, _GROUP_RECORDS)
                writer.write_table(_with_images(group, root) if root else group)
        written.add(rows)
    if written.records + written.left_out != len(names):
        raise DataError(f"{folder.name}: {written.records} of {len(names)} records fit the shards")
    return written


def _parts(file: Path, bad: Collection[str], size: int) -> Iterator[pa.Table]:
    """Yield tables of `size` records whose images are not `bad`, the last one with the rest."""
    waiting = RECORD_SCHEMA.empty_table()
    left_out, whole = pa.array(list(bad), pa.string()), True
    for batch in read_batches(file, RECORD_SCHEMA, batch_size=size):
        rows = pa.Table.from_batches([batch])
        rows = rows.filter(pc.invert(pc.is_in(rows["image"], left_out)))
        waiting = pa.concat_tables([waiting, rows])
        while len(waiting) >= size:
            yield waiting.slice(0, size)
            waiting, whole = waiting.slice(size), False
    if len(waiting) or whole:
        yield waiting


def _with_images(rows: pa.Table, root: Path) -> pa.Table:
    names = rows["image"].to_pylist()
    images = [{"bytes": inside(root, name).read_bytes(), "path": name} for name in names]
    place = rows.schema.get_field_index("image")
    return rows.set_column(place, pa.field("image", IMAGE), pa.array(images, IMAGE))


def _card(dataset: HubDataset, folder: HubFolder) -> str:
    """Return the merged set's card, with the mixtures, sources and images of this folder."""
    path = dataset.merged / "README.md"
    if not path.is_file():
        raise DataError(f"no card {path}; run notebook 02_merge")
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    stated = yaml.safe_load(head)
    stated["configs"] = [
        {"config_name": name, "data_files": f"data/{name}/train-*.parquet"}
        for name in folder.mixtures
    ]
    intro, *sections = re.split(r"^## (.+)\n", body, flags=re.MULTILINE)
    if dataset.image_root:
        included = "The images are included; each is under its own licence."
        intro = intro.replace(NO_IMAGES, f"{included} {folder.left_out()}".strip())
    tables = dict(zip(sections[::2], sections[1::2], strict=True)) | _tables(dataset, folder)
    sources = {name for written in folder.mixtures.values() for name in written.sources}
    for title in ("Turns in, kept and dropped", "Licences of the sources"):
        tables[title] = _rows_of(sources, tables.get(title, ""), f"{path}, {title!r}")
    body = intro + "".join(f"## {title}\n{text}" for title, text in tables.items())
    return f"---\n{yaml.safe_dump(stated, sort_keys=False)}---\n{body}"


def _tables(dataset: HubDataset, folder: HubFolder) -> dict[str, str]:
    """Return the sections of the card that count what is in the folder."""
    path = dataset.merged / "licences.json"
    fix = f"{RUN_MERGE} again"
    known = read_json(path, list[Licence], fix=fix) if path.is_file() else []
    licence_of: dict[str, int | None] = {}
    for written in folder.mixtures.values():
        licence_of |= written.licences
    named: dict[int | str | None, tuple[str, str]] = {
        row.licence: (row.name, row.address) for row in known
    }
    counts = Counter(n if n in named else "" for n in licence_of.values())
    licences = [(n, *named.get(n, ("not known", "")), counts[n])
                for n in sorted(counts, key=lambda n: (n == "", n))]  # fmt: skip
    mixtures = [(name, written.records, written.rounds)
                for name, written in folder.mixtures.items()]  # fmt: skip
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]] = {
        "Mixtures": (("mixture", "records", "rounds"), mixtures),
        "Licences of the images": (("licence", "name", "address", "images"), licences),
    }
    if folder.bad:
        rows = [(image.name,) for image in folder.bad[:_NAMED]]
        rows += [("...",)] if len(folder.bad) > _NAMED else []
        tables["Images left out"] = (("image",), rows)
    return {title: "\n".join(["", *markdown_table(*parts), "", ""])
            for title, parts in tables.items()}  # fmt: skip


def _rows_of(sources: set[str], text: str, place: str) -> str:
    """Return a table of the card with the rows of these sources; raises `DataError` without one."""
    lines = text.split("\n")
    first = [line.split("|")[1].strip() if line.startswith("| ") else "" for line in lines]
    if missing := sorted(sources - set(first)):
        raise DataError(f"{place}: no row for {', '.join(missing)}; run notebook 02_merge again")
    kept = [line for line, name in zip(lines, first, strict=True)
            if not line.startswith("| ") or name in {*sources, "source", "---"}]  # fmt: skip
    return "\n".join(kept)
