"""Reading anybody's instruction data, piece by piece: LLaVA, ShareGPT, messages, FineVision.

A file is cut into pieces of whole records, which several processes read side by side.  A record
that cannot be read is yielded as `Unread` with its reason; a file that cannot be read is an error.
"""

import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow.parquet as pq

from cocoift.core.files import DataError
from cocoift.core.schema import TEXT_ONLY
from cocoift.core.tables import reading
from cocoift.lint.conversations import Conversation, Fault, Round, Unread
from cocoift.lint.messages import FIELDS, MARKER
from cocoift.sources.base import is_blank, paused_collector
from cocoift.sources.dialogs import ANSWERERS, ASKERS

# Bytes of a piece: some thousand records, a fraction of a second's work.
PIECE = 4 << 20
SUFFIXES = (".json", ".jsonl", ".parquet")
FIX = "lint reads lists of conversations as JSON, JSON Lines or Parquet"
# An image in the file itself, which has no name.
EMBEDDED = "(embedded)"
_FIRST_BYTES = re.compile(rb"^(?:\xef\xbb\xbf)?\s*([\[{])")
_BETWEEN = re.compile(rb"[\s,\[]*")
# `vqav2_000123`, `svit-17`: letters that name a source, then a number.
_ID_PREFIX = re.compile(r"([A-Za-z]{2}[A-Za-z0-9]*(?:[_-][A-Za-z][A-Za-z0-9]*)*)[_-][0-9]+")


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None


class _Message(msgspec.Struct, rename={"speaker": "from"}, gc=False):
    """A message as LLaVA and ShareGPT (`from`, `value`) or chat templates (`role`) have it."""

    speaker: str | None = None
    value: str | None = None
    role: str | None = None
    content: str | list[_Part] | None = None


class _Pair(msgspec.Struct, gc=False):
    user: str | None = None
    assistant: str | None = None


class _Row(msgspec.Struct):
    """A record of any of the formats; the field that is there says which."""

    conversations: list[_Message] | None = None
    messages: list[_Message] | None = None
    texts: list[_Pair] | None = None
    id: Any = None
    image: Any = None
    images: Any = None
    source: Any = None
    sources: Any = None


class Piece(msgspec.Struct, frozen=True):
    """Some records of a file: bytes `start` to `end`, or the row group `start` of a Parquet file.

    `first` is the number of the first record, or line, in the file; `size` is in bytes.
    """

    path: Path
    kind: Literal["array", "lines", "parquet"]
    start: int
    end: int
    first: int
    size: int

    def place(self, number: int) -> str:
        """Return how messages name a record by its number in the piece."""
        lines = self.kind == "lines"
        here = self.first + number
        return f"{self.path.name}:{here + 1}" if lines else f"{self.path.name}[{here}]"


def data_files(paths: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """Return the files to read, and sentences about those that are passed over.

    A folder gives the files below it that hold conversations.  A mixture that stands there in
    several formats (`merged.json`, `merged.parquet`, `merged_messages.parquet`) is read once.
    Raises `DataError` for a path that is absent, and for a folder without any conversations.
    """
    found: list[Path] = []
    notes: list[str] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder; {FIX}")
        if not path.is_dir():
            found.append(path)
            continue
        here = [p for p in sorted(path.rglob("*")) if p.suffix in SUFFIXES and p.is_file()]
        here = [p for p in here if "/." not in f"/{p.relative_to(path).as_posix()}"]
        taken: set[Path] = set()
        for file in sorted(here, key=lambda p: SUFFIXES.index(p.suffix)):
            stem = file.with_name(file.stem.removesuffix("_messages"))
            if stem in taken:
                notes.append(f"{file.name} is passed over: {stem.name} in another format")
            elif not _has_conversations(file):
                notes.append(f"{file.name} is passed over: it holds no conversations")
            else:
                taken.add(stem)
                found.append(file)
        if not taken:
            raise DataError(f"{path}: no conversations in this folder; {FIX}")
    return found, notes


def _has_conversations(path: Path) -> bool:
    """Tell from a file's head, or its schema, whether records in it may be conversations."""
    if path.suffix == ".parquet":
        with reading(path, fix=FIX):
            return any(name in FIELDS for name in pq.read_schema(path).names)
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return any(f'"{name}"'.encode() in head for name in FIELDS)


def pieces(path: Path) -> list[Piece]:
    """Cut a file into pieces of whole records.

    Raises `DataError` for a file that is empty, damaged, or in another format.
    """
    try:
        if is_blank(path):
            raise DataError(f"{path}: the file is empty; {FIX}")
        if path.suffix == ".parquet":
            return _row_groups(path)
        with path.open("rb") as file:
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            opening = _FIRST_BYTES.match(content)
            if opening and opening[1] == b"[":
                return _array_pieces(path, content, opening.start(1))
            if opening and (path.suffix == ".jsonl" or _is_lines(content)):
                return _line_pieces(path, content)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}; {FIX}") from error
    raise DataError(f"{path}: neither a list of records nor a record per line; {FIX}")


