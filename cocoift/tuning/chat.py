"""The chat: how a record becomes text, token ids, and the tokens that carry loss.

vicuna_v1 as LLaVA-1.5 trains and asks it (`conv_vicuna_v1` in LLaVA's `conversation.py`):
`{system} USER: <image>\\n{q1} ASSISTANT: {a1}</s>USER: {q2} ASSISTANT: {a2}</s>`.  This module
alone knows the format; the chat template it gives a checkpoint renders the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cocoift.core.schema import IMAGE_MARKER, Message, Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
END = "</s>"
# Positions without loss, as torch's cross entropy expects them.
IGNORED = -100

_TEMPLATE = """\
{{%- if messages[0].role == 'system' -%}}{{{{ messages[0].content + ' ' }}}}
{{%- set messages = messages[1:] -%}}{{%- else -%}}{{{{ {system!r} }}}}{{%- endif -%}}
{{%- for message in messages -%}}
{{%- set parts = message.content if message.content is not string
   else [{{'type': 'text', 'text': message.content}}] -%}}
{{%- if message.role == 'user' -%}}
{{{{- 'USER: ' -}}}}
{{%- for part in parts if part.type == 'image' -%}}{{{{- '<image>\\n' -}}}}{{%- endfor -%}}
{{%- for part in parts if part.type == 'text' -%}}{{{{- part.text -}}}}{{%- endfor -%}}
{{{{- ' ' -}}}}
{{%- else -%}}
{{{{- 'ASSISTANT: ' -}}}}
{{%- for part in parts -%}}
{{%- generation -%}}{{{{- part.text + '</s>' -}}}}{{%- endgeneration -%}}
{{%- endfor -%}}
{{%- endif -%}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- 'ASSISTANT:' -}}}}{{%- endif -%}}
"""


@dataclass(frozen=True)
class Piece:
    """A stretch of the rendered chat; `round` is set where a model is to learn to write it."""

    text: str
    round: int | None = None


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


def chat_template(system: str) -> str:
    """Return the Jinja template of this chat, for a checkpoint's tokenizer and processor."""
    return _TEMPLATE.format(system=f"{system} " if system else "")


def pieces(messages: Sequence[Message], *, system: str) -> Iterator[Piece]:
    """Yield the chat of alternating human and gpt messages, one supervised piece per answer.

    The supervised piece starts behind `ASSISTANT:`, where generation starts, and ends with
    `</s>`; no blank follows it.
    """
    yield Piece(f"{system} " if system else "")
    for position, message in enumerate(messages):
        if position % 2:
            yield Piece(f" {message.value}{END}", position // 2)
        else:
            yield Piece(f"USER: {message.value} ASSISTANT:")


def encode(
    record: Record, *, tokenizer: "PreTrainedTokenizerBase", image_tokens: int, system: str
) -> Sample:
    """Return a record as token ids with the spans that carry loss.

    The image marker becomes `image_tokens` image tokens.  Ids equal those of the whole rendered
    text; only where a question or an answer spells out a special token (`</s>`, `<image>`) are
    the pieces encoded one by one, so that text from annotations cannot end a turn.
    """
    marker = f"{IMAGE_MARKER}\n"
    first = record.conversations[0]
    bare = [Message(first.speaker, first.value.removeprefix(marker)), *record.conversations[1:]]
    specials = tokenizer.all_special_tokens
    if any(special in message.value for message in bare for special in specials):
        ids, spans = _encode_apart(bare, tokenizer, image_tokens, system)
    else:
        image = f"{IMAGE_MARKER * image_tokens}\n"
        shown = [Message(first.speaker, image + bare[0].value), *bare[1:]]
        ids, spans = _encode_whole(list(pieces(shown, system=system)), tokenizer)
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
    messages: Sequence[Message],
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    system: str,
) -> tuple[list[int], list[tuple[int, int]]]:
    """Encode each piece with its special tokens as plain text, and add ours as ids."""

    def plain(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    image_id, end_id = tokenizer.convert_tokens_to_ids([IMAGE_MARKER, END])
    ids = tokenizer("")["input_ids"]
    spans = []
    for number, part in enumerate(pieces(messages, system=system)):
        if part.round is not None:
            start = len(ids)
            ids += [*plain(part.text.removesuffix(END)), end_id]
            spans.append((start, len(ids)))
        elif number == 1:
            ids += [*plain("USER: "), *[image_id] * image_tokens]
            ids += plain("\n" + part.text.removeprefix("USER: "))
        else:
            ids += plain(part.text)
    return ids, spans


def prompt_ids(
    messages: Sequence[Message],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    system: str,
) -> list[int]:
    """Return the ids that ask for the next answer: a history ending in a human message."""
    sample = _answered(messages, "", tokenizer, image_tokens, system)
    return list(sample.input_ids[: sample.spans[-1][0]])


def answered_ids(
    messages: Sequence[Message],
    answer: str,
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    system: str,
) -> list[int]:
    """Return the ids of a history ending in a human message, with its answer and `</s>`."""
    return list(_answered(messages, answer, tokenizer, image_tokens, system).input_ids)


def _answered(
    messages: Sequence[Message],
    answer: str,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    system: str,
) -> Sample:
    told = [*messages, Message("gpt", answer)]
    record = Record("", "", told, [""] * (len(told) // 2))
    return encode(record, tokenizer=tokenizer, image_tokens=image_tokens, system=system)
