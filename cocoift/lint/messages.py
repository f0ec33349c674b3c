"""One record as its file has it, in any of the formats: its turns can be read and rewritten.

A record is a dict of JSON or of a Parquet row.  Only what is asked for is touched: other fields,
other messages and the parts of typed content stay as they are.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cocoift.core.schema import IMAGE_MARKER
from cocoift.sources.dialogs import ANSWERERS, ASKERS

Field = Literal["conversations", "messages", "texts"]
FIELDS: tuple[Field, ...] = ("conversations", "messages", "texts")
MARKER = re.compile(r"<image ?>")
# Image markers before or after the text, with the white space that sets them apart.
_AROUND = re.compile(r"^((?:\s*<image ?>\s*)*)(.*?)((?:\s*<image ?>\s*)*)$", re.DOTALL)


@dataclass(frozen=True)
class Exchange:
    """A turn in a record: the question's and the answer's message (one and the same in `texts`)."""

    asked: dict[str, Any]
    answered: dict[str, Any]

    @property
    def question(self) -> str:
        """The question without image markers."""
        return MARKER.sub("", _read(self.asked, "user")).strip()

    @property
    def answer(self) -> str:
        """The answer."""
        return _read(self.answered, "assistant")

    def rewrite(self, question: str) -> None:
        """Put other words in the place of the question; image markers stay around them."""
        key = _text_key(self.asked, "user")
        held = self.asked[key]
        if isinstance(held, list):
            texts = [part for part in held if part.get("text")]
            texts[-1]["text"] = question if len(texts) == 1 else f"{texts[-1]['text']}{question}"
            return
        before, _, after = _AROUND.fullmatch(held).groups()  # type: ignore[union-attr]
        self.asked[key] = f"{before}{question}{after}"

    @property
    def is_plain(self) -> bool:
        """Tell whether the question is one text."""
        held = self.asked[_text_key(self.asked, "user")]
        return not isinstance(held, list) or sum(bool(part.get("text")) for part in held) == 1


def field_of(record: Any) -> Field | None:
    """Return the field that holds a record's turns."""
    if not isinstance(record, dict):
        return None
    return next((name for name in FIELDS if isinstance(record.get(name), list)), None)


def exchanges(record: dict[str, Any]) -> list[Exchange] | None:
    """Return the turns of a record; `None` where they cannot be told, and it is left alone."""
    name = field_of(record)
    if name is None:
        return None
    held = record[name]
    try:
        if name == "texts":
            return [Exchange(pair, pair) for pair in held if _is_text(pair, "user", "assistant")]
        spoken = held[1:] if held and _speaker(held[0]) not in ASKERS else held
        pairs = list(zip(spoken[::2], spoken[1::2], strict=True))
        if all(_speaker(a) in ASKERS and _speaker(b) in ANSWERERS for a, b in pairs):
            found = [Exchange(a, b) for a, b in pairs]
            for exchange in found:
                _ = exchange.question, exchange.answer  # raise here, not while rewriting
            return found
    except (AttributeError, KeyError, TypeError, ValueError):
        pass
    return None


def _is_text(pair: dict[str, Any], *names: str) -> bool:
    return all(isinstance(pair[name], str) for name in names)


def _speaker(message: dict[str, Any]) -> str:
    said = message.get("from") or message.get("role") or ""
    return said if said in ASKERS else said.strip().casefold()


def _text_key(message: dict[str, Any], side: str) -> str:
    if isinstance(message.get("value"), str):
        return "value"
    return "content" if "content" in message else side


def _read(message: dict[str, Any], side: str) -> str:
    held = message[_text_key(message, side)]
    if isinstance(held, str):
        return held
    return "\n".join(part["text"] for part in held if part.get("text"))


def image_of(record: dict[str, Any]) -> str | None:
    """Return the name of a record's only image; `None` without one, with several, or unnamed."""
    held = [v for name in ("image", "images") for v in _listed(record.get(name))]
    if len(held) != 1:
        return None
    name = held[0].get("path") if isinstance(held[0], dict) else held[0]
    return name if isinstance(name, str) and name else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def joined(records: Sequence[dict[str, Any]], order: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return the first record with the turns of all of them in an order: (record, turn).

    The image marker of the records goes before the first question; a field `sources` with an entry
    per turn follows its turns.
    """
    first = records[order[0][0]] if order else records[0]
    found = dict(records[0])
    name = field_of(first)
    turns = [exchanges(record) or [] for record in records]
    chosen = [turns[record][turn] for record, turn in order]
    marker = _take_markers(chosen)
    if marker is not None and chosen:
        _put_marker(chosen[0].asked, marker)
    if name == "texts":
        found[name] = [exchange.asked for exchange in chosen]
    elif name:
        found[name] = [message for e in chosen for message in (e.asked, e.answered)]
    sources = [record.get("sources") for record in records]
    if all(isinstance(s, list) and len(s) == len(t) for s, t in zip(sources, turns, strict=True)):
        found["sources"] = [sources[record][turn] for record, turn in order]  # type: ignore[index]
    return found


def _take_markers(chosen: Sequence[Exchange]) -> Any:
    """Take every image marker out of the questions and return one: a text, a part, or `None`."""
    marker: Any = None
    for exchange in chosen:
        key = _text_key(exchange.asked, "user")
        held = exchange.asked[key]
        if isinstance(held, list):
            shown = [part for part in held if part.get("type") in ("image", "image_url")]
            if shown:
                marker = shown[0]
                exchange.asked[key] = [part for part in held if part not in shown]
        elif MARKER.search(held):
            marker = IMAGE_MARKER
            exchange.asked[key] = MARKER.sub("", held).strip()
    return marker


def _put_marker(message: dict[str, Any], marker: Any) -> None:
    key = _text_key(message, "user")
    held = message[key]
    if isinstance(held, list):
        part = {"type": "image"} if marker == IMAGE_MARKER else marker
        message[key] = [part, *held]
    else:
        message[key] = f"{IMAGE_MARKER}\n{held}"