def _is_lines(content: mmap.mmap) -> bool:
    """Tell whether the first line is a whole JSON object, as in JSON Lines."""
    try:
        msgspec.json.decode(
            content[: content.find(b"\n") % (len(content) + 1)].lstrip(b"\xef\xbb\xbf")
        )
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def _array_pieces(path: Path, content: mmap.mmap, begins: int) -> list[Piece]:
    try:
        with paused_collector():
            view = memoryview(content)[begins:]
            sizes = [
                len(memoryview(raw)) for raw in msgspec.json.decode(view, type=list[msgspec.Raw])
            ]
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; repair the file or download it again") from error
    cut: list[Piece] = []
    here = start = begins + 1
    first = 0
    for number, size in enumerate(sizes):
        begin = _BETWEEN.match(content, here).end()  # type: ignore[union-attr]
        here = begin + size
        if number == first:
            start = begin
        if here - start >= PIECE or number == len(sizes) - 1:
            cut.append(Piece(path, "array", start, here, first, here - start))
            first = number + 1
    return cut


def _line_pieces(path: Path, content: mmap.mmap) -> list[Piece]:
    cut: list[Piece] = []
    start = line = 0
    while start < len(content):
        newline = content.find(b"\n", min(start + PIECE, len(content)))
        end = len(content) if newline < 0 else newline + 1
        cut.append(Piece(path, "lines", start, end, line, end - start))
        line += content[start:end].count(b"\n")
        start = end
    return cut


def _row_groups(path: Path) -> list[Piece]:
    with reading(path, fix=FIX):
        file = pq.ParquetFile(path)
        if not any(name in FIELDS for name in file.schema_arrow.names):
            columns = ", ".join(file.schema_arrow.names[:8])
            raise DataError(f"{path}: none of the columns {', '.join(FIELDS)} but {columns}; {FIX}")
        wanted = set(_columns(file))
        cut, first = [], 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            chunks = (group.column(place) for place in range(group.num_columns))
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in wanted)
            cut.append(Piece(path, "parquet", number, number + 1, first, size))
            first += group.num_rows
    return cut


def _columns(file: pq.ParquetFile) -> list[str]:
    """Return the columns that are looked at, by their path: the bytes of images are not."""
    paths = (file.schema.column(place).path for place in range(len(file.schema)))
    fields = set(_Row.__struct_fields__)
    return [p for p in paths if p.split(".")[0] in fields and not p.endswith(".bytes")]


def raw_records(piece: Piece) -> list[bytes | memoryview]:
    """Return the records of a piece of a JSON file as they stand there; a blank line is empty."""
    with piece.path.open("rb") as file:
        file.seek(piece.start)
        content = file.read(piece.end - piece.start)
    if piece.kind == "lines":
        if piece.start == 0:
            content = content.removeprefix(b"\xef\xbb\xbf")
        return [line.strip() for line in content.removesuffix(b"\n").split(b"\n")]
    return [
        memoryview(raw) for raw in msgspec.json.decode(b"[%b]" % content, type=list[msgspec.Raw])
    ]


def conversations(piece: Piece) -> Iterator[Conversation | Unread]:
    """Yield the records of a piece, read or not.

    Raises `DataError` for a damaged Parquet file.
    """
    with paused_collector():
        if piece.kind == "parquet":
            yield from _from_parquet(piece)
            return
        decoder = msgspec.json.Decoder(_Row)
        for number, record in enumerate(raw_records(piece)):
            if not record:
                continue
            try:
                row = decoder.decode(record)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                yield Unread(piece.place(number), _id_of(record), _reason(error))
                continue
            yield _conversation(row, piece, number)


