"""Judging: who gives the verdicts of a run, what that costs, and one table of them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cocoift.core.files import DataError
from cocoift.evaluation import endpoint_judge
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.endpoint_judge import JudgeSettings, OpenAiJudge
from cocoift.evaluation.evaluate import Run
from cocoift.evaluation.reference_judge import Claims, ToJudge, Verdict, reference_verdict
from cocoift.evaluation.rollout import Rollout

BILL_COLUMNS = ("benchmark", "model", "protocol", "calls", "tokens", "cost")


class Judge:
    """Gives answers their verdicts; `label` says in tables who it is.  Free unless it says so."""

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

    def bill(self, runs: Sequence[Run]) -> pd.DataFrame:
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
            # With several pictures, no statement can be assigned to one of them.
            claims = None
            if self.claims is not None and len(question.images) == 1:
                claims = self.claims(question.images[0], answer)
            found.append([reference_verdict(question, answer, claims=claims)])
        return found

    def can_score(self, question: Question) -> bool:
        """Tell whether the right answer itself gets a score."""
        return reference_verdict(question, question.answer).score is not None


class EndpointJudge(Judge):
    """A judge behind an endpoint; prompts are below `root`, replies are kept in `cache`."""

    def __init__(self, settings: OpenAiJudge, *, root: Path, cache: Path):
        self.cache, self.limit = cache, settings.max_cost
        self.settings = {
            kind: settings.with_prompt(read_prompt(root / path))
            for kind, path in settings.prompts.items()
        }
        prompts = ", ".join(one.prompt_hash for one in self.settings.values())
        self.label = (
            f"{settings.endpoint.model}, prompt {prompts}, {settings.repeats} repeats, "
            f"temperature {settings.temperature:g}"
        )

    def _under(self, kind: str, protocol: str) -> JudgeSettings:
        if kind not in self.settings:
            raise DataError(f"judge: no prompt for benchmarks of format {kind}")
        return self.settings[kind].under(protocol)

    def verdicts(
        self, kind: str, questions: Sequence[Question], answers: Sequence[str], protocol: str
    ) -> list[list[Verdict]]:
        """Return the verdicts of every answer; raises what `endpoint_judge.judge` does."""
        settings = self._under(kind, protocol)
        return endpoint_judge.judge(settings, questions, answers, cache=self.cache)

    def bill(self, runs: Sequence[Run]) -> pd.DataFrame:
        """Return calls, tokens and cost of each run, at most."""
        rows = []
        for run in runs:
            settings = self._under(run.benchmark.kind, run.protocol)
            due = endpoint_judge.bill(settings, *run.answered(), self.cache)
            names = run.benchmark.name, run.model, run.protocol
            rows.append((*names, due.calls, due.tokens_in + due.tokens_out, due.cost))
        return pd.DataFrame(rows, columns=list(BILL_COLUMNS))

    def whole_cost(self, asked: Iterable[ToJudge]) -> tuple[int, float]:
        """Estimate the calls and the cost of judging all this.

        Answers are taken to be as long as the right ones, at least 100 tokens.  Raises
        `DataError` when that exceeds what the judge may cost, and for a format without a prompt.
        """
        calls, cost = 0, 0.0
        for one in asked:
            judge = self._under(one.kind, one.protocol)
            times = one.times * judge.repeats
            calls += times * sum(bool(question.answer) for question in one.questions)
            cost += times * endpoint_judge.cost_of_a_run(judge, one.questions)
        if cost > self.limit:
            raise DataError(
                f"judging the whole run takes about {calls:,} calls for {cost:.0f}, max_cost is "
                f"{self.limit:.0f}; raise it, or lower judge.repeats, or ask fewer models, "
                "protocols or ablations"
            )
        return calls, cost


def read_prompt(path: Path) -> str:
    """Return a judge's prompt; raises `DataError` when the file is missing or empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"judge prompt {path}: {error}; name a text file") from error
    if not text.strip():
        raise DataError(f"judge prompt {path} is empty")
    return text


def verdict_table(runs: Sequence[Run], judge: Judge) -> pd.DataFrame:
    """Judge every answer; return one row per answer and judge repeat.

    Columns: benchmark, model, seed, protocol, question_id, image, wording, question,
    opening_reply, answer, words, score, reason, repeat.  Dialogs that failed have no score and
    say why.
    """
    rows = []
    for run in runs:
        by_id = {question.id: question for question in run.benchmark.questions}
        questions, answers = run.answered()
        verdicts = judge.verdicts(run.benchmark.kind, questions, answers, run.protocol)
        judged = dict(zip((question.id for question in questions), verdicts, strict=True))
        for one in run.rollouts:
            for verdict in judged.get(one.question_id, [Verdict(None, one.failure)]):
                rows.append(_row(run, one, by_id[one.question_id], verdict))
    table = pd.DataFrame(rows)
    return table.astype({"score": float}) if rows else table  # also where none has a score


def _row(run: Run, one: Rollout, question: Question, verdict: Verdict) -> dict[str, Any]:
    opening = one.rounds[-2].answer if len(one.rounds) > 1 and not one.failure else ""
    return {
        "benchmark": run.benchmark.name,
        "model": run.model,
        "seed": run.seed,
        "protocol": run.protocol,
        "question_id": one.question_id,
        "image": question.images[0],
        "wording": question.wording,
        "question": question.text,
        "opening_reply": opening,
        "answer": one.answer,
        "words": None if one.answer is None else len(one.answer.split()),
        "score": verdict.score,
        "reason": verdict.reason,
        "repeat": verdict.repeat,
    }
