"""What the checks look at: conversations, whatever file they come from."""

import msgspec


class Round(msgspec.Struct, frozen=True):
    """A question, its image markers taken out, and its answer."""

    question: str
    answer: str


class Conversation(msgspec.Struct, frozen=True):
    """One record of instruction data; `source` is empty where the file does not say it.

    `place` names the record for messages, as `file:line` or `file[index]`; `images` are names as in
    the file.
    """

    place: str
    id: str
    source: str
    images: tuple[str, ...]
    rounds: tuple[Round, ...]
