"""What every reader yields, and how it decodes a file so that errors name the record."""

import gc
import hashlib
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from cocoift.core.answers import answer_key
from cocoift.core.files import DataError

T = TypeVar("T")
Key = TypeVar("Key", int, str)


class QA(NamedTuple):
    """A round as upstream wrote it; form and template override those of the catalogue entry."""

    question: str | None
    answer: str | None
    form: str | None = None
    template: str | None = None


class Dialog(NamedTuple):
    """Rounds that upstream keeps together in order; a plain question is a dialog of one round."""

    image_id: int
    dialog_id: str
    rounds: tuple[QA, ...]


class Drop(NamedTuple):
    """Turns that cannot enter the turn table, and the reason, which the drop table shows."""

    reason: str
    turns: int = 1


def decode(path: Path, shape: type[T]) -> T:
    """Decode the JSON file `path` as `shape`.

    The file is memory-mapped, so that its pages can leave memory again.  Raises `DataError` with
    the byte of a syntax error, or the path of a record without the declared shape, such as
    ``Object missing required field `id` - at `$.images[2]` ``.
    """
    try:
        with path.open("rb") as file, paused_collector():
            empty = not path.stat().st_size  # an empty file cannot be mapped
            content = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return msgspec.json.decode(content, type=shape)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error


def decode_array(path: Path, shape: type[T], *, key: str | None = None) -> Iterator[T]:
    """Decode an array record by record, so that only one decoded record is in memory at a time.

    The array is the whole JSON file, or the field `key` of its object.  Raises what `decode`
    raises.
    """
    if key is None:
        records, place = decode(path, list[msgspec.Raw]), "$"
    else:
        holder = msgspec.defstruct("File", [(key, list[msgspec.Raw])])
        records, place = getattr(decode(path, holder), key), f"$.{key}"
    return (row for _, row in decode_records(path, shape, enumerate(records), place=place))


def decode_object(path: Path, shape: type[T]) -> Iterator[tuple[str, T]]:
    """Decode a JSON file that holds one object value by value, as `decode_array` does an array."""
    return decode_records(path, shape, decode(path, dict[str, msgspec.Raw]).items(), place="$")


def decode_records(
    path: Path, shape: type[T], records: Iterable[tuple[Key, msgspec.Raw]], *, place: str
) -> Iterator[tuple[Key, T]]:
    """Decode the records at `place[key]` of a file, such as `$.data[3]`.

    Raises `DataError` naming that place for a damaged record.
    """
    decoder = msgspec.json.Decoder(shape)
    for key, record in records:
        try:
            yield key, decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            message, here = str(error), f"`{place}[{key!r}]"
            message = message.replace("`$", here) if "`$" in message else f"{message} - at {here}`"
            raise damaged(path, message) from error


def decode_lines(path: Path, shape: type[T]) -> Iterator[T]:
    """Decode a JSON Lines file line by line.

    Raises `DataError` naming a damaged line, and for a file without lines.
    """
    decoder = msgspec.json.Decoder(shape)
    try:
        if is_blank(path):
            raise damaged(path, "")
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield decoder.decode(line)
                    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                        raise damaged(path, error, line=number) from error
    except OSError as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception | str, *, line: int | None = None) -> DataError:
    """Return the error that a damaged annotation file leads to."""
    if is_blank(path):
        return DataError(f"{path}: the file is empty; download it again")
    place = f"{path}, line {line}" if line else str(path)
    return DataError(f"{place}: {error}; fix that record or download the file again")


def is_blank(path: Path) -> bool:
    """Tell whether a file exists and holds nothing but white space."""
    return path.is_file() and path.stat().st_size < 1024 and not path.read_bytes().strip()


@contextmanager
def paused_collector() -> Iterator[None]:
    """Switch cyclic garbage collection off while millions of small objects are built."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def majority(answers: Sequence[str], *, preferred: str | None = None) -> str | None:
    """Return the most common answer, in its most common spelling.

    Answers that agree after VQA's normalisation (`core.answers`) vote together.  `preferred`,
    VQA's `multiple_choice_answer`, settles ties between answers (about 4 % of VQAv2) and between
    spellings; any other tie goes to the answer given first.
    """
    spellings = Counter(answers)
    if not spellings:
        return None
    (usual, count), *_ = spellings.most_common(1)
    if 2 * count > len(answers):  # it wins, whatever agrees with it
        return usual
    keys = {text: answer_key(text) for text in spellings}
    votes: Counter[str] = Counter()
    for text, count in spellings.items():
        votes[keys[text]] += count
    chosen = None if preferred is None else answer_key(preferred)

    def rank(text: str) -> tuple[int, bool, int, bool]:
        return votes[keys[text]], keys[text] == chosen, spellings[text], text == preferred

    return max(spellings, key=rank)  # the first of equals


def content_id(*parts: object) -> str:
    """Return a dialog id for an upstream record without one: a hash of its content.

    Unlike its position in the file, it does not change when the file is shuffled or extended.
    """
    text = "\x1f".join(map(str, parts))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def lettered(question: str | None, choices: Sequence[str]) -> str | None:
    """Return a question followed by its options, `A. red B. blue`; `None` without a question."""
    options = " ".join(f"{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))
    return f"{question} {options}" if question and question.strip() else None


def with_question_mark(question: str) -> str:
    """Return a question trimmed, with the mark that upstream left out; an empty one stays empty."""
    text = question.strip()
    return text if text.endswith("?") or not text else f"{text}?"
