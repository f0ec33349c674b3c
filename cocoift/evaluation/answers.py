"""Answers of any origin in one table: rollouts, LLaVA-format datasets, answer files.

Columns: model, seed, protocol, round (from 1), last (the question that was evaluated), question_id,
image, question, answer, words, free (the question states no answer format; of a benchmark's
questions, see `without_closed`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow.compute as pc

from cocoift.core.files import DataError
from cocoift.core.schema import KEPT_SCHEMA, Settings
from cocoift.core.spread import places
from cocoift.core.tables import read_table, reading
from cocoift.core.text import has_format_prompt, tidy
from cocoift.evaluation.benchmarks import Format, Question
from cocoift.evaluation.rollout import read_log
from cocoift.sources.base import decode_lines
from cocoift.sources.dialogs import LlavaRecord, left_out, llava_records, rounds

COLUMNS = ("model", "seed", "protocol", "round", "last", "question_id", "image", "question",
           "answer", "words", "free")  # fmt: skip


class AnswerFile(Settings, frozen=True):
    """A LLaVA answer file below `raw_dir`; `questions` and `format` name the benchmark behind it.

    Without these two nothing is known of the images.  `model` replaces the name in the file.
    """

    file: str
    model: str = ""
    questions: str | None = None
    format: Format | None = None

    def __post_init__(self) -> None:
        """Refuse questions without their format, and a format without questions."""
        if (self.questions is None) != (self.format is None):
            raise ValueError(f"{self.file}: name both `questions` and `format`, or neither")


class LoggedAnswers(Settings, frozen=True):
    """Another harness's log of one model under one protocol, as a preset names it.

    `file` is below `raw_dir`: lmms-eval's `*_samples_cocoift_*.jsonl` (`--log_samples`), or
    VLMEvalKit's predictions as TSV (`PRED_FORMAT=tsv`).
    """

    name: str
    benchmark: str
    protocol: str
    file: str


class _Answer(msgspec.Struct):
    question_id: int | str
    text: str
    prompt: str = ""
    model_id: str = ""


def answer_table(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return a table of answers from rows of `COLUMNS` up to `answer`; counts their words.

    An answer whose question is not known (empty) is not free.
    """
    table = pd.DataFrame(rows, columns=list(COLUMNS[:-2]))
    free = {text: bool(text) and not has_format_prompt(text) for text in set(table.question)}
    table = table.assign(words=table.answer.str.split().str.len(), free=table.question.map(free))
    return table.astype({"last": bool, "words": int, "free": bool})  # also without any row


def without_closed(answers: pd.DataFrame, questions: Iterable[Question]) -> pd.DataFrame:
    """Return answers to a benchmark of which those to closed questions are not free.

    A short answer to them is a right one (`Question.is_closed`).  LLaVA's files number MM-Vet's
    question `v1_3` as 3.
    """
    closed = {question.id for question in questions if question.is_closed}
    names = closed | {name.removeprefix("v1_") for name in closed}
    return answers.assign(free=answers.free & ~(answers["last"] & answers.question_id.isin(names)))


def rollout_answers(files: Iterable[Path]) -> pd.DataFrame:
    """Return every answered round of rollout files; reference replies are not answers.

    Opening rounds are asked once per set of images and repeated in every dialog on it: they count
    once.  Raises `DataError` for a damaged file.
    """
    return answer_table(row for file in files for row in _rollout_rows(file))


def _rollout_rows(file: Path) -> Iterator[tuple[Any, ...]]:
    head, rollouts = read_log(file)
    model, _, seed = head.model.rpartition("-")
    opened = set()
    for rollout in rollouts:
        total = len(rollout.rounds)
        for number, round_ in enumerate(rollout.rounds, start=1):
            last = number == total and not rollout.failure
            asked = (turn.question for turn in rollout.rounds[:number])
            opening = (*rollout.images, *asked)
            if round_.by != "model" or (not last and opening in opened):
                continue
            if not last:
                opened.add(opening)
            yield (model, seed, head.protocol, number, last, rollout.question_id,
                   rollout.images[0], round_.question, round_.answer)  # fmt: skip


