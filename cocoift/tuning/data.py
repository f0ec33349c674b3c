"""The records of a mixture on their way into training: chosen, encoded, checked before step one."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, digest, replacing, sha256
from cocoift.core.images import bad_images
from cocoift.core.parallel import ordered
from cocoift.core.schema import Record, read_records
from cocoift.core.tables import read_table, reading
from cocoift.tuning.chat import Sample
from cocoift.tuning.chat_formats import ChatFormat
from cocoift.tuning.samples import TooLong, samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Records that one task encodes; a mixture of no more is encoded here, in a second.
_CHUNK = 5_000
# Raise it when the encoding changes: older samples are then not reused.
_VERSION = 2


@dataclass(frozen=True)
class TrainingSet:
    """The samples of one mixture and what happened to records that exceed the context."""

    records: int
    samples: list[Sample]
    too_long: list[TooLong]

    @property
    def lengths(self) -> list[int]:
        """Tokens per sample, image tokens included."""
        return [len(sample.input_ids) for sample in self.samples]

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


def read_training_set(
    mixture: Path,
    images: Iterable[str],
    *,
    tokenizer: "PreTrainedTokenizerBase",
    image_tokens: int,
    context_tokens: int,
    chat: ChatFormat,
) -> TrainingSet:
    """Encode the records of a mixture (LLaVA JSON) that are about `images`.

    Records that exceed `context_tokens` are split between rounds and reported (`chat.samples`).
    Large mixtures are encoded on all cores, and kept beside the mixture for the next start.
    """
    wanted = set(images)
    records = [record for record in read_records(mixture) if record.image in wanted]
    encoding = Encoding(tokenizer, image_tokens, context_tokens, chat)
    if len(records) <= _CHUNK:
        made, too_long = encoding.samples(records)
        return TrainingSet(len(records), made, too_long)
    kept = mixture.with_name(f"{mixture.stem}.encoded.parquet")
    key = digest([sha256(mixture), sorted(wanted), encoding.key()])
    found = read_encoded(kept, key)
    if found is None:
        chunks = [records[at : at + _CHUNK] for at in range(0, len(records), _CHUNK)]
        parts = ordered(_encode, [(encoding, chunk) for chunk in chunks])
        bar = tqdm(parts, total=len(chunks), desc="encoding", leave=False)
        made, too_long = [], []
        for own, longer in bar:
            made += own
            too_long += longer
        write_encoded(kept, key, made, too_long)
        found = made, too_long
    return TrainingSet(len(records), *found)


@dataclass(frozen=True)
class Encoding:
    """How records become samples."""

    tokenizer: "PreTrainedTokenizerBase"
    image_tokens: int
    context_tokens: int
    chat: ChatFormat

    def samples(self, records: Iterable[Record]) -> tuple[list[Sample], list[TooLong]]:
        """Return the samples of records, and what became of those that were too long."""
        return samples(
            records,
            tokenizer=self.tokenizer,
            image_tokens=self.image_tokens,
            context_tokens=self.context_tokens,
            chat=self.chat,
        )

    def key(self) -> str:
        """Return a digest of everything that ids and spans depend on besides the records."""
        words = self.tokenizer.backend_tokenizer.to_str()
        return digest([_VERSION, words, self.image_tokens, self.context_tokens, asdict(self.chat)])


def _encode(task: tuple[Encoding, list[Record]]) -> tuple[list[Sample], list[TooLong]]:
    encoding, records = task
    return encoding.samples(records)


def write_encoded(
    path: Path, key: str, made: Sequence[Sample], too_long: Sequence[TooLong]
) -> None:
    """Write samples as Parquet, under the digest of all that they depend on."""
    columns = {
        "record_id": pa.array([one.record_id for one in made]),
        "image": pa.array([one.image for one in made]),
        "input_ids": pa.array([one.input_ids for one in made], pa.large_list(pa.int32())),
        "spans": pa.array([list(chain(*one.spans)) for one in made], pa.list_(pa.int32())),
        "sources": pa.array([one.sources for one in made], pa.list_(pa.string())),
    }
    metadata = {"key": key, "too_long": json.dumps([asdict(one) for one in too_long])}
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), temporary)


def read_encoded(path: Path, key: str) -> tuple[list[Sample], list[TooLong]] | None:
    """Return the samples written under this digest; `None` where there are none or others."""
    try:
        with reading(path):
            metadata = pq.read_schema(path).metadata or {}
            return _decoded(path, metadata) if metadata.get(b"key") == key.encode() else None
    except (DataError, ValueError, TypeError):  # a damaged file is written again
        return None


def _decoded(path: Path, metadata: Mapping[bytes, bytes]) -> tuple[list[Sample], list[TooLong]]:
    made = []
    for batch in pq.ParquetFile(path).iter_batches():
        batch.validate(full=True)
        ids = batch["input_ids"]
        rows = batch.drop_columns(["input_ids"]).to_pylist()
        for row, tokens in zip(rows, ids, strict=True):
            spans = list(zip(row["spans"][::2], row["spans"][1::2], strict=True))
            own = np.array(tokens.values.to_numpy(), np.int32)  # a copy: Arrow's are read-only
            made.append(Sample(row["record_id"], row["image"], own, spans, row["sources"]))
    return made, [TooLong(**one) for one in json.loads(metadata[b"too_long"])]


def check_pictures(names: Iterable[str], image_root: Path, *, shown: int = 5) -> int:
    """Open every picture once; return how many there are.

    Raises `DataError` that counts and names those that are missing, corrupt or too large:
    training must not find out in step 3,000.
    """
    distinct = list(dict.fromkeys(names))
    bad = bad_images(distinct, image_root)
    if bad:
        listed = "; ".join(picture.reason for picture in bad[:shown])
        more = f" and {len(bad) - shown} more" if len(bad) > shown else ""
        raise DataError(
            f"{len(bad)} of {len(distinct)} pictures below {image_root} cannot train: "
            f"{listed}{more}; fetch them again or take their records out of the mixture"
        )
    return len(distinct)
