"""Write a mixture in the formats trainers read: LLaVA JSON, Parquet, TRL messages, LLaMA-Factory.

Everything streams, one chunk of records at a time, and appears under its name only when whole.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.files import replacing, write_text
from cocoift.merge import Rules
from cocoift.records import IMAGE_MARKER, Message, Record, check_record
from cocoift.sources.base import paused_collector
from cocoift.sources.catalogue import Entry

_MESSAGE = pa.struct([("from", pa.string()), ("value", pa.string())])
RECORD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("conversations", pa.list_(_MESSAGE)),
        ("sources", pa.list_(pa.string())),
    ]
)
_CONTENT = pa.struct([("type", pa.string()), ("text", pa.string())])
MESSAGES_SCHEMA = pa.schema(
    [
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_CONTENT))]))),
        ("images", pa.list_(pa.string())),
    ]
)


def write_mixture(records: Iterable[Record], folder: Path, *, name: str) -> dict[str, int]:
    """Write `<name>.json`, `<name>.parquet` and `<name>_messages.parquet`; return what was counted.

    The JSON is LLaVA's list of records, one a line; the messages are TRL's conversational
    vision format (`messages` with typed content, `images` as paths).  Every record is checked.
    """
    counts = {"records": 0, "rounds": 0}
    encode = msgspec.json.Encoder().encode
    with ExitStack() as stack, paused_collector():
        as_json = stack.enter_context(replacing(folder / f"{name}.json")).open("wb")
        stack.callback(as_json.close)
        rows = _writer(stack, folder / f"{name}.parquet", RECORD_SCHEMA)
        messages = _writer(stack, folder / f"{name}_messages.parquet", MESSAGES_SCHEMA)
        as_json.write(b"[")
        iterator = iter(records)
        while chunk := list(islice(iterator, 2_000)):
            for record in chunk:
                check_record(record)
                as_json.write(b",\n" if counts["records"] else b"\n")
                as_json.write(encode(record))
                counts["records"] += 1
                counts["rounds"] += len(record.sources)
            built = [msgspec.to_builtins(record) for record in chunk]
            rows.write_table(pa.Table.from_pylist(built, RECORD_SCHEMA))
            chats = [to_messages(record) for record in chunk]
            messages.write_table(pa.Table.from_pylist(chats, MESSAGES_SCHEMA))
        as_json.write(b"\n]\n")
    return counts


def _writer(stack: ExitStack, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return stack.enter_context(pq.ParquetWriter(stack.enter_context(replacing(path)), schema))


def to_messages(record: Record) -> dict[str, Any]:
    """Return a record as TRL's vision chat: roles, typed content, image paths beside it."""
    messages = [_message(message) for message in record.conversations]
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    return {"messages": messages, "images": [record.image]}


def _message(message: Message) -> dict[str, Any]:
    role = "user" if message.speaker == "human" else "assistant"
    text = message.value.removeprefix(f"{IMAGE_MARKER}\n")
    return {"role": role, "content": [{"type": "text", "text": text}]}


def dataset_info(names: Iterable[str]) -> str:
    """Return LLaMA-Factory's `dataset_info.json` for the mixtures called `names`.

    Format: `data/README.md` of hiyouga/LLaMA-Factory, "ShareGPT Format" with images.
    """
    columns = {"messages": "conversations", "images": "image"}
    tags = {
        "role_tag": "from",
        "content_tag": "value",
        "user_tag": "human",
        "assistant_tag": "gpt",
    }
    entries = {
        name: {
            "file_name": f"{name}.json",
            "formatting": "sharegpt",
            "columns": columns,
            "tags": tags,
        }
        for name in names
    }
    return json.dumps(entries, indent=2) + "\n"


def dataset_card(
    *,
    catalogue: Mapping[str, Entry],
    drops: pd.DataFrame,
    counts: Mapping[str, Mapping[str, int]],
    rules: Rules,
    tokens: str,
) -> str:
    """Return the dataset card: what is in the mixtures, by which rules, under whose licences."""
    used = [name for name in catalogue if name in set(drops.source)]
    wide = drops.pivot_table(index="source", columns="reason", values="turns", fill_value=0)
    wide.insert(0, "in", wide.sum(axis=1))
    wide = wide.astype(int).reset_index()
    licences = [
        (entry.title, entry.licence, entry.citation) for entry in (catalogue[n] for n in used)
    ]
    lines = [
        "---",
        "language: en",
        "task_categories: [image-text-to-text]",
        "license: other",
        "license_name: per-source",
        "configs:",
        *(f"- {{config_name: {n}, data_files: {n}.parquet}}" for n in counts),
        "---",
        "",
        "# COCO multi-round instruction data",
        "",
        "One conversation per COCO image, merged from many annotation sets by `cocoift` after"
        " arXiv 2401.08968. Images are not included; paths are relative to the COCO image folder.",
        "",
        "## Mixtures",
        "",
        *_table(("mixture", "records", "rounds"), ((n, *c.values()) for n, c in counts.items())),
        "",
        "## Rules",
        "",
        *_table(("rule", "value"), [*asdict(rules).items(), ("tokens counted by", tokens)]),
        "",
        "## Turns in, kept and dropped",
        "",
        *_table(tuple(wide.columns), wide.itertuples(index=False)),
        "",
        "## Licences of the sources",
        "",
        *_table(("source", "licence", "citation"), licences),
    ]
    return "\n".join(lines) + "\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """Yield a Markdown table, pipes in cells escaped."""

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    header = tuple(header)
    yield line(header)
    yield line("---" for _ in header)
    yield from map(line, rows)


def write_extras(folder: Path, *, names: Iterable[str], card: str) -> None:
    """Write what stands beside the mixtures: LLaMA-Factory's entry and the dataset card."""
    write_text(folder / "dataset_info.json", dataset_info(names))
    write_text(folder / "README.md", card)
