"""Records of any length as training samples that fit the model's context."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cocoift.core.files import DataError
from cocoift.core.schema import IMAGE_MARKER, Message, Record
from cocoift.tuning.chat import IGNORED, Sample, encode
from cocoift.tuning.chat_formats import ChatFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TooLong:
    """A record that exceeds the context: its tokens, and what became of its rounds."""

    record_id: str
    tokens: int
    samples: int
    rounds_dropped: int


def samples(
    records: Iterable[Record],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    context_tokens: int,
    chat: ChatFormat,
) -> tuple[list[Sample], list[TooLong]]:
    """Encode records into samples of at most `context_tokens`, and tell which were too long.

    A record that is too long is split between rounds, each part with the image before its first
    question; a single round that does not fit is dropped.  Image tokens are never cut.
    """

    def encoded(record: Record) -> Sample:
        whole = encode(record, tokenizer=tokenizer, image_tokens=image_tokens, chat=chat)
        # A list of Python integers takes ten times the memory, which matters at 665,000 records.
        return replace(whole, input_ids=np.asarray(whole.input_ids, np.int32))

    made: list[Sample] = []
    reports: list[TooLong] = []
    for record in records:
        whole = encoded(record)
        length = len(whole.input_ids)
        if length <= context_tokens:
            made.append(whole)
            continue
        fitting = list(_split(record, whole, encoded=encoded, context_tokens=context_tokens))
        dropped = len(record.sources) - sum(len(part.sources) for part in fitting)
        reports.append(TooLong(record.id, length, len(fitting), dropped))
        made += fitting
    return made, reports


def only_last(sample: Sample) -> Sample:
    """Return a sample whose last answer alone carries loss."""
    return replace(sample, spans=sample.spans[-1:], sources=sample.sources[-1:])


def batch_samples(
    input_ids: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, pad: int | None = None
) -> list[Sample]:
    """Return the rows of a batch of any trainer as samples, a span for each run of labels.

    `input_ids` and `labels` have shape (rows, longest), as TRL's, LLaMA-Factory's and ms-swift's
    collators return them: labels not yet shifted, `IGNORED` where no loss is taken.  `pad` tokens
    at the ends that carry no loss are left out.  Raises `DataError` naming the row and the place
    where a label is neither `IGNORED` nor the token that stands there.
    """
    found = []
    for number, (ids, own) in enumerate(zip(input_ids, labels, strict=True)):
        tokens, wanted = np.asarray(ids), np.asarray(own)
        if tokens.shape != wanted.shape:
            raise DataError(f"row {number}: {tokens.size} ids and {wanted.size} labels")
        carries = wanted != IGNORED
        if len(strange := np.flatnonzero(carries & (wanted != tokens))):
            at = strange[0]
            raise DataError(
                f"row {number}, token {at}: label {wanted[at]} is neither {IGNORED} nor its token "
                f"{tokens[at]}; give labels as the collator returns them, not shifted"
            )
        kept = np.flatnonzero(carries | (tokens != pad))
        first, last = (kept[0], kept[-1] + 1) if len(kept) else (0, 0)
        edges = np.flatnonzero(np.diff(np.r_[0, carries[first:last], 0]))
        spans = [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
        found.append(Sample(f"row {number}", "", tokens[first:last], spans, [""] * len(spans)))
    return found


def later_rounds(record: Record) -> Iterator[Record]:
    """Yield every round of a record but the first as a conversation of its own."""
    for number in range(1, len(record.sources)):
        yield _part(record, number, number + 1)


def _split(
    record: Record, whole: Sample, *, encoded: Callable[[Record], Sample], context_tokens: int
) -> Iterator[Sample]:
    """Yield parts of consecutive rounds, as many in each as the context holds.

    A round that does not fit alone is left out.
    """
    ends = [end for _, end in whole.spans]
    start = 0
    while start < len(ends):
        room = context_tokens - len(encoded(_part(record, start, start + 1)).input_ids)
        if room < 0:
            start += 1
            continue
        # Further rounds cost what they cost in the whole record, but for texts that spell out a
        # special token there.
        stop = bisect_right(ends, ends[start] + room)
        while len((part := encoded(_part(record, start, stop))).input_ids) > context_tokens:
            stop -= 1
        yield part
        start = stop


def _part(record: Record, start: int, stop: int) -> Record:
    marker = f"{IMAGE_MARKER}\n"
    first, *rest = record.conversations[2 * start : 2 * stop]
    opening = Message(first.speaker, marker + first.value.removeprefix(marker))
    return Record(record.id, record.image, [opening, *rest], record.sources[start:stop])
