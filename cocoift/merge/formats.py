"""Records in the formats trainers read: LLaVA's JSON, Parquet, and TRL's messages."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cocoift.core.schema import IMAGE_MARKER, Record, check_record

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
# How `datasets` stores an image
# (huggingface.co/docs/datasets/en/about_dataset_features, "Image feature").
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
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
    """Records in every format: lines of LLaVA's JSON, and rows of both Parquet files."""

    lines: list[bytes]
    rows: pa.Table
    messages: pa.Table

    @property
    def rounds(self) -> int:
        """Return the number of rounds in all records."""
        return sum(pc.list_value_length(self.rows["sources"]).to_pylist())


def for_datasets(schema: pa.Schema) -> pa.Schema:
    """Return a schema with metadata that tells `datasets` which columns are images."""
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    if kind == IMAGE:
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
    rows = pa.Table.from_pylist(msgspec.to_builtins(records), RECORD_SCHEMA)
    return Encoded([encode(record) for record in records], rows, _messages(rows))


def _messages(rows: pa.Table) -> pa.Table:
    """Return conversations as TRL's vision chats: roles, typed content, image paths beside them.

    The content of a message is its text, which the image precedes in the first message of a
    conversation.
    """
    chats, images = (rows[name].combine_chunks() for name in ("conversations", "image"))
    spoken, lengths = chats.flatten(), chats.value_lengths().to_numpy()
    first = np.zeros(len(spoken), dtype=bool)
    first[np.cumsum(lengths) - lengths] = True
    sizes = 1 + first
    is_image = np.zeros(sizes.sum(), dtype=bool)
    is_image[(np.cumsum(sizes) - sizes)[first]] = True
    places = pa.array(np.repeat(np.arange(len(spoken)), sizes), pa.int64(), mask=is_image)
    texts = pc.replace_substring_regex(spoken.field("value"), rf"^{IMAGE_MARKER}\n", "")
    kinds = pc.if_else(pa.array(is_image), "image", "text")
    content = pa.StructArray.from_arrays([kinds, texts.take(places)], fields=list(_CONTENT))
    roles = pc.if_else(pc.equal(spoken.field("from"), "human"), "user", "assistant")
    messages = pa.StructArray.from_arrays(
        [roles, _lists(content, sizes)], fields=list(_CHAT_MESSAGE)
    )
    arrays = [_lists(messages, lengths), _lists(images, np.ones(len(images), dtype=np.int64))]
    return pa.Table.from_arrays(arrays, schema=MESSAGES_SCHEMA)


def _lists(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    """Return `values` cut into lists of the given lengths."""
    return pa.ListArray.from_arrays(np.cumsum([0, *lengths], dtype=np.int32), values)
