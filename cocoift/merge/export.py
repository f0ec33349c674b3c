"""Write a mixture in the formats trainers read: LLaVA JSON, Parquet, TRL messages, LLaMA-Factory.

Records are streamed in chunks, and a file appears under its name only when it is complete.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.files import replacing, write_text
from cocoift.core.parallel import ordered
from cocoift.core.schema import KEPT_SCHEMA, Record, kept_by_image
from cocoift.core.tables import read_table, reading
from cocoift.merge import layouts as mixtures
from cocoift.merge.formats import MESSAGES_SCHEMA, RECORD_SCHEMA, Encoded, encode_records
from cocoift.merge.layouts import Layout
from cocoift.merge.rules import Rules
from cocoift.sources.base import paused_collector
from cocoift.sources.catalogue import Entry
from cocoift.sources.scope import Scope

# The folder of a record's image, below the image folder.
IMAGE_DIR = "train2017"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row group of a file of kept turns, to be laid out as records of a mixture."""

    turns: Path
    group: int
    layout: Layout
    budget: int
    image_dir: str


def write_mixture(records: Iterable[Record], folder: Path, *, name: str) -> dict[str, int]:
    """Write `<name>.json`, `<name>.parquet` and `<name>_messages.parquet`; return the counts.

    The JSON is LLaVA's list of records, one per line; the messages are TRL's conversational
    vision format (`messages` with typed content, `images` as paths).  Every record is checked.
    """
    iterator = iter(records)
    chunks = iter(lambda: list(islice(iterator, 2_000)), [])
    with paused_collector():
        return _write(map(encode_records, chunks), folder, name=name)


def export_mixture(
    turns: Path, folder: Path, *, name: str, layout: Layout, budget: int, image_dir: str = IMAGE_DIR
) -> dict[str, int]:
    """Lay out a file of kept turns as a mixture and write it as `write_mixture` does.

    Row groups are laid out and encoded on all cores of this machine, whose number does not change
    the files.
    """
    with reading(turns):
        groups = range(pq.read_metadata(turns).num_row_groups)
    tasks = [
        Task(turns=turns, group=group, layout=layout, budget=budget, image_dir=image_dir)
        for group in groups
    ]
    return _write(ordered(_encode_group, tasks), folder, name=name)


def _encode_group(task: Task) -> Encoded:
    images = kept_by_image(task.turns, group=task.group)
    with paused_collector():
        found = mixtures.records(
            images, layout=task.layout, budget=task.budget, image_dir=task.image_dir
        )
        return encode_records(list(found))


def _write(parts: Iterable[Encoded], folder: Path, *, name: str) -> dict[str, int]:
    counts = {"records": 0, "rounds": 0}
    with ExitStack() as stack:
        as_json = stack.enter_context(replacing(folder / f"{name}.json")).open("wb")
        stack.callback(as_json.close)
        rows = _writer(stack, folder / f"{name}.parquet", RECORD_SCHEMA)
        messages = _writer(stack, folder / f"{name}_messages.parquet", MESSAGES_SCHEMA)
        for part in parts:
            as_json.write(b",\n" if counts["records"] else b"[\n")
            as_json.write(b",\n".join(part.lines))
            rows.write_table(part.rows)
            messages.write_table(part.messages)
            counts["records"] += len(part.lines)
            counts["rounds"] += part.rounds
        as_json.write(b"\n]\n" if counts["records"] else b"[]\n")
    return counts


def _writer(stack: ExitStack, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return stack.enter_context(pq.ParquetWriter(stack.enter_context(replacing(path)), schema))


def dataset_info(names: Iterable[str]) -> str:
    """Return LLaMA-Factory's `dataset_info.json` for the mixtures called `names`.

    Format: `data/README.md` of hiyouga/LLaMA-Factory, "ShareGPT Format" with images.
    """
    shared = {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "image"},
        "tags": {"role_tag": "from", "content_tag": "value",
                 "user_tag": "human", "assistant_tag": "gpt"},
    }  # fmt: skip
    entries = {name: {"file_name": f"{name}.json", **shared} for name in names}
    return json.dumps(entries, indent=2) + "\n"