def dataset_answers(path: Path, *, name: str, wanted: int = 50_000) -> tuple[pd.DataFrame, str]:
    """Return about `wanted` answers of a LLaVA-format dataset, and what is left out of it.

    The dataset is JSON or our Parquet twin; `dialogs.left_out` words what is left out.  Whole
    records are taken, evenly spread over the file.  `protocol` is `training`.  Raises `DataError`
    for a file that is missing or damaged, or of whose conversations none can be read.
    """
    records, rows = _sampled(path, wanted), []
    odd, first = 0, None
    for record in records:
        pairs = rounds(record.conversations)
        if pairs is None:
            odd, first = odd + 1, first or record
            continue
        key = str(record.id)
        image = record.images[0] if record.images else _no_picture(path, key)
        rows += [(name, "", "training", number, False, key, image, tidy(pair.question), pair.answer)
                 for number, pair in enumerate(pairs, start=1)]  # fmt: skip
    return answer_table(rows), left_out(path, first, odd=odd, total=len(records))


def _no_picture(path: Path, name: str) -> str:
    """Return what stands for the image of a record or question whose image is not known.

    No image has such a name, and two questions have two.
    """
    return f"{path.name}: {name!r}"


def _sampled(path: Path, wanted: int) -> list[LlavaRecord]:
    if path.suffix != ".parquet":
        found = list(llava_records(path))
        chosen = _places([len(record.conversations) for record in found], wanted)
        return [found[place] for place in chosen]
    fix = "name a dataset in LLaVA's format"
    table = read_table(path, columns=["id", "image", "conversations"], fix=fix)
    with reading(path, fix=fix):
        sizes = pc.list_value_length(table["conversations"]).fill_null(0).to_pylist()
        chosen = table.take(_places(sizes, wanted))
        return msgspec.convert(chosen.to_pylist(), list[LlavaRecord])


def _places(messages: Sequence[int], wanted: int) -> list[int]:
    """Return the places of the records to take, of those with so many messages each."""
    rounds = max(1, sum(messages) // 2)
    return places(len(messages), -(-len(messages) * wanted // rounds))


def file_answers(
    path: Path, *, model: str = "", protocol: str = "single_round", questions: Sequence[Question]
) -> tuple[pd.DataFrame, str]:
    """Return the answers of a LLaVA answer file (JSON Lines: question_id, text, model_id, prompt).

    The text says what is not known of them.  `questions` (empty: unknown) give images and text;
    LLaVA's files number MM-Vet's question `v1_3` as 3.  `model` replaces the file's own name.
    Raises `DataError` naming file and line, and for a file that answers none of the questions.
    """
    asked: Mapping[str, Question] = {question.id: question for question in questions}
    rows: list[tuple[Any, ...]] = []
    strange: list[str] = []
    for row in decode_lines(path, _Answer):
        name = str(row.question_id)
        question = asked.get(name) or asked.get(f"v1_{name}")
        if question is None:
            strange.append(name)
        image = question.images[0] if question else _no_picture(path, name)
        text = question.text if question else row.prompt
        rows.append((model or row.model_id or path.stem, "0", protocol, 1, True, name, image, text,
                     row.text))  # fmt: skip
    if asked and rows and len(strange) == len(rows):
        raise DataError(
            f"{path}: {strange[0]!r} and the other {len(rows) - 1:,} answers are to none of the "
            f"{len(asked):,} questions; name the questions that were asked"
        )
    table = answer_table(rows)
    counts = {
        "are to questions that are not listed": len(strange) if asked else 0,
        "come without their question, and do not count as collapsed": (table.question == "").sum(),
    }
    unknown = "; ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return table, f"{path.name}: of {len(rows):,} answers, {unknown}" if unknown else ""


def source_answers(turns: Path, *, per_source: int = 2_000) -> pd.DataFrame:
    """Return up to `per_source` answers of every source of the merged set, spread over its turns.

    Columns: source, image (the COCO id), answer.  Raises `DataError` when the set is not there.
    """
    table = read_table(turns, KEPT_SCHEMA, columns=["source", "image_id", "answer"]).to_pandas()
    parts = [rows.iloc[places(len(rows), per_source)] for _, rows in table.groupby("source")]
    found = pd.concat(parts, ignore_index=True).rename(columns={"image_id": "image"})
    return found.assign(image=found.image.astype(str))
