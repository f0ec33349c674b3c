"""Conversations as columns: a few numbers per turn and per record, so that a gigabyte fits.

Pieces of files are read side by side; the checks are then sums over NumPy arrays, and the texts of
examples are read again from their place.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
import pandas as pd

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError
from cocoift.core.parallel import ordered
from cocoift.core.schema import coco_id_in
from cocoift.core.spread import spread
from cocoift.core.text import CountTokens, question_key, token_counter
from cocoift.lint.conversations import Conversation, Fault, Unread
from cocoift.lint.formats import Piece, conversations, data_files, pieces
from cocoift.lint.wording import beginning, states_form

FAULTS: tuple[Fault, ...] = get_args(Fault)
# A record's flags: its structure's faults, and then these.
REPEATED, HELD_OUT = 1 << len(FAULTS), 1 << (len(FAULTS) + 1)
# `record` counts over all files, `key` is that of the question, `beginning` that of its first two
# words, `asked` tells whether it states a form.
TURN = np.dtype([("record", "i4"), ("position", "u2"), ("source", "u2"), ("words", "u2"),
                 ("asked", "?"), ("beginning", "u4"), ("key", "u8")])  # fmt: skip
RECORD = np.dtype([("source", "u2"), ("rounds", "u2"), ("flags", "u1"), ("coco", "i8"),
                   ("tokens", "i4")])  # fmt: skip
_COUNTED = ("record", "position", "source", "words", "asked")
_MOST = 65_535
# Sources beyond the largest ones are counted together.
SOURCES, OTHERS = 30, "(others)"
# Conversations that the prediction looks at.
SAMPLE = 20_000
# A split of COCO that benchmarks ask about, in the name of an image.
_HELD_OUT_NAMES = ("val2014", "val2017", "test2014", "test2015", "test2017")


class Columns(msgspec.Struct, frozen=True):
    """A piece, or all, of the data; `sources` are names, by their number."""

    sources: list[str]
    turns: np.ndarray
    records: np.ndarray
    unread: list[Unread]
    sample: list[Conversation]


@dataclass(frozen=True)
class Data:
    """All that was read: columns, the pieces they come from, and the first record of each piece."""

    columns: Columns
    pieces: list[Piece]
    firsts: np.ndarray
    files: list[Path]
    notes: list[str] = field(default_factory=list)

    def at(self, records: Iterable[int]) -> dict[int, Conversation]:
        """Return some conversations, by their number over all files, as they stand in the files."""
        by_piece: dict[int, list[int]] = {}
        for record in sorted(set(records)):
            place = int(np.searchsorted(self.firsts, record, side="right")) - 1
            by_piece.setdefault(place, []).append(record)
        found: dict[int, Conversation] = {}
        for number, wanted in by_piece.items():
            piece, first = self.pieces[number], int(self.firsts[number])
            read = (c for c in conversations(piece) if isinstance(c, Conversation))
            here = set(wanted)
            found |= {n: c for n, c in enumerate(read, start=first) if n in here}
        return found


class Task(msgspec.Struct, frozen=True):
    """A piece to be read, its share of the sample, and what counts tokens, if anything does."""

    piece: Piece
    share: int
    tokenizer: Path | None = None


def read_data(
    paths: Sequence[Path], *, tokenizer: Path | None = None, processes: int | None = None
) -> Data:
    """Read files and folders on all cores.

    Raises `DataError` for a file that cannot be read at all, and where no record can.
    """
    files, notes = data_files(paths)
    cut = [piece for path in files for piece in pieces(path)]
    total = sum(piece.size for piece in cut) or 1
    tasks = [Task(piece, -(-SAMPLE * piece.size // total), tokenizer) for piece in cut]
    parts = []
    with tqdm(total=total, desc="reading", unit="B", unit_scale=True, leave=False) as bar:
        for task, part in zip(tasks, ordered(read_piece, tasks, processes=processes), strict=True):
            parts.append(part)
            bar.update(task.piece.size)
    columns = _joined(parts)
    firsts = np.cumsum([0, *(len(part.records) for part in parts[:-1])]) if parts else np.zeros(0)
    if not len(columns.records):
        reason = (
            f": {columns.unread[0].place}: {columns.unread[0].reason}" if columns.unread else ""
        )
        names = ", ".join(path.name for path in files[:3])
        raise DataError(f"{names}: none of its records can be read{reason}; correct the file")
    return Data(columns, cut, firsts, files, notes)


def read_piece(task: Task) -> Columns:
    """Return the columns of a piece."""
    count_tokens = token_counter(task.tokenizer) if task.tokenizer else None
    sources: dict[str, int] = {}
    turns: list[tuple[int, int, int, int, bool]] = []
    records: list[tuple[int, int, int, int, int]] = []
    keys: list[str] = []
    unread: list[Unread] = []
    read: list[Conversation] = []
    for found in conversations(task.piece):
        if isinstance(found, Unread):
            unread.append(found)
            continue
        read.append(found)
        number = len(records)
        own = sources.setdefault(found.source, len(sources))
        first = len(keys)
        for position, asked in enumerate(found.rounds):
            source = own
            if found.sources:
                source = sources.setdefault(found.sources[position], len(sources))
            question = asked.question
            key = question_key(question)
            words = len(asked.answer.split())
            turns.append((number, position, source, words, states_form(question, key)))
            keys.append(key)
        records.append(_record(found, own, keys[first:], count_tokens))
    columns = np.zeros(len(turns), TURN)
    if turns:
        for name, values in zip(_COUNTED, np.array(turns, np.int64).T, strict=True):
            columns[name] = np.minimum(values, _MOST) if TURN[name].itemsize == 2 else values
    columns["key"] = _hashed(keys)
    columns["beginning"] = _hashed([beginning(key) for key in keys]) >> np.uint64(32)
    sample = spread(read, task.share)
    return Columns(list(sources), columns, np.array(records, RECORD), unread, sample)


def _record(
    found: Conversation, source: int, keys: list[str], count_tokens: CountTokens | None
) -> tuple[int, int, int, int, int]:
    flags = sum(1 << FAULTS.index(fault) for fault in found.faults)
    if len(keys) > 1 and len(set(keys)) < len(keys):
        flags |= REPEATED
    coco = -1
    for image in found.images:
        if any(name in image for name in _HELD_OUT_NAMES):
            flags |= HELD_OUT
        coco = coco_id_in(image) or coco if len(image) < 300 else coco
    tokens = 0
    if count_tokens:
        tokens = sum(count_tokens(r.question) + count_tokens(r.answer) for r in found.rounds)
    return source, min(len(found.rounds), _MOST), flags, coco, tokens


def _hashed(texts: list[str]) -> np.ndarray:
    """Return a 64-bit hash of each text, the same in every process."""
    if not texts:
        return np.zeros(0, np.uint64)
    return pd.util.hash_array(np.array(texts, dtype=object))


def _joined(parts: Sequence[Columns]) -> Columns:
    """Return the parts as one, records numbered through, the smallest sources counted together."""
    sizes: Counter[str] = Counter()
    for part in parts:
        counts = np.bincount(part.turns["source"], minlength=len(part.sources))
        counts += np.bincount(part.records["source"], minlength=len(part.sources))
        sizes.update(dict(zip(part.sources, counts.tolist(), strict=True)))
    names = [name for name, _ in sizes.most_common(SOURCES)]
    if len(sizes) > SOURCES:
        names[-1] = OTHERS
    code = {name: number for number, name in enumerate(names)}
    first = 0
    for part in parts:
        new = np.array([code.get(n, len(names) - 1) for n in part.sources], np.uint16)
        for rows in (part.turns, part.records):
            if len(rows):
                rows["source"] = new[rows["source"]]
        part.turns["record"] += first
        first += len(part.records)
    return Columns(
        names,
        np.concatenate([part.turns for part in parts]) if parts else np.zeros(0, TURN),
        np.concatenate([part.records for part in parts]) if parts else np.zeros(0, RECORD),
        [unread for part in parts for unread in part.unread],
        [conversation for part in parts for conversation in part.sample],
    )