NO_IMAGES = "Images are not included; paths are relative to the COCO image folder."
_CARD = """\
---
language: en
task_categories: [image-text-to-text]
license: other
license_name: per-source
configs:
{files}
---

# COCO multi-round instruction data

One conversation per COCO image, merged from many annotation sets by `cocoift` after arXiv \
2401.08968. {images}"""


class Licence(msgspec.Struct):
    """A row of `licences.json`; without a number where the licence is not known."""

    licence: int | Literal[""]
    name: str
    address: str


def image_licences(turns: Path, scope: Scope) -> pd.DataFrame:
    """Return licence, name, address and number of images in a file of kept turns.

    `licence` is COCO's number; it is empty in the row of the images whose licence is not known, or
    is named by no image list.
    """
    table = (
        read_table(turns, KEPT_SCHEMA, columns=["image_id", "licence"])
        .to_pandas()
        .drop_duplicates()
    )
    known = table.licence.where(table.licence.isin(list(scope.licences)))
    counted = known.value_counts(dropna=False).sort_index()
    rows = []
    for number, images in counted.items():
        entry = scope.licences.get(0 if pd.isna(number) else int(number))
        named = (entry.id, entry.short, entry.url) if entry else ("", "not known", "")
        rows.append((*named, images))
    return pd.DataFrame(rows, columns=["licence", "name", "address", "images"])


def dataset_card(
    catalogue: Mapping[str, Entry],
    drops: pd.DataFrame,
    *,
    counts: Mapping[str, Mapping[str, int]],
    licences: pd.DataFrame,
    rules: Rules,
    tokens: str,
) -> str:
    """Return the dataset card: what is in the mixtures, by which rules, under which licences.

    `licences` are those of `image_licences`.
    """
    kept = set(drops.source[(drops.reason == "kept") & (drops.turns > 0)])
    wide = drops.pivot_table(index="source", columns="reason", values="turns", fill_value=0)
    wide.insert(0, "in", wide.sum(axis=1))
    wide = wide.astype(int).reset_index()
    sources = [(name, entry.title, entry.licence, entry.citation)
               for name, entry in catalogue.items() if name in kept]  # fmt: skip
    mixtures = [(name, *numbers.values()) for name, numbers in counts.items()]
    stated = [*msgspec.structs.asdict(rules).items(), ("tokens counted by", tokens)]
    tables: dict[str, tuple[Iterable[str], Iterable[Iterable[Any]]]] = {
        "Mixtures": (("mixture", "records", "rounds"), mixtures),
        "Rules": (("rule", "value"), stated),
        "Turns in, kept and dropped": (wide.columns, wide.itertuples(index=False)),
        "Licences of the sources": (("source", "title", "licence", "citation"), sources),
        "Licences of the images": (licences.columns, licences.itertuples(index=False)),
    }
    files = (f"- {{config_name: {name}, data_files: {name}.parquet}}" for name in counts)
    lines = [_CARD.format(files="\n".join(files), images=NO_IMAGES)]
    for title, (header, rows) in tables.items():
        lines += ["", f"## {title}", "", *markdown_table(header, rows)]
    return "\n".join(lines) + "\n"


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, pipes in cells escaped."""

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    header = tuple(header)
    yield line(header)
    yield line("---" for _ in header)
    yield from map(line, rows)


def write_extras(folder: Path, *, names: Iterable[str], card: str, licences: pd.DataFrame) -> None:
    """Write the files beside the mixtures: LLaMA-Factory's entry, the card, the licences."""
    write_text(folder / "dataset_info.json", dataset_info(names))
    write_text(folder / "README.md", card)
    write_text(folder / "licences.json", licences.to_json(orient="records", indent=2) + "\n")
