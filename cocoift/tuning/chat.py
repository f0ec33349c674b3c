"""The chat: how a record becomes text, token ids, and the tokens that carry loss.

This module alone knows how a chat is written.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cocoift.core.files import DataError
from cocoift.core.schema import IMAGE_MARKER, TEXT_ONLY, Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Positions without loss, as torch's cross entropy expects them.
IGNORED = -100

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Markers:
    """The strings before and after a system prompt and a question, and those of an answer.

    The model writes what follows `reply`: it learns `blank`, the answer, and the special token
    `end`.  `gap` stands between an answer and the next question.
    """

    system: tuple[str, str]
    question: tuple[str, str]
    reply: str
    blank: str
    end: str
    gap: str


FormatName = Literal["vicuna_v1", "chatml"]
# What a turn of a record sees in training: the turns before it, or the picture and itself alone.
Attend = Literal["record", "turn"]
MARKERS: dict[FormatName, Markers] = {
    # `conv_vicuna_v1` in LLaVA's `conversation.py`, as LLaVA-1.5 trains and asks.
    "vicuna_v1": Markers(
        system=("", " "),
        question=("USER: ", " "),
        reply="ASSISTANT:",
        blank=" ",
        end="</s>",
        gap="",
    ),
    # `chat_template` in the `tokenizer_config.json` of SmolLM2-Instruct and Qwen2.5-Instruct.
    "chatml": Markers(
        system=("<|im_start|>system\n", "<|im_end|>\n"),
        question=("<|im_start|>user\n", "<|im_end|>\n"),
        reply="<|im_start|>assistant\n",
        blank="",
        end="<|im_end|>",
        gap="\n",
    ),
}

_TEMPLATE = """\
{{%- if messages[0].role == 'system' -%}}{{{{ {before!r} + messages[0].content + {after!r} }}}}
{{%- set messages = messages[1:] -%}}{{%- else -%}}{{{{ {opening!r} }}}}{{%- endif -%}}
{{%- for message in messages -%}}
{{%- set parts = message.content if message.content is not string
   else [{{'type': 'text', 'text': message.content}}] -%}}
{{%- if message.role == 'user' -%}}
{{{{- {question[0]!r} -}}}}
{{%- for part in parts if part.type == 'image' -%}}{{{{- '<image>\\n' -}}}}{{%- endfor -%}}
{{%- for part in parts if part.type == 'text' -%}}{{{{- part.text -}}}}{{%- endfor -%}}
{{{{- {question[1]!r} -}}}}
{{%- else -%}}
{{{{- {reply!r} -}}}}
{{%- generation -%}}{{{{- {blank!r} -}}}}
{{%- for part in parts -%}}{{{{- part.text -}}}}{{%- endfor -%}}
{{{{- {end!r} -}}}}{{%- endgeneration -%}}{{{{- {gap!r} -}}}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- {reply!r} -}}}}{{%- endif -%}}
"""


@dataclass(frozen=True)
class ChatFormat:
    """How a model is talked to: the name of its markers, and a system prompt, empty for none."""

    name: FormatName = "vicuna_v1"
    system: str = VICUNA_SYSTEM

    @property
    def markers(self) -> Markers:
        """The strings of this format."""
        return MARKERS[self.name]

    @property
    def around_system(self) -> tuple[str, str]:
        """The strings around the system prompt; empty where there is none."""
        return self.markers.system if self.system else ("", "")


def chat_template(chat: ChatFormat) -> str:
    """Return the Jinja template of a format, for a checkpoint's tokenizer and processor.

    A chat that begins with a system message has that one, any other the format's.  Its generation
    block holds what training supervises (`pieces`): the blank, the answer, its end.
    """
    marks = chat.markers
    before, after = marks.system
    return _TEMPLATE.format(
        before=before,
        after=after,
        opening=chat.system.join(chat.around_system),
        question=marks.question,
        reply=marks.reply,
        blank=marks.blank,
        end=marks.end,
        gap=marks.gap,
    )


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
class Encoding:
    """How records become token ids: by which tokenizer, in which chat.

    An image takes `image_tokens` tokens, a sample at most `context_tokens`.  With `attend` set to
    `turn` every turn follows the image directly, unseen by the other turns.
    """

    tokenizer: "PreTrainedTokenizerBase"
    chat: ChatFormat
    image_tokens: int
    context_tokens: int = 2_048
    attend: Attend = "record"


@dataclass(frozen=True)
class Sample:
    """One training sample: token ids, and the half-open span of each round's supervised tokens.

    `ids` holds the image's token once, at `image_at`, and stands for `image_tokens` of them: at
    665,000 records that is a ninth of the memory.  `spans` are positions in `input_ids`, where it
    is repeated; a text-only sample has `TEXT_ONLY` for its image, and none.  `branches` are the
    positions at which turns begin that do not see each other; none where turns see those before.
    """

    record_id: str
    image: str
    ids: np.ndarray = field(repr=False)
    spans: list[tuple[int, int]]
    sources: list[str]
    image_at: int = 0
    image_tokens: int = 1
    branches: tuple[int, ...] = ()

    def __len__(self) -> int:
        """Tokens, those of the image included."""
        return len(self.ids) + self.image_tokens - 1

    @property
    def input_ids(self) -> list[int]:
        """The ids as the model receives them."""
        ids = self.ids.tolist()
        return [*ids[: self.image_at], *ids[self.image_at : self.image_at + 1] * self.image_tokens,
                *ids[self.image_at + 1 :]]  # fmt: skip

    @property
    def labels(self) -> list[int]:
        """The ids where loss is taken, `IGNORED` elsewhere; same length as `input_ids`."""
        ids = self.input_ids
        labels = [IGNORED] * len(ids)
        for start, end in self.spans:
            labels[start:end] = ids[start:end]
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


def encode(record: Record, encoding: Encoding) -> Sample:
    """Return a record as token ids with the spans that carry loss.

    With `encoding.attend` set to `turn` they are those of its rounds one by one, the shared
    beginning, up to the image, once: Molmo2's message trees (`olmo/models/molmo` in
    allenai/molmo2).  Raises `DataError` for a tokenizer to which the image marker is no token.
    """
    if encoding.attend == "record":
        return _encode_dialog(record, encoding)
    parts = [
        _encode_dialog(part_of(record, number, number + 1), encoding)
        for number in range(len(record.sources))
    ]
    shared = parts[0]
    ids, spans, branches = [shared.ids[: shared.image_at + 1]], [], []
    end = first = shared.image_at + shared.image_tokens
    for part in parts:
        branches.append(end)
        spans += [(start - first + end, stop - first + end) for start, stop in part.spans]
        ids.append(part.ids[part.image_at + 1 :])
        end += len(ids[-1])
    return replace(
        shared,
        ids=np.concatenate(ids),
        spans=spans,
        sources=list(record.sources),
        branches=tuple(branches),
    )


def part_of(record: Record, start: int, stop: int) -> Record:
    """Return consecutive rounds of a record as one of its own, the image before its first one."""
    marker = "" if record.image == TEXT_ONLY else f"{IMAGE_MARKER}\n"
    first, *rest = record.conversations[2 * start : 2 * stop]
    opening = Message(first.speaker, marker + first.value.removeprefix(marker))
    return Record(record.id, record.image, [opening, *rest], record.sources[start:stop])


def _encode_dialog(record: Record, encoding: Encoding) -> Sample:
    """Return a record as token ids, every turn after the one before it.

    Ids equal those of the whole rendered text, in which the image marker stands once for each of
    the image's tokens; only where a text spells out a special token (`</s>`, `<image>`) are the
    pieces encoded one by one, so that text from annotations cannot end a turn.
    """
    tokenizer = encoding.tokenizer
    first, *rest = record.conversations
    bare = Message(first.speaker, first.value.removeprefix(f"{IMAGE_MARKER}\n"))
    system, asked, *others = pieces([bare, *rest], chat=encoding.chat)
    if record.image != TEXT_ONLY:
        asked = replace(asked, before=f"{asked.before}{IMAGE_MARKER}\n")
    parts = [system, asked, *others]
    specials = tokenizer.all_special_tokens
    if any(special in part.content for part in parts for special in specials):
        ids, spans = _encode_apart(parts, tokenizer)
    else:
        ids, spans = _encode_whole(parts, tokenizer)
    if record.image == TEXT_ONLY:
        return Sample(record.id, TEXT_ONLY, np.asarray(ids, np.int32), spans, list(record.sources))
    image = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    if image not in ids:
        raise DataError(f"{IMAGE_MARKER} is no token of this tokenizer; add it as a special token")
    further = encoding.image_tokens - 1
    return Sample(
        record.id,
        record.image,
        np.asarray(ids, np.int32),
        [(start + further, end + further) for start, end in spans],
        list(record.sources),
        image_at=ids.index(image),
        image_tokens=encoding.image_tokens,
    )


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


def prompt_ids(messages: Sequence[Message], encoding: Encoding) -> list[int]:
    """Return the ids that ask for the next answer: a history ending in a human message."""
    sample = _answered(messages, "", encoding)
    return sample.input_ids[: sample.spans[-1][0]]


def answered_ids(messages: Sequence[Message], answer: str, encoding: Encoding) -> list[int]:
    """Return the ids of a history ending in a human message, with its answer and its end."""
    return _answered(messages, answer, encoding).input_ids


def parted_ids(
    messages: Sequence[Message], answer: str, encoding: Encoding
) -> tuple[list[int], list[int]]:
    """Return the ids of a history ending in a human message, and those of its answer.

    The answer's are what training supervises: its last token is the one that ends it.
    """
    sample = _answered(messages, answer, encoding)
    start, stop = sample.spans[-1]
    return sample.input_ids[:start], sample.input_ids[start:stop]


def _answered(messages: Sequence[Message], answer: str, encoding: Encoding) -> Sample:
    dialog = [*messages, Message("gpt", answer)]
    return encode(Record("", "", dialog, [""] * (len(dialog) // 2)), encoding)
