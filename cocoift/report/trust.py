"""Can the judge be trusted?  Its scores beside those given by hand, and beside GPT-4's."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal

import msgspec
import pandas as pd

from cocoift.evaluation.benchmarks import (
    Benchmark,
    GradedAnswers,
    Question,
    read_mm_vet_grades,
)
from cocoift.evaluation.judging import Judge
from cocoift.evaluation.protocols import ALONE
from cocoift.evaluation.score import agreement
from cocoift.sources.base import decode

_PARTS = {
    "model": "answers of models",
    "collapsed": "answers of models of three words or fewer",
    "misleading": "answers written to mislead",
}


class _Graded(msgspec.Struct):
    part: Literal["model", "collapsed", "misleading"]
    question: str
    answer: str
    reply: str
    score: float
    image: str = ""
    kind: str = ""


def graded_by_hand(path: Path) -> tuple[list[_Graded], list[Question]]:
    """Return the hand-graded answers of a file, and the question of each.

    Raises `DataError` when it is damaged.
    """
    rows = decode(path, list[_Graded])
    return rows, [
        Question(id=str(number), images=(row.image,), text=row.question, answer=row.answer)
        for number, row in enumerate(rows)
    ]


def trust_table(path: Path, benchmark: Benchmark, judge: Judge) -> pd.DataFrame:
    """Return each hand-graded answer with its grade and the judge's scores.

    Columns: part, kind, question, answer, hand, judge (mean over repeats), spread (their
    deviation).  Raises `DataError` when the file is damaged.
    """
    rows, questions = graded_by_hand(path)
    verdicts = judge.verdicts(benchmark.kind, questions, [row.reply for row in rows], ALONE)
    scores = [pd.Series([v.score for v in repeats], dtype=float) for repeats in verdicts]
    return pd.DataFrame(
        {
            "part": [row.part for row in rows],
            "kind": [row.kind for row in rows],
            "question": [row.question for row in rows],
            "answer": [row.reply for row in rows],
            "hand": [row.score for row in rows],
            "judge": [series.mean() for series in scores],
            "spread": [series.std(ddof=0) for series in scores],
        }
    )


def trust_sentence(trust: pd.DataFrame) -> str:
    """Say how the judge agrees with hand-given scores, for each part of the answers."""
    parts = []
    for part, rows in trust.groupby("part", sort=False):
        found = agreement(rows["judge"], rows["hand"])
        ranks = found["rank_correlation"]
        ranked = f"rank correlation {ranks:.2f}" if pd.notna(ranks) else "all scores the same"
        parts.append(
            f"over {len(rows)} {_PARTS[part]}, {ranked} and "
            f"mean absolute error {found['mean_absolute_error']:.2f}"
        )
    text = "; ".join(parts)
    return (
        f"{text[:1].upper()}{text[1:]}. Deviation between repeats {trust['spread'].mean():.2f}. "
        "Where judge and hand are 0.3 or more apart:"
    )


def grades_table(
    graded: Sequence[GradedAnswers], benchmarks: Sequence[Benchmark], judge: Judge, *, raw: Path
) -> pd.DataFrame:
    """Return how the judge agrees with GPT-4 on answers that it graded for MM-Vet.

    Columns: answers (the file), n, unscored, rank correlation, mean absolute error, and how much
    more than GPT-4 the judge gives to answers of the shorter half and of the longer one.  Empty
    without MM-Vet.
    """
    rows = []
    mm_vet = [b for b in benchmarks if b.kind == "mm_vet" and not b.of_dialogs]
    for files, asked in product(graded, mm_vet[:1]):
        replies = decode(raw / files.answers, dict[str, str])
        grades = read_mm_vet_grades(raw / files.grades)
        questions = [q for q in asked.questions if q.id in replies and grades.get(q.id)]
        answers = [replies[question.id] for question in questions]
        found = judge.verdicts(asked.kind, questions, answers, ALONE)
        scores = [pd.Series([v.score for v in repeats], dtype=float).mean() for repeats in found]
        means = [sum(grades[q.id]) / len(grades[q.id]) for q in questions]
        words = [len(answer.split()) for answer in answers]
        table = pd.DataFrame({"ours": scores, "gpt4": means, "words": words}, dtype=float)
        scored = table.dropna()
        short = scored.words <= scored.words.median()
        more = scored.ours - scored.gpt4
        ranks, error = reversed(agreement(scored.ours, scored.gpt4).values())
        halves = more[short].mean(), more[~short].mean()
        rows.append((files.answers, len(scored), len(table) - len(scored), ranks, error, *halves))
    columns = ["answers", "n", "unscored", "rank correlation", "mean absolute error"]
    return pd.DataFrame(rows, columns=[*columns, "more on short", "more on long"])
