"""The records of a mixture on their way into training: chosen, encoded, split to the context."""

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError
from cocoift.core.images import bad_images
from cocoift.core.parallel import ordered
from cocoift.core.schema import TEXT_ONLY, Record, read_records
from cocoift.core.tables import read_table, reading
from cocoift.tuning.chat import IGNORED, Encoding, Sample, encode, part_of

# Records that one task encodes; a mixture of no more is encoded here, in a second.
_CHUNK = 5_000


@dataclass(frozen=True)
class TooLong:
    """A record that exceeds the context: its tokens, and what became of its rounds."""

    record_id: str
    tokens: int
    samples: int
    rounds_dropped: int


@dataclass(frozen=True)
class TrainingSet:
    """The samples of one mixture and what happened to records that exceed the context."""

    records: int
    samples: list[Sample]
    too_long: list[TooLong]

    @property
    def lengths(self) -> list[int]:
        """Tokens per sample, image tokens included."""
        return [len(sample) for sample in self.samples]

    @property
    def supervised_tokens(self) -> int:
        """Tokens that carry loss: answers and what ends them."""
        return sum(end - start for sample in self.samples for start, end in sample.spans)


@dataclass(frozen=True)
class ImageSplit:
    """Which images train and which are held out; names as in the records, sorted."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def split_images(
    mixture: Path, *, held_out: int, train: int | None = None, seed: int = 0
) -> ImageSplit:
    """Draw `held_out` images of a mixture, and up to `train` others (null: all of them).

    Hashes of image names decide, so every mixture of the same images is split alike on every
    machine.  Raises `DataError` when the mixture is absent or has too few images.
    """
    names = {Path(name).name: name for name in _column(mixture, "image")}
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    if len(ranked) <= held_out:
        raise DataError(
            f"{mixture}: {len(ranked)} images, of which {held_out} would be held out; "
            "lower held_out_images or merge more images"
        )
    chosen = ranked[held_out : None if train is None else held_out + train]
    kept = (tuple(sorted(names[name] for name in part)) for part in (chosen, ranked[:held_out]))
    return ImageSplit(*kept)


def count_records(mixture: Path, images: Collection[str]) -> int:
    """Return how many records of a mixture are about these images."""
    wanted = set(images)
    return sum(name in wanted for name in _column(mixture, "image"))


def _column(mixture: Path, name: str) -> list[str]:
    path = mixture.with_suffix(".parquet")
    values = read_table(path, columns=[name])[name].to_pylist()
    with reading(path):
        return msgspec.convert(values, list[str])


def read_training_set(mixture: Path, images: Iterable[str], encoding: Encoding) -> TrainingSet:
    """Encode the records of a mixture (LLaVA JSON) that are about `images`.

    Records that exceed the context are split between rounds and reported (`samples`).  Large
    mixtures are encoded on all cores.
    """
    wanted = set(images)
    records = [record for record in read_records(mixture) if record.image in wanted]
    if len(records) <= _CHUNK:
        return TrainingSet(len(records), *samples(records, encoding))
    chunks = [records[at : at + _CHUNK] for at in range(0, len(records), _CHUNK)]
    parts = ordered(_encode_chunk, [(chunk, encoding) for chunk in chunks])
    found = TrainingSet(len(records), [], [])
    for encoded, too_long in tqdm(parts, total=len(chunks), desc="encoding", leave=False):
        found.samples.extend(encoded)
        found.too_long.extend(too_long)
    return found


def _encode_chunk(task: tuple[list[Record], Encoding]) -> tuple[list[Sample], list[TooLong]]:
    return samples(*task)


def samples(records: Iterable[Record], encoding: Encoding) -> tuple[list[Sample], list[TooLong]]:
    """Encode records into samples that fit the context, and tell which were too long.

    A record that is too long is split between rounds, each part with the image before its first
    question; a single round that does not fit is dropped.  Image tokens are never cut.
    """
    fitting: list[Sample] = []
    reports: list[TooLong] = []
    for record in records:
        whole = encode(record, encoding)
        if len(whole) <= encoding.context_tokens:
            fitting.append(whole)
            continue
        parts = list(_split(record, whole, encoding))
        dropped = len(record.sources) - sum(len(part.sources) for part in parts)
        reports.append(TooLong(record.id, len(whole), len(parts), dropped))
        fitting += parts
    return fitting, reports


def _split(record: Record, whole: Sample, encoding: Encoding) -> Iterator[Sample]:
    """Yield parts of consecutive rounds, as many in each as the context holds.

    A round that does not fit alone is left out.
    """
    context, ends, start = encoding.context_tokens, [end for _, end in whole.spans], 0
    while start < len(ends):
        room = context - len(encode(part_of(record, start, start + 1), encoding))
        if room < 0:
            start += 1
            continue
        # Further rounds cost what they cost in the whole record, except for texts that spell
        # out a special token.
        stop = bisect_right(ends, ends[start] + room)
        while len(part := encode(part_of(record, start, stop), encoding)) > context:
            stop -= 1
        yield part
        start = stop


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
    for number, row in enumerate(zip(input_ids, labels, strict=True)):
        tokens, wanted = map(np.asarray, row)
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
        yield part_of(record, number, number + 1)


def check_pictures(names: Iterable[str], image_root: Path, *, shown: int = 5) -> int:
    """Open every image once; return how many there are.

    Raises `DataError` that counts and names those that are missing, corrupt or too large:
    training must not find out in step 3,000.
    """
    distinct = [name for name in dict.fromkeys(names) if name != TEXT_ONLY]
    bad = bad_images(distinct, image_root)
    if bad:
        listed = "; ".join(picture.reason for picture in bad[:shown])
        more = f" and {len(bad) - shown} more" if len(bad) > shown else ""
        raise DataError(
            f"{len(bad)} of {len(distinct)} images below {image_root} cannot train: "
            f"{listed}{more}; fetch them again or take their records out of the mixture"
        )
    return len(distinct)
