"""`cocoift fix`: the study's cures as rewritings of somebody's own file.

Order, ids and every field but the turns stay as they are; a record that nothing is changed in is
copied byte for byte (JSON).  What changed goes to a log beside the file.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, replacing
from cocoift.core.schema import Turn
from cocoift.core.tables import reading
from cocoift.core.text import FORMAT_PROMPTS, counted, estimate_tokens
from cocoift.lint.formats import FIX, pieces, raw_records
from cocoift.lint.messages import FIELDS, Exchange, exchanges, field_of, image_of, joined
from cocoift.lint.wording import SHORT_WORDS, states_form
from cocoift.merge.layouts import TERSE_PROMPT
from cocoift.merge.rules import Rules, pack, shuffled_dialogs

# The prompts that ask for a short answer, with the white space before them.
_SHORT_PROMPTS = [p for p in FORMAT_PROMPTS if "explanation" not in p and p.split()[0] == "Answer"]
_SHORT = re.compile(
    rf"\s*(?:{'|'.join(re.escape(p.rstrip('.')) for p in _SHORT_PROMPTS)})\.?", re.IGNORECASE
)
Row = dict[str, Any]


class Cure(msgspec.Struct, frozen=True):
    """What to rewrite; `context` are the tokens that a joined conversation may have."""

    prompts: Literal["terse", "none"] | None = None
    interleave: bool = False
    context: int = 2048


@dataclass
class Changes:
    """What was changed, counted; every change is a line of the log."""

    log: IO[bytes]
    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, what: str, record: Row, **told: Any) -> None:
        """Count a change and write it to the log."""
        self.counts[what] += 1
        line = {"change": what, "id": record.get("id"), **told}
        self.log.write(msgspec.json.encode(line) + b"\n")

    def in_words(self) -> str:
        """Return the counts as a sentence."""
        parts = [f"{number:,} {what}" for what, number in sorted(self.counts.items())]
        return f"{counted(self.records, 'record')}: {', '.join(parts) or 'nothing to change'}"


def fix(file: Path, out: Path, cure: Cure) -> Changes:
    """Write `file`, cured, to `out`, and `out` with `.log.jsonl` behind it as the log.

    Either is written whole or not at all.  Raises `DataError` where nothing is asked for, where
    `out` is the file itself or of another format, and for a file that cannot be read.
    """
    if not cure.prompts and not cure.interleave:
        raise DataError("nothing to do: choose --prompts terse, --prompts none or --interleave")
    if file.resolve() == out.resolve():
        raise DataError(f"{out} is the file itself; write to another one")
    if file.suffix != out.suffix:
        raise DataError(f"{out} must end in {file.suffix}, like {file}: the format stays as it is")
    log = out.with_name(f"{out.name}.log.jsonl")
    with replacing(log) as log_path, replacing(out) as path, log_path.open("wb") as told:
        changes = Changes(told)
        (_fix_parquet if file.suffix == ".parquet" else _fix_json)(file, path, cure, changes)
    return changes


def _fix_json(file: Path, path: Path, cure: Cure, changes: Changes) -> None:
    cut = pieces(file)
    lines = bool(cut) and cut[0].kind == "lines"
    before, between, after = (b"", b"\n", b"\n") if lines else (b"[\n", b",\n", b"\n]\n")
    encode = msgspec.json.encode
    raw = (bytes(record) for piece in tqdm(cut, leave=False) for record in raw_records(piece))
    cured = (_cured_bytes(record, cure, changes) for record in raw)
    if cure.interleave:
        held = list(cured)
        # Decoded one group at a time: all records as objects would take several times the file.
        for places in _groups((_decoded(record) for record in held), cure):
            found = _interleaved([msgspec.json.decode(held[n]) for n in places], cure, changes)
            for place, row in zip(places, found, strict=True):
                held[place] = b"" if row is None else encode(row)
        cured = (record for record in held if record)
    with path.open("wb") as target:
        target.write(before)
        for number, record in enumerate(cured):
            target.write((between if number else b"") + record)
        target.write(after)


def _decoded(record: bytes) -> Any:
    try:
        return msgspec.json.decode(record)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _cured_bytes(record: bytes, cure: Cure, changes: Changes) -> bytes:
    changes.records += bool(record)
    found = _decoded(record)
    return msgspec.json.encode(found) if _cured(found, cure, changes) else record


def _cured(record: Any, cure: Cure, changes: Changes) -> bool:
    """Rewrite the prompts of a record in place; tell whether anything changed."""
    found = exchanges(record) if cure.prompts and field_of(record) else None
    if not found:
        return False
    if cure.prompts == "none":
        return _without_prompt(record, found, changes)
    changed = False
    for number, exchange in enumerate(found):
        question, words = exchange.question, len(exchange.answer.split())
        if 0 < words <= SHORT_WORDS and question and not states_form(question):
            gap = "\n" if "value" in exchange.asked else " "
            added = f"{gap}{TERSE_PROMPT}"
            exchange.rewrite(added if not exchange.is_plain else f"{question}{added}")
            changes.note("prompts added", record, turn=number, question=question)
            changed = True
    return changed


def _without_prompt(record: Row, found: list[Exchange], changes: Changes) -> bool:
    """Take the short-answer prompt out of the first question if every answer is full."""
    question = found[0].question
    bare = _SHORT.sub("", question).strip()
    full = all(len(exchange.answer.split()) > SHORT_WORDS for exchange in found)
    if not full or not bare or bare == question or not found[0].is_plain:
        return False
    found[0].rewrite(bare)
    changes.note("prompts removed", record, turn=0, question=question)
    return True


def _groups(records: Iterable[Any], cure: Cure) -> Iterator[list[int]]:
    """Return the places of the records that can be joined: those of one image, in order."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, record in enumerate(records):
        name = field_of(record)
        image = image_of(record) if name else None
        if name is None or image is None or not (found := exchanges(record)):
            continue
        # A system prompt, or a message before the first question, belongs to its conversation.
        whole = name == "texts" or len(record[name]) == 2 * len(found)
        if whole and sum(map(_cost, found)) <= _budget(cure):
            groups[image, name].append(place)
    return iter([places for places in groups.values() if len(places) > 1])


