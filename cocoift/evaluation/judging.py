"""Judging: who scores a run's answers, what that costs, and the table of verdicts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.reference_judge import Claims, Verdict, reference_verdict

if TYPE_CHECKING:
    from cocoift.evaluation.rollout import Run

BILL_COLUMNS = ("benchmark", "model", "protocol", "calls", "tokens", "cost")


@dataclass(frozen=True)
class ToJudge:
    """Answers that will be judged: `times` to each of these questions, under one protocol.

    `kind` is the format of the benchmark.
    """

    kind: str
    questions: Sequence[Question]
    protocol: str
    times: int


class Judge:
    """Scores answers; `label` names it in tables.  Judging is free unless a subclass bills it."""

    label: str

    def verdicts(
        self, kind: str, questions: Sequence[Question], answers: Sequence[str], protocol: str
    ) -> list[list[Verdict]]:
        """Return the verdicts of every answer, in order: several where it is judged repeatedly.

        `kind` is the format of the benchmark, `protocol` the one it was answered under.
        """
        raise NotImplementedError

    def can_score(self, question: Question) -> bool:
        """Tell whether an answer to a question can get a score, whatever it says."""
        return bool(question.answer)

    def bill(self, runs: Sequence["Run"]) -> pd.DataFrame:
        """Return what judging each run will take at most, in `BILL_COLUMNS`; no rows: nothing."""
        return pd.DataFrame(columns=list(BILL_COLUMNS))

    def whole_cost(self, asked: Iterable[ToJudge]) -> tuple[int, float]:
        """Estimate the calls and the cost of judging all this, before anything is answered."""
        return 0, 0.0


class OfflineJudge(Judge):
    """The reference judge; `claims(image, answer)` counts right and wrong statements."""

    label = "reference"

    def __init__(self, claims: Callable[[str, str], Claims | None] | None = None):
        self.claims = claims

    def verdicts(
        self, kind: str, questions: Sequence[Question], answers: Sequence[str], protocol: str
    ) -> list[list[Verdict]]:
        """Return one verdict per answer."""
        found = []
        for question, answer in zip(questions, answers, strict=True):
            # With several images, no statement can be assigned to one of them.
            claims = None
            if self.claims is not None and len(question.images) == 1:
                claims = self.claims(question.images[0], answer)
            found.append([reference_verdict(question, answer, claims=claims)])
        return found

    def can_score(self, question: Question) -> bool:
        """Tell whether the right answer itself gets a score."""
        return reference_verdict(question, question.answer).score is not None


def verdict_table(runs: Sequence["Run"], judge: Judge) -> pd.DataFrame:
    """Judge every answer; return one row per answer and judge repeat.

    Columns: benchmark, model, seed, protocol, question_id, image, wording, closed
    (`Question.is_closed`), question, opening_reply, answer, words, score, reason, repeat.  Dialogs
    that failed have no score and say why.
    """
    rows = []
    for run in runs:
        by_id = {question.id: question for question in run.benchmark.questions}
        questions, answers = run.answered()
        verdicts = judge.verdicts(run.benchmark.kind, questions, answers, run.protocol)
        judged = dict(zip((question.id for question in questions), verdicts, strict=True))
        names = {"benchmark": run.benchmark.name, "model": run.model, "seed": run.seed}
        for rollout in run.rollouts:
            question, answer = by_id[rollout.question_id], rollout.answer
            opened = len(rollout.rounds) > 1 and not rollout.failure
            rows += [
                {
                    **names,
                    "protocol": run.protocol,
                    "question_id": rollout.question_id,
                    "image": question.images[0],
                    "wording": question.wording,
                    "closed": question.is_closed,
                    "question": question.text,
                    "opening_reply": rollout.rounds[-2].answer if opened else "",
                    "answer": answer,
                    "words": None if answer is None else len(answer.split()),
                    "score": verdict.score,
                    "reason": verdict.reason,
                    "repeat": verdict.repeat,
                }
                for verdict in judged.get(rollout.question_id, [Verdict(None, rollout.failure)])
            ]
    table = pd.DataFrame(rows)
    return table.astype({"score": float}) if rows else table  # also where none has a score
