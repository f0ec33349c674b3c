"""Protocols: how a question is put to a model, alone or after opening rounds."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message

# The two protocols of the headline: a question alone, and after one short round.
ALONE, AFTER = "single_round", "multi_round"


@dataclass(frozen=True)
class Prompt:
    """Pictures and the conversation so far, ending in a human message.

    `key` names the pictures: prompts of one key share them.
    """

    key: str
    pictures: tuple[Image.Image, ...]
    messages: Sequence[Message]


@dataclass(frozen=True)
class Failure:
    """An answer that did not come, and why."""

    reason: str


# Puts conversations to a model and yields (number, reply) in any order.
Answerer = Callable[[Sequence[Prompt]], Iterable[tuple[int, str | Failure]]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What comes before a question, and which picture is shown.

    `opening` are the questions of the rounds before.  Their answers are the model's own, or, with
    `replies`, those of a reference: one per opening round, a text or a text by image name.
    `picture` shows the question's own picture, that of another question, or a blank one: what a
    model says of those it says without looking.
    """

    name: str
    opening: tuple[str, ...] = ()
    replies: tuple[str | Mapping[str, str], ...] = ()
    picture: Literal["own", "other", "blank"] = "own"

    @property
    def rounds(self) -> int:
        """How many rounds a dialog has."""
        return len(self.opening) + 1


def read_protocols(settings: Mapping[str, Mapping[str, Any]], root: Path) -> dict[str, Protocol]:
    """Return the protocols a preset names, `{name: {opening: [], replies: [], picture: own}}`.

    A reply that ends in `.json` is a file below `root`, `{image name: reply}`.  Raises `DataError`
    for an unknown key, an unknown picture, or replies that do not match the opening rounds.
    """
    protocols = {}
    for name, values in settings.items():
        strange = set(values) - {"opening", "replies", "picture"}
        opening, replies = tuple(values.get("opening", ())), tuple(values.get("replies", ()))
        picture = values.get("picture", "own")
        if strange or picture not in ("own", "other", "blank"):
            raise DataError(f"protocol {name}: {sorted(strange) or picture!r} is not known")
        if replies and len(replies) != len(opening):
            raise DataError(
                f"protocol {name}: {len(replies)} replies for {len(opening)} opening rounds"
            )
        told = tuple(_read(root / r) if r.endswith(".json") else r for r in replies)
        protocols[name] = Protocol(name=name, opening=opening, replies=told, picture=picture)
    return protocols


def _read(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; it should hold a reply by image name") from error
