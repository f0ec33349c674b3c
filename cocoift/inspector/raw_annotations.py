"""The upstream record behind a turn, looked up in the raw files when someone asks for it."""

import json
import mmap
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from cocoift.core.files import inside
from cocoift.sources.catalogue import Entry

# How many bytes around a match are searched for its record; a larger record is shown in part.
_WINDOW = 20_000
_TRIES = 50
# Fields that number images, in the upstream formats.
_IMAGE_KEYS = ("image_id", "img_id", "imageId", "coco_id", "image")


def raw_annotations(
    entry: Entry, raw: Path, *, image_id: int, dialog_id: str, answer: str
) -> dict[str, str]:
    """Return the upstream records of a turn as indented JSON, by file name below `raw`.

    A record holds the turn's id as a value or key, or, for sources that give no ids, its answer.
    Numbers of questions and of images overlap: a record about a COCO image other than the turn's
    is not the one, nor one in which only the image has that number.  Files that are no JSON, or
    hold no such record, are left out; one that is missing too.
    """
    found = {}
    numbered = image_id if entry.images == "coco" else None
    for name in dict.fromkeys(name for part in entry.parts for name in part.values()):
        path = inside(raw, name)
        if path.suffix not in (".json", ".jsonl") or not path.is_file() or not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            record = _by_id(view, dialog_id, numbered) or _by_text(view, answer)
        if record is not None:
            found[name] = json.dumps(record, indent=1, ensure_ascii=False)[:_WINDOW]
    return found


def _by_id(view: mmap.mmap, name: str, image_id: int | None) -> Any:
    """Look for a turn's id; `image_id` is given where the file numbers images as COCO does."""
    pattern = re.compile(rb"(?<![\w.-])" + re.escape(name.encode()) + rb"(?![\w.-])")
    for match in islice(pattern.finditer(view), _TRIES):
        named = _named(view, match.end())
        if named is not None:
            return {name: named}
        # The innermost object around a number is what it numbers.
        *_, record = [{}, *_around(view, match.start())]
        of_image = name == str(image_id)
        elsewhere = not of_image and _is_elsewhere(record, image_id)
        if _holds(record, name, of_image=of_image) and not elsewhere:
            return record
    return None


def _is_elsewhere(record: dict[str, Any], image_id: int | None) -> bool:
    """Tell whether a record is about another image, or is an image's own entry."""
    about = next((record[key] for key in _IMAGE_KEYS if isinstance(record.get(key), int)), None)
    entry = "file_name" in record and "question" not in record
    return entry or (None not in (about, image_id) and about != image_id)


def _named(view: mmap.mmap, place: int) -> Any:
    """Return the object that a key names, if what ends at `place` is the key of one."""
    after = view[place : place + _WINDOW].decode("utf-8", "replace")
    key = re.match(r'"\s*:\s*(?=\{)', after)
    try:
        return json.JSONDecoder().raw_decode(after, key.end())[0] if key else None
    except ValueError:
        return None


def _by_text(view: mmap.mmap, text: str) -> Any:
    """Look for an answer as JSON spells it, with or without escapes for what is not ASCII."""
    for ascii_only in (False, True) if len(text) > 20 else ():
        place = view.find(json.dumps(text[:200], ensure_ascii=ascii_only)[1:-1].encode())
        if place >= 0:
            return next(_around(view, place), None)
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


def _holds(record: Any, name: str, *, of_image: bool) -> bool:
    """Tell whether an id stands in a record as a key or as a value of its own.

    Where it is no image's (`of_image`), a field that numbers images does not count.
    """
    if isinstance(record, dict):
        fields = {key: value for key, value in record.items() if of_image or key not in _IMAGE_KEYS}
        return name in record or any(
            _holds(value, name, of_image=of_image) for value in fields.values()
        )
    if isinstance(record, list):
        return any(_holds(value, name, of_image=of_image) for value in record)
    return not isinstance(record, bool) and str(record) == name
