"""The schema: turns, the records made of them, and what makes both valid.

A turn is one instruction and its answer, from one annotation of one source.  A record is one
training conversation in LLaVA's JSON format, which LLaVA, LLaMA-Factory and others read.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pyarrow as pa

from cocoift.core.files import DataError
from cocoift.core.tables import read_batches

IMAGE_MARKER = "<image>"
# Stands for the image of a record that has none, as ShareGPT's in LLaVA's mixture.
TEXT_ONLY = "(text only)"

FORMS = ("phrase", "number", "yes_no", "choice", "sentence", "paragraph", "explanation", "free")

TURN_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("dialog_id", pa.string(), nullable=False),
        pa.field("round", pa.int16(), nullable=False),
        pa.field("question", pa.string()),
        pa.field("instruction", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("form", pa.string(), nullable=False),
    ]
)

KEPT_SCHEMA = pa.schema(
    [
        *TURN_SCHEMA,
        pa.field("record", pa.int16(), nullable=False),
        pa.field("position", pa.int16(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("licence", pa.int16()),
    ]
)

DROPPED_SCHEMA = pa.schema([*TURN_SCHEMA, pa.field("reason", pa.string(), nullable=False)])

# An id has at most as many digits as an int64 holds.
_NUMBER = re.compile(r"[0-9]{1,18}")
_TWELVE_DIGITS = re.compile(r"(?<!\d)[0-9]{12}(?!\d)")
_COCO_NAME = re.compile(
    r"(?:COCO_(?:train|val|test)20(?:14|15|17)_)?([0-9]{12})(?:\.jpg)?|([0-9]{1,12})"
)


class Turn(NamedTuple):
    """One instruction and its answer; the fields are the columns of `TURN_SCHEMA`."""

    image_id: int
    source: str
    dialog_id: str
    round: int
    question: str | None
    instruction: str | None
    answer: str | None
    form: str


Count = Annotated[int, msgspec.Meta(ge=1)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A section of a preset: immutable; unknown fields are refused."""


class Message(msgspec.Struct, frozen=True, rename={"speaker": "from"}):
    """One side of a round: `from` is `human` or `gpt`."""

    speaker: str
    value: str


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One conversation about one image, or `TEXT_ONLY`; `sources` has one entry per round.

    `licence` is COCO's number of the image's licence, where it is known.
    """

    id: str
    image: str
    conversations: list[Message]
    sources: list[str]
    licence: int | None = None


def whole_number(text: str) -> int | None:
    """Return the number that a text of ASCII digits states; `None` for any other text.

    `str.isdigit` accepts what `int` refuses (`²`), and `int` accepts more than plain digits.
    """
    return int(text) if _NUMBER.fullmatch(text) else None


def coco_id(name: int | str) -> int:
    """Return the COCO image id behind any of its spellings.

    `9`, `"000000000009"`, `"train2017/000000000009.jpg"` and `"COCO_train2014_000000000009.jpg"`
    are the same image (ids did not change between the 2014 and 2017 releases).  Raises `DataError`
    for anything else, such as a Visual Genome file name.
    """
    if isinstance(name, int) and name > 0:
        return name
    match = _COCO_NAME.fullmatch(name.rsplit("/", 1)[-1]) if isinstance(name, str) else None
    if not match:
        raise DataError(f"{name!r} is not a COCO image name; expected e.g. 000000000009.jpg")
    return int(match[1] or match[2])


def coco_id_in(name: str) -> int | None:
    """Return the COCO image id in a name, path or address; `None` where there is none."""
    match = _COCO_NAME.fullmatch(name.rsplit("/", 1)[-1]) or _TWELVE_DIGITS.search(name)
    return int(match[match.lastindex or 0]) if match else None


def to_record(
    turns: Sequence[Turn], *, record_id: str, image: str, licence: int | None = None
) -> Record:
    """Return the record whose rounds are `turns`, the image marker before the first instruction."""
    conversations = []
    for position, turn in enumerate(turns):
        marker = f"{IMAGE_MARKER}\n" if position == 0 else ""
        conversations.append(Message("human", f"{marker}{turn.instruction}"))
        conversations.append(Message("gpt", turn.answer or ""))
    return Record(record_id, image, conversations, [turn.source for turn in turns], licence)


def check_record(record: Record) -> None:
    """Raise `DataError` naming the record and the fault unless `record` obeys the schema.

    Human and gpt alternate, no message is empty, the image marker occurs once, in the first
    message, or nowhere in a text-only record, `sources` has one entry per round, and the image path
    is relative and stays inside.
    """

    def fault(what: str) -> DataError:
        return DataError(f"record {record.id!r}: {what}")

    messages = record.conversations
    if not messages or len(messages) % 2:
        raise fault(f"has {len(messages)} messages; rounds need a human and a gpt message each")
    for position, message in enumerate(messages):
        expected = "gpt" if position % 2 else "human"
        if message.speaker != expected:
            raise fault(f"message {position} is from {message.speaker!r}, expected {expected!r}")
        if not message.value.replace(IMAGE_MARKER, "").strip():
            raise fault(f"message {position} is empty")
        markers = int(position == 0 and record.image != TEXT_ONLY)
        if message.value.count(IMAGE_MARKER) != markers:
            raise fault(f"message {position} must hold {markers} image markers")
    if len(record.sources) != len(messages) // 2:
        raise fault(f"{len(record.sources)} sources for {len(messages) // 2} rounds")
    if record.image.startswith("/") or ".." in record.image.split("/"):
        raise fault(f"image path {record.image!r} must be relative and stay inside the image root")


def read_records(path: Path) -> list[Record]:
    """Read a JSON file of records and check each of them.

    Raises `DataError` naming the file and the record when the file is damaged.
    """
    try:
        records = msgspec.json.decode(path.read_bytes(), type=list[Record])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; run notebook 02_merge again") from error
    for record in records:
        check_record(record)
    return records


def row_batch(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows, at least one and each in the schema's order of fields, as one Arrow batch."""
    columns = zip(zip(*rows, strict=True), schema, strict=True)
    arrays = [pa.array(values, field.type) for values, field in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def row_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Return rows, none or many, as one Arrow table."""
    return pa.Table.from_batches([row_batch(rows, schema)] if rows else [], schema)


class KeptTurn(msgspec.Struct, frozen=True):
    """A turn of the merged set: its record (of those of its image), position there and tokens.

    `licence` is COCO's number of the image's licence, where it is known.
    """

    turn: Turn
    record: int
    position: int
    tokens: int
    licence: int | None = None


def kept_by_image(path: Path, *, group: int | None = None) -> Iterator[list[KeptTurn]]:
    """Yield the kept turns of each image in order, from a file of `KEPT_SCHEMA`.

    `group` reads a single row group; no image is split over two.  Raises `DataError` for a file
    that is missing, damaged or has other columns.
    """
    waiting: list[KeptTurn] = []
    groups = None if group is None else [group]
    for batch in read_batches(path, KEPT_SCHEMA, row_groups=groups):
        columns = [column.to_pylist() for column in batch.columns]
        turns = map(Turn._make, zip(*columns[:8], strict=True))
        for kept in map(KeptTurn, turns, *columns[8:]):
            if waiting and waiting[0].turn.image_id != kept.turn.image_id:
                yield waiting
                waiting = []
            waiting.append(kept)
    if waiting:
        yield waiting