def _from_parquet(piece: Piece) -> Iterator[Conversation | Unread]:
    with reading(piece.path, fix=FIX):
        file = pq.ParquetFile(piece.path)
        number = 0
        batches = file.iter_batches(2_000, row_groups=[piece.start], columns=_columns(file))
        for batch in batches:
            batch.validate(full=True)
            for found in batch.to_pylist():
                try:
                    row = msgspec.convert(found, _Row)
                except msgspec.MsgspecError as error:
                    yield Unread(piece.place(number), str(found.get("id") or ""), _reason(error))
                else:
                    yield _conversation(row, piece, number)
                number += 1


def _id_of(record: bytes | memoryview) -> str:
    """Return the id of a record that cannot be read as a whole, if at least that can."""
    try:
        found = msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return _text(found.get("id"))[:80] if isinstance(found, dict) else ""


def _reason(error: Exception) -> str:
    """Return an error's words without the numbers of places, so that like ones are counted."""
    return re.sub(r"\[\d+\]", "[...]", re.sub(r"\(byte \d+\)|\d{2,}", "", str(error))).strip()


def _conversation(row: _Row, piece: Piece, number: int) -> Conversation | Unread:
    images = _names(row.image) + _names(row.images)
    faults: list[Fault] = []
    markers, marked = 0, False
    if row.texts is not None:
        found: list[Round] | None = [Round(p.user or "", p.assistant or "") for p in row.texts]
    elif (messages := row.messages if row.conversations is None else row.conversations) is not None:
        found, markers, marked = _rounds(messages)
    else:
        reason = "has neither `conversations` nor `messages` nor `texts`"
        return Unread(piece.place(number), _text(row.id), reason)
    if not found:
        faults.append("roles")
        found = []
    expected = len(images) or markers
    if marked and markers < expected:
        faults.append("marker_missing")
    elif markers > (len(images) if marked else expected):
        faults.append("marker_extra")
    name = _text(row.id)
    sources = tuple(map(_text, row.sources)) if isinstance(row.sources, list) else ()
    if len(sources) != len(found):
        sources = ()
    source = _text(row.source) or (sources[0] if len(set(sources)) == 1 else "")
    if not source and not sources:
        source = _guessed_source(name, images, has_image=bool(images or markers))
    return Conversation(
        piece.place(number), name, source, images, tuple(found), sources, tuple(faults)
    )


def _rounds(messages: list[_Message]) -> tuple[list[Round] | None, int, bool]:
    """Return the rounds, or `None` unless roles alternate, the image markers, and if they matter.

    A first message that is not the asker's, such as a system prompt, is skipped, as by LLaVA's
    trainer.  Markers matter in messages of plain `value`: typed content shows its images in parts,
    and trainers that read plain `content` put the markers in themselves.
    """
    rounds: list[Round] = []
    question: str | None = None
    markers = 0
    marked = False
    for place, message in enumerate(messages):
        speaker, text = message.speaker, message.value
        if text is None:
            text, shown = _content(message.content)
            markers += shown
        else:
            marked = True
        if speaker is None:
            speaker = message.role or ""
        if "<image" in text:
            markers += len(MARKER.findall(text))
            text = MARKER.sub("", text).strip()
        if speaker not in ASKERS and speaker not in ANSWERERS:
            speaker = speaker.strip().casefold()
        if speaker in ASKERS and question is None:
            question = text
        elif speaker in ANSWERERS and question is not None:
            rounds.append(Round(question, text))
            question = None
        elif place:
            return None, markers, False
    return (None, markers, False) if question is not None else (rounds, markers, marked)


def _content(content: str | list[_Part] | None) -> tuple[str, int]:
    """Return the text of a message's content and the images in it."""
    if content is None or isinstance(content, str):
        return content or "", 0
    texts = [part.text for part in content if part.text]
    return "\n".join(texts), sum(part.type in ("image", "image_url") for part in content)


def _names(value: Any) -> tuple[str, ...]:
    """Return the names of images: a path, a list of them, or Parquet's structs with a path."""
    if isinstance(value, str):
        return (value,) if value else ()
    if isinstance(value, list | tuple):
        return tuple(name for item in value for name in _names(item))
    if isinstance(value, dict):
        return (_text(value.get("path") or value.get("url")) or EMBEDDED,)
    return ()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _guessed_source(name: str, images: tuple[str, ...], *, has_image: bool) -> str:
    """Return what a record's id, or the folder of its image, says about its source."""
    if not has_image:
        return TEXT_ONLY
    if prefix := _ID_PREFIX.fullmatch(name):
        return prefix[1]
    folder, slash, _ = images[0].lstrip("./").partition("/") if images else ("", "", "")
    return folder if slash and "://" not in images[0] else ""
