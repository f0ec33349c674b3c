"""The chat: how a record becomes text, token ids, and the tokens that carry loss.

This module and the table in `chat_formats` alone know how a chat is written.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cocoift.core.schema import IMAGE_MARKER, Message, Record
from cocoift.tuning.chat_formats import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Positions without loss, as torch's cross entropy expects them.
IGNORED = -100


@dataclass(frozen=True)
class Piece:
    """A text with the markers around it; `round` is set where a model is to learn to write it."""

    before: str
    content: str
    after: str
    round: int | None = None

    @property
    def text(self) -> str:
        """The piece as it is rendered."""
        return self.before + self.content + self.after


@dataclass(frozen=True)
class Sample:
    """One training sample: token ids, and the half-open span of each round's supervised tokens."""

    record_id: str
    image: str
    input_ids: Sequence[int] | np.ndarray
    spans: list[tuple[int, int]]
    sources: list[str]

    @property
    def labels(self) -> list[int]:
        """The ids where loss is taken, `IGNORED` elsewhere; same length as `input_ids`."""
        labels = [IGNORED] * len(self.input_ids)
        for start, end in self.spans:
            labels[start:end] = self.input_ids[start:end]
        return labels


def pieces(messages: Sequence[Message], *, chat: ChatFormat) -> Iterator[Piece]:
    """Yield the chat of alternating human and gpt messages, one supervised piece per answer.

    The supervised piece starts where generation starts, and ends with the token that ends an
    answer.
    """
    marks = chat.markers
    before, after = marks.question
    start, stop = chat.around_system
    yield Piece(start, chat.system, stop)
    for position, message in enumerate(messages):
        if position % 2:
            yield Piece(marks.blank, message.value, marks.end, position // 2)
            yield Piece(marks.gap, "", "")
        else:
            yield Piece(before, message.value, after + marks.reply)


def encode(
    record: Record, *, tokenizer: "PreTrainedTokenizerBase", image_tokens: int, chat: ChatFormat
) -> Sample:
    """Return a record as token ids with the spans that carry loss.

    The image marker becomes `image_tokens` image tokens.  Ids equal those of the whole rendered
    text; only where a text spells out a special token (`</s>`, `<image>`) are the pieces encoded
    one by one, so that text from annotations cannot end a turn.
    """
    first, *rest = record.conversations
    bare = Message(first.speaker, first.value.removeprefix(f"{IMAGE_MARKER}\n"))
    system, asked, *others = pieces([bare, *rest], chat=chat)
    shown = replace(asked, before=f"{asked.before}{IMAGE_MARKER * image_tokens}\n")
    parts = [system, shown, *others]
    specials = tokenizer.all_special_tokens
    if any(special in part.content for part in parts for special in specials):
        ids, spans = _encode_apart(parts, tokenizer)
    else:
        ids, spans = _encode_whole(parts, tokenizer)
    return Sample(record.id, record.image, ids, spans, list(record.sources))


def _encode_whole(
    parts: list[Piece], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode the text at once and find the supervised tokens by their characters."""
    encoded = tokenizer("".join(part.text for part in parts), return_offsets_mapping=True)
    borders, place = [], 0
    for part in parts:
        if part.round is not None:
            borders.append((place, place + len(part.text)))
        place += len(part.text)
    spans, token, offsets = [], 0, encoded["offset_mapping"]
    for start, end in borders:
        while offsets[token][1] <= start:
            token += 1
        first = token
        while token < len(offsets) and offsets[token][1] <= end and offsets[token][1] > start:
            token += 1
        spans.append((first, token))
    return encoded["input_ids"], spans


def _encode_apart(
    parts: list[Piece], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode each piece on its own; special tokens count as such in its markers alone."""
    known = f"({'|'.join(map(re.escape, tokenizer.all_special_tokens))})"
    ids, spans = tokenizer("")["input_ids"], []
    for part in parts:
        start = len(ids)
        # Every second stretch is a special token; a text goes with the markers that touch it.
        *ahead, before = re.split(known, part.before)
        after, *behind = re.split(known, part.after)
        stretches = [*ahead, f"{before}{part.content}{after}", *behind]
        for position, text in enumerate(stretches):
            if position % 2:
                ids.append(tokenizer.convert_tokens_to_ids(text))
            elif text:
                ids += tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
        if part.round is not None:
            spans.append((start, len(ids)))
    return ids, spans


def prompt_ids(
    messages: Sequence[Message],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    chat: ChatFormat,
) -> list[int]:
    """Return the ids that ask for the next answer: a history ending in a human message."""
    sample = _answered(messages, "", tokenizer, image_tokens, chat)
    return list(sample.input_ids[: sample.spans[-1][0]])


def answered_ids(
    messages: Sequence[Message],
    answer: str,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    chat: ChatFormat,
) -> list[int]:
    """Return the ids of a history ending in a human message, with its answer and its end."""
    return list(_answered(messages, answer, tokenizer, image_tokens, chat).input_ids)


def _answered(
    messages: Sequence[Message],
    answer: str,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    chat: ChatFormat,
) -> Sample:
    told = [*messages, Message("gpt", answer)]
    record = Record("", "", told, [""] * (len(told) // 2))
    return encode(record, tokenizer=tokenizer, image_tokens=image_tokens, chat=chat)
