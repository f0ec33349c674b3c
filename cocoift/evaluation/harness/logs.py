"""Answers that lmms-eval or VLMEvalKit logged, as rollouts of this study."""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pandas as pd

from cocoift.core.files import DataError, digest, sha256, write_bytes
from cocoift.evaluation.answers import LoggedAnswers
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import Head, Rollout, Round, Run
from cocoift.sources.base import decode_lines

# What VLMEvalKit writes where a model gave no answer (`vlmeval/smp/misc.py`).
_FAILED = "Failed to obtain answer"
_EMPTY = "empty reply"
# What `ast.literal_eval` raises beside `ValueError`.
_NO_LITERAL = (SyntaxError, TypeError, MemoryError, RecursionError)


# What VLMEvalKit puts before the first of several questions.
_PICTURE = "<ImageHere>"


class _Asked(msgspec.Struct):
    question: str
    answer: str


class _Dialog(msgspec.Struct):
    question_id: str
    rounds: list[_Asked]


class _Sample(msgspec.Struct):
    collapse: _Dialog


def logged_run(
    logged: LoggedAnswers, benchmark: Benchmark, protocol: Protocol, *, raw: Path, folder: Path
) -> Run:
    """Return a log's dialogs as a run, and write them as a rollout file below `folder`.

    Questions missing from the log, and dialogs with an empty reply, count as failed.  Raises
    `DataError` naming file and question for a damaged log, for a question that is not in the
    benchmark, and for one whose rounds differ from the protocol's.
    """
    path = raw / logged.file
    answered = dict(_lmms_eval(path) if path.suffix == ".jsonl" else _vlmevalkit(path))
    known = {question.id: question for question in benchmark.questions}
    rollouts = []
    for name in answered.keys() - known.keys():
        raise DataError(f"{path}: question {name!r} is not in benchmark {benchmark.name}")
    for name, question in known.items():
        texts = [*protocol.before(question), protocol.asks(question)]
        answers = answered.get(name)
        if answers is None:
            rollouts.append(Rollout(name, list(question.images), [], "not in the log"))
            continue
        if [text for text, _ in answers] != texts:
            raise DataError(
                f"{path}: question {name!r} was not asked as protocol {protocol.name} does; "
                "write the tasks again (`cocoift tasks`) and repeat the run"
            )
        image = question.images[0] if question.images else ""
        by = [
            "model" if protocol.given(place, image) is None else "reference"
            for place in range(len(texts) - 1)
        ]
        rounds = [
            Round(text, answer, who)
            for (text, answer), who in zip(answers, [*by, "model"], strict=True)
        ]
        replies = [answer.strip() or _EMPTY for _, answer in answers]
        failed = next((reply for reply in replies if reply.startswith((_FAILED, _EMPTY))), "")
        rollouts.append(Rollout(name, list(question.images), rounds, failed))
    file = folder / benchmark.name / f"{logged.name}-0-{protocol.name}.jsonl"
    head = Head(digest([sha256(path), benchmark.digest]), f"{logged.name}-0", protocol.name)
    write_bytes(file, b"".join(msgspec.json.encode(row) + b"\n" for row in (head, *rollouts)))
    return Run(benchmark, logged.name, 0, protocol.name, rollouts, file)


def _lmms_eval(path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for row in decode_lines(path, _Sample):
        dialog = row.collapse
        yield dialog.question_id, [(turn.question, turn.answer) for turn in dialog.rounds]


def _vlmevalkit(path: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        rows = table[["index", "question", "prediction"]].itertuples(index=False)
        for name, question, prediction in rows:
            several = str(question).startswith((f"['{_PICTURE}", f'["{_PICTURE}'))
            texts, answers = (
                ast.literal_eval(text) if several else [text] for text in (question, prediction)
            )
            first, *more = msgspec.convert(texts, list[str])
            asked = [first.removeprefix(_PICTURE), *more]
            replies = map(str, msgspec.convert(answers, list[str | int | float]))
            yield name, list(zip(asked, map(str.strip, replies), strict=True))
    except (OSError, ValueError, KeyError, msgspec.ValidationError, *_NO_LITERAL) as error:
        raise DataError(f"{path}: {error}; name VLMEvalKit's predictions as TSV") from error