def _budget(cure: Cure) -> int:
    return Rules(context_tokens=cure.context).budget


def _cost(exchange: Exchange) -> int:
    texts = estimate_tokens(exchange.question) + estimate_tokens(exchange.answer)
    return texts + Rules().turn_tokens


def _interleaved(records: list[Row], cure: Cure, changes: Changes) -> list[Row | None]:
    """Return the records of one image as few: their dialogs in the order of the merge.

    The first ones are filled up to the context, the others become `None`.
    """
    image = str(image_of(records[0]))
    turns = [
        (Turn(0, image, str(number), place, exchange.question, None, None, ""), _cost(exchange))
        for number, record in enumerate(records)
        for place, exchange in enumerate(exchanges(record) or [])
    ]
    packed = pack(shuffled_dialogs(turns, seed=Rules().seed), budget=_budget(cure))
    if len(packed) == len(records):
        return list(records)
    found: list[Row | None] = [None] * len(records)
    for number, group in enumerate(packed):
        order = [(int(turn.dialog_id), turn.round) for turn, _ in group]
        own = [records[number], *records]
        found[number] = joined(own, [(record + 1, turn) for record, turn in order])
        ids = [records[record].get("id") for record in dict.fromkeys(r for r, _ in order)]
        changes.note("conversations joined", records[number], image=image, made_of=ids)
    changes.counts["records fewer"] += len(records) - len(packed)
    return found


def _fix_parquet(file: Path, path: Path, cure: Cure, changes: Changes) -> None:
    with reading(file, fix=FIX):
        source = pq.ParquetFile(file)
        schema = source.schema_arrow
        if not any(name in schema.names for name in FIELDS):
            raise DataError(f"{file}: no column of conversations, messages or texts; {FIX}")
        groups = range(source.metadata.num_row_groups)
        tables: Iterable[pa.Table] = (source.read_row_group(number) for number in groups)
        if cure.interleave:
            tables = [source.read()]
        with pq.ParquetWriter(path, schema) as writer:
            for table in tables:
                writer.write_table(_cured_table(table, cure, changes))


def _cured_table(table: pa.Table, cure: Cure, changes: Changes) -> pa.Table:
    """Return a table whose turns are cured; columns without turns are those of the rows kept."""
    names = [name for name in (*FIELDS, "sources") if name in table.column_names]
    looked_at = [*names, *(n for n in ("id", "image", "images") if n in table.column_names)]
    rows: list[Row | None] = [*_text_columns(table.select(looked_at)).to_pylist()]
    changes.records += len(rows)
    changed = [_cured(row, cure, changes) for row in rows]
    if cure.interleave:
        for places in _groups(rows, cure):
            found = _interleaved([rows[n] or {} for n in places], cure, changes)
            for place, row in zip(places, found, strict=True):
                rows[place], changed[place] = row, True
    if not any(changed):
        return table
    kept = [place for place, row in enumerate(rows) if row is not None]
    result = table if len(kept) == len(rows) else table.take(kept)
    for name in names:
        at = table.column_names.index(name)
        values = pa.array(
            [row[name] for row in rows if row is not None], table.schema.field(at).type
        )
        result = result.set_column(at, table.schema.field(at), values)
    return result


def _text_columns(table: pa.Table) -> pa.Table:
    """Return a table without the bytes of its images, which would be copied for nothing."""
    for name in ("image", "images"):
        if name not in table.column_names:
            continue
        kind = table.schema.field(name).type
        inner = kind.value_type if pa.types.is_list(kind) else kind
        if pa.types.is_struct(inner) and inner.get_field_index("bytes") >= 0:
            kept = pa.struct([f for f in inner if f.name != "bytes"])
            to = pa.list_(kept) if pa.types.is_list(kind) else kept
            at = table.column_names.index(name)
            table = table.set_column(at, name, table[name].cast(to))
    return table
