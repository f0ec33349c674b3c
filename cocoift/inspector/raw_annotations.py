"""The upstream record behind a turn, looked up in the raw files on request."""

import json
import mmap
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from cocoift.core.schema import coco_id_in
from cocoift.sources.catalogue import Entry, part_file

# The bytes around a match that are searched for its record; a larger record is shown in part.
_WINDOW = 20_000
_TRIES = 50
# A longer text, in characters, seldom occurs in two records.
_TELLING = 20
# Fields that say which image a record is about, in the upstream formats.
_IMAGE_KEYS = ("image_id", "img_id", "imageId", "coco_id", "image", "image_path", "file_name")
# What a space of a tidied text may be in a file.
_BLANKS = rb"(?:\s|\\[nrt]|\xc2\xa0|\\u00a0)+"


def raw_annotations(entry: Entry, raw: Path, turn: Mapping[str, Any]) -> dict[str, str]:
    """Return the upstream records of a kept turn as indented JSON, by file name below `raw`.

    A record holds the turn's id as a value or key or, for sources without ids, its answer or
    question.  Ids of questions and images overlap, and questions recur: a record about another COCO
    image does not count, nor does a record in which only the image has that number.  Files that are
    missing, are not JSON or hold no such record are left out.
    """
    found = {}
    numbered = turn["image_id"] if entry.images == "coco" else None
    for name in dict.fromkeys(name for part in entry.parts for name in part.values()):
        path = part_file(name, raw)
        if path.suffix not in (".json", ".jsonl") or not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            record = _by_id(view, turn["dialog_id"], numbered)
            if record is None:
                record = _by_text(view, turn["question"] or "", turn["answer"] or "", numbered)
        if record is not None:
            found[name] = json.dumps(record, indent=1, ensure_ascii=False)[:_WINDOW]
    return found


def _by_id(view: mmap.mmap, name: str, image_id: int | None) -> Any:
    """Look for a turn's id; `image_id` is given if the file uses COCO's image ids."""
    of_image = name == str(image_id)
    before = rb'"(?:%s)"\s*:\s*' % "|".join(_IMAGE_KEYS).encode() if of_image else rb"(?<![\w.-])"
    pattern = re.compile(before + re.escape(name.encode()) + rb"(?![\w.-])")
    for match in islice(pattern.finditer(view), _TRIES):
        named = _named(view, match.end())
        if named is not None:
            return {name: named}
        # A number identifies the innermost object around it.
        *_, record = [{}, *_around(view, match.start())]
        if (of_image or _holds(record, name)) and not _is_elsewhere(record, image_id):
            return record or None
    return None


def _by_text(view: mmap.mmap, question: str, answer: str, image_id: int | None) -> Any:
    """Look for the record with a turn's answer and question, or with either and the turn's image.

    Readers combine several fields into some answers.  In files with other image ids, a long answer
    identifies its record.
    """
    nearest = None
    for text, other in ((answer, question), (question, answer)):
        long = len(text) > _TELLING
        if not (long or (text == question and text and image_id is not None)):
            continue
        for record in islice(_with_text(view, text, image_id), _TRIES):
            if re.search(_as_written(other), json.dumps(record).encode()):
                return record
            alone = text == answer if image_id is None else _image_of(record) == image_id
            nearest = nearest or (record if alone else None)
    return nearest


def _with_text(view: mmap.mmap, text: str, image_id: int | None) -> Iterator[dict[str, Any]]:
    """Yield the records with a text that may be about an image; whole if they name the image."""
    number = re.compile(rb"" if image_id is None else rb"(?<!\d)0*%d(?!\d)" % image_id)
    for match in re.finditer(_as_written(text), view):
        place = match.start()
        if not number.search(view, max(0, place - _WINDOW), place + _WINDOW):
            continue
        enclosing = list(_around(view, place))
        about = [record for record in enclosing if _image_of(record) is not None]
        for record in about[-1:] or enclosing[:1]:
            if not _is_elsewhere(record, image_id):
                yield record


def _as_written(text: str) -> bytes:
    """Return a pattern for a tidied text as JSON spells it, with or without escapes."""
    words = []
    for word in text.split()[:40]:
        spelled = {json.dumps(word, ensure_ascii=only)[1:-1].encode() for only in (False, True)}
        words.append(b"(?:%s)" % b"|".join(map(re.escape, sorted(spelled))))
    return _BLANKS.join(words)


def _image_of(record: dict[str, Any]) -> int | None:
    """Return the id of the image that a record names, by number or by file name."""
    for value in (record[key] for key in _IMAGE_KEYS if key in record):
        number = coco_id_in(value) if isinstance(value, str) else value
        if isinstance(number, int):
            return number
    return None


def _is_elsewhere(record: dict[str, Any], image_id: int | None) -> bool:
    """Tell whether a record is about another image, or is the entry of an image itself."""
    about = _image_of(record)
    entry = "file_name" in record and "question" not in record
    return entry or (None not in (about, image_id) and about != image_id)


def _named(view: mmap.mmap, place: int) -> Any:
    """Return the value of a key, if what ends at `place` is a key."""
    after = view[place : place + _WINDOW].decode("utf-8", "replace")
    key = re.match(r'"\s*:\s*', after)
    try:
        return json.JSONDecoder().raw_decode(after, key.end())[0] if key else None
    except ValueError:
        return None


def _around(view: mmap.mmap, place: int) -> Iterator[Any]:
    """Yield the JSON objects that enclose a byte, the largest first."""
    start = max(0, place - _WINDOW)
    before = view[start:place].decode("utf-8", "replace")
    window = before + view[place : place + _WINDOW].decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    for brace in (n for n, c in enumerate(before) if c == "{"):
        try:
            record, end = decoder.raw_decode(window, brace)
        except ValueError:
            continue
        if end > len(before):
            yield record


def _holds(record: Any, name: str) -> bool:
    """Tell whether an id occurs in a record as a key, or as a value other than an image's."""
    if isinstance(record, dict):
        values = (value for key, value in record.items() if key not in _IMAGE_KEYS)
        return name in record or any(_holds(value, name) for value in values)
    if isinstance(record, list):
        return any(_holds(value, name) for value in record)
    return not isinstance(record, bool) and str(record) == name
