"""What the checks look at: conversations, whatever file they come from."""

from typing import Literal

import msgspec

# What is wrong with the structure of a conversation that could be read all the same.
Fault = Literal["roles", "marker_missing", "marker_extra"]


class Round(msgspec.Struct, frozen=True):
    """A question, its image markers taken out, and its answer."""

    question: str
    answer: str


class Conversation(msgspec.Struct, frozen=True):
    """One record of instruction data; `source` is empty where the file does not say it.

    `place` names the record for messages, as `file:line` or `file[index]`; `images` are names as in
    the file.  `sources` has one entry per round where the file names them so, as our own mixtures
    do.  A conversation with the fault `roles` has no rounds.
    """

    place: str
    id: str
    source: str
    images: tuple[str, ...]
    rounds: tuple[Round, ...]
    sources: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()


class Unread(msgspec.Struct, frozen=True):
    """A record that could not be read, and the reason."""

    place: str
    id: str
    reason: str
