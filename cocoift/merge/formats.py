"""Records in the formats trainers read: LLaVA's JSON, Parquet, and TRL's messages."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cocoift.core.schema import IMAGE_MARKER, Message, Record, check_record

_MESSAGE = pa.struct([("from", pa.string()), ("value", pa.string())])
RECORD_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("conversations", pa.list_(_MESSAGE)),
        ("sources", pa.list_(pa.string())),
        ("licence", pa.int16()),
    ]
)
# How `datasets` stores a picture
# (huggingface.co/docs/datasets/en/about_dataset_features, "Image feature").
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_CONTENT = pa.struct([("type", pa.string()), ("text", pa.string())])
_CHAT_MESSAGE = pa.struct([("role", pa.string()), ("content", pa.list_(_CONTENT))])
MESSAGES_SCHEMA = pa.schema(
    [
        ("messages", pa.list_(_CHAT_MESSAGE)),
        ("images", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True)
class Encoded:
    """Some records in every format: lines of LLaVA's JSON, and rows of both Parquet files."""

    lines: list[bytes]
    rows: pa.Table
    messages: pa.Table

    @property
    def rounds(self) -> int:
        """Return the number of rounds in all records."""
        return sum(pc.list_value_length(self.rows["sources"]).to_pylist())


def for_datasets(schema: pa.Schema) -> pa.Schema:
    """Return a schema with metadata that tells `datasets` which columns are pictures."""
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    if kind == PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}


def encode_records(records: Sequence[Record]) -> Encoded:
    """Check records and encode them in every format; raises what `check_record` raises."""
    encode = msgspec.json.Encoder().encode
    for record in records:
        check_record(record)
    chats = [record.conversations for record in records]
    sources = [source for record in records for source in record.sources]
    ids, images = ([getattr(record, name) for record in records] for name in ("id", "image"))
    rows = [
        _texts(ids),
        _texts(images),
        _lists(_structs([message for chat in chats for message in chat]), map(len, chats)),
        _lists(_texts(sources), (len(record.sources) for record in records)),
        pa.array([record.licence for record in records], pa.int16()),
    ]
    return Encoded(
        [encode(record) for record in records],
        pa.Table.from_arrays(rows, schema=RECORD_SCHEMA),
        _messages(chats, images),
    )


def _texts(values: Sequence[str | None]) -> pa.Array:
    return pa.array(values, pa.string())


def _structs(messages: Sequence[Message]) -> pa.StructArray:
    speakers = _texts([message.speaker for message in messages])
    values = _texts([message.value for message in messages])
    return pa.StructArray.from_arrays([speakers, values], fields=list(_MESSAGE))


def _lists(values: pa.Array, lengths: Iterable[int]) -> pa.ListArray:
    """Return `values` cut into lists of the given lengths."""
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), values)


def _messages(chats: Sequence[Sequence[Message]], images: list[str]) -> pa.Table:
    """Return conversations as TRL's vision chats: roles, typed content, image paths beside them.

    The content of a message is its text; before the first one of a conversation stands the image.
    """
    roles: list[str] = []
    sizes: list[int] = []
    texts: list[str | None] = []
    for chat in chats:
        for position, message in enumerate(chat):
            roles.append("user" if message.speaker == "human" else "assistant")
            sizes.append(1 if position else 2)
            texts += [] if position else [None]
            texts.append(message.value.removeprefix(f"{IMAGE_MARKER}\n"))
    kinds = _texts(["image" if text is None else "text" for text in texts])
    content = pa.StructArray.from_arrays([kinds, _texts(texts)], fields=list(_CONTENT))
    messages = pa.StructArray.from_arrays(
        [_texts(roles), _lists(content, sizes)], fields=list(_CHAT_MESSAGE)
    )
    arrays = [_lists(messages, map(len, chats)), _lists(_texts(images), [1] * len(images))]
    return pa.Table.from_arrays(arrays, schema=MESSAGES_SCHEMA)
