"""Answers of any origin in one table: rollouts, LLaVA-format datasets, answer files.

Columns: model, seed, protocol, round (from 1), last (the question that was evaluated), question_id,
image, question, answer, words, free (the question states no form of answer).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cocoift.benchmarks import Question
from cocoift.files import DataError
from cocoift.prompts import has_format_prompt, tidy
from cocoift.records import IMAGE_MARKER, Message
from cocoift.rollout import read_log

COLUMNS = ("model", "seed", "protocol", "round", "last", "question_id", "image", "question",
           "answer", "words", "free")  # fmt: skip


class _Conversation(msgspec.Struct):
    """A record of any LLaVA-format dataset: ours, LLaVA's own (some without a picture)."""

    id: str | int
    conversations: list[Message]
    image: str = ""


class _Answer(msgspec.Struct):
    question_id: int | str
    text: str
    prompt: str = ""
    model_id: str = ""


def answer_table(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return a table of answers from rows of `COLUMNS` up to `answer`; counts their words."""
    table = pd.DataFrame(rows, columns=list(COLUMNS[:-2]))
    free = {text: not has_format_prompt(text) for text in set(table.question)}
    return table.assign(words=table.answer.str.split().str.len(), free=table.question.map(free))


def rollout_answers(files: Iterable[Path]) -> pd.DataFrame:
    """Return every answered round of rollout files; reference replies are not answers.

    Opening rounds of one picture are asked once and stand in every dialog on it: they count once.
    Raises `DataError` for a damaged file.
    """
    return answer_table(row for file in files for row in _rollout_rows(file))


def _rollout_rows(file: Path) -> Iterator[tuple[Any, ...]]:
    head, rollouts = read_log(file)
    model, _, seed = head.model.rpartition("-")
    opened = set()
    for rollout in rollouts:
        total = len(rollout.rounds)
        for number, told in enumerate(rollout.rounds, start=1):
            last = number == total and not rollout.failure
            opening = (rollout.images[0], number)
            if told.by != "model" or (not last and opening in opened):
                continue
            if not last:
                opened.add(opening)
            yield (model, seed, head.protocol, number, last, rollout.question_id,
                   rollout.images[0], told.question, told.answer)  # fmt: skip


def dataset_answers(path: Path, *, name: str, rounds: int = 50_000) -> pd.DataFrame:
    """Return about `rounds` answers of a LLaVA-format dataset (JSON or our Parquet twin).

    Whole records are taken, evenly spread over the file.  `protocol` is `training`.  Raises
    `DataError` for a file that is missing, damaged, or holds a record whose sides do not alternate.
    """
    records = _sampled(path, rounds)
    return answer_table(
        (name, "", "training", number, False, str(record.id), record.image, tidy(ask), told)
        for record in records
        for number, (ask, told) in enumerate(_pairs(record, path), start=1)
    )


def _sampled(path: Path, rounds: int) -> list[_Conversation]:
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=["id", "image", "conversations"])
            sizes = pc.list_value_length(table["conversations"]).to_pylist()
            chosen = table.take(list(range(len(table)))[:: max(1, sum(sizes) // 2 // rounds)])
            return [msgspec.convert(row, _Conversation) for row in chosen.to_pylist()]
        found = msgspec.json.decode(path.read_bytes(), type=list[_Conversation])
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{path}: {error}; name a dataset in LLaVA's format") from error
    total = sum(len(record.conversations) // 2 for record in found)
    return found[:: max(1, total // rounds)]


def _pairs(record: _Conversation, path: Path) -> Iterator[tuple[str, str]]:
    messages = record.conversations
    if [m.speaker for m in messages] != ["human", "gpt"] * (len(messages) // 2):
        raise DataError(f"{path}, record {record.id}: human and gpt do not alternate")
    for human, gpt in zip(messages[::2], messages[1::2], strict=True):
        yield human.value.replace(IMAGE_MARKER, ""), gpt.value


def file_answers(
    path: Path, *, model: str = "", protocol: str = "single_round", questions: Sequence[Question]
) -> pd.DataFrame:
    """Return the answers of a LLaVA answer file (JSON Lines: question_id, text, model_id, prompt).

    `questions` (empty: unknown) tell the pictures and the text of questions where the file does
    not; `model` replaces the file's own name.  Raises `DataError` naming file and line.
    """
    asked: Mapping[str, Question] = {question.id: question for question in questions}
    return answer_table(_file_rows(path, model, protocol, asked))


def _file_rows(
    path: Path, model: str, protocol: str, asked: Mapping[str, Question]
) -> Iterator[tuple[Any, ...]]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name an answer file") from error
    for number, line in enumerate(lines, start=1):
        try:
            row = msgspec.json.decode(line, type=_Answer)
        except (ValueError, msgspec.MsgspecError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        name = str(row.question_id)
        question = asked.get(name)
        image = question.images[0] if question else name
        text = question.text if question else row.prompt
        yield (model or row.model_id or path.stem, "0", protocol, 1, True, name, image, text,
               row.text)  # fmt: skip


def source_answers(turns: Path, *, per_source: int = 2_000) -> pd.DataFrame:
    """Return up to `per_source` answers of every source of the merged set, spread over its turns.

    Columns: source, image (the COCO id), answer.  Raises `DataError` when the set is not there.
    """
    try:
        table = pq.read_table(turns, columns=["source", "image_id", "answer"]).to_pandas()
    except OSError as error:
        raise DataError(f"{turns}: {error}; run notebook 02_merge first") from error
    parts = [
        own.iloc[:: max(1, len(own) // per_source)].head(per_source)
        for _, own in table.groupby("source")
    ]
    found = pd.concat(parts, ignore_index=True).rename(columns={"image_id": "image"})
    return found.assign(image=found.image.astype(str))
