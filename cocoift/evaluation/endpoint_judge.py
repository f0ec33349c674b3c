"""A judge behind an OpenAI-compatible endpoint: asked once, paid once, remembered.

Replies are kept in an SQLite file under a digest of everything that determines them, so a run
that is stopped, or repeated with more questions, requests only what is missing.
"""

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, digest
from cocoift.core.schema import Settings
from cocoift.core.text import estimate_tokens
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.endpoint import Endpoint, Streak, complete
from cocoift.evaluation.judging import BILL_COLUMNS, Judge, ToJudge
from cocoift.evaluation.protocols import AFTER, ALONE, Failure
from cocoift.evaluation.reference_judge import NO_ANSWER, Verdict

if TYPE_CHECKING:
    from openai import OpenAI

    from cocoift.evaluation.rollout import Run

_GRADE = re.compile(r"(?:grade|score)?\s*[:=]?\s*(-?\d+(?:\.\d+)?)\s*\.?", re.IGNORECASE)
_REPLY_TOKENS = 16


class OpenAiJudge(Settings, frozen=True, kw_only=True, tag_field="kind", tag="openai"):
    """A preset's judge behind an endpoint: `prompts` names a text file per benchmark format.

    `repeats` is how often an answer is judged under the protocols of the headline; under others it
    is judged once.  `attempts` bounds how often an unusable reply is requested again.  `prices`
    are per million tokens, in and out; `max_cost` is the most that all replies may cost together,
    empty ones and those of earlier runs included.
    """

    endpoint: Endpoint
    prompts: dict[str, str]
    temperature: float = 0.0
    repeats: int = 1
    attempts: int = 3
    prices: tuple[float, float] = (0.0, 0.0)
    max_cost: float = 10.0


def grade(reply: str) -> float | None:
    """Return the grade a reply states, `None` unless it is one number from 0 to 1.

    `"0.7"`, `"Grade: 0.7"` and `"1."` are grades; `"1.5"`, `"7/10"`, `"I cannot"` and
    `"between 0.2 and 0.4"` are not.
    """
    match = _GRADE.fullmatch(reply.strip().strip("*|`\"' "))
    value = float(match[1]) if match else -1.0
    return value if 0.0 <= value <= 1.0 else None


def prompt_text(prompt: str, question: Question, answer: str) -> str:
    """Return a judge's prompt with question, ground truth, steps and answer filled in.

    The places are `{question}`, `{ground_truth}`, `{steps}` and `{answer}`; a file that has none
    of them, such as MM-Vet's official prompt, is continued with one row of its table.
    """
    values = {
        "question": question.text,
        "ground_truth": question.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> "),
        "steps": " ".join(f"({n}) {step}" for n, step in enumerate(question.steps, start=1)),
        "answer": answer,
    }
    if not any(f"{{{name}}}" in prompt for name in values):
        row = " | ".join(values[name] for name in ("question", "ground_truth", "answer"))
        return f"{prompt.rstrip()}\n{row} |"
    return re.sub(r"\{(question|ground_truth|steps|answer)\}", lambda m: values[m[1]], prompt)


class ReplyCache:
    """Replies by digest, in SQLite; every reply is on disk before its call counts as made.

    `paid` counts the tokens of all replies, in and out.  Raises `DataError` when the file cannot
    be read or written.
    """

    def __init__(self, path: Path):
        self.path, self.lock = path, threading.Lock()
        with self._naming_the_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # Replies without a text are billed too, but there is nothing to keep of them.
            self.base.executescript(
                "PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS replies "
                "(key TEXT PRIMARY KEY, reply TEXT, tokens_in INTEGER, tokens_out INTEGER);"
                "CREATE TABLE IF NOT EXISTS unusable (tokens_in INTEGER, tokens_out INTEGER)"
            )
            (self.paid,) = self.base.execute(
                "SELECT COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM "
                "(SELECT tokens_in, tokens_out FROM replies UNION ALL SELECT * FROM unusable)"
            )
        self.close = self.base.close

    @contextmanager
    def _naming_the_file(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"{self.path}: {error}; fix that and run again, the replies in it are kept"
            ) from error

    def get(self, key: str) -> str | None:
        """Return the reply under a digest, if there is one."""
        with self.lock, self._naming_the_file():
            row = self.base.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def put(self, key: str, reply: str | Failure, tokens: tuple[int, int]) -> None:
        """Keep a reply and the tokens it cost; of one that cannot be used, the tokens alone."""
        with self.lock, self._naming_the_file():
            if isinstance(reply, Failure):
                self.base.execute("INSERT INTO unusable VALUES (?, ?)", tokens)
            else:
                self.base.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?)",
                                  (key, reply, *tokens))  # fmt: skip
            self.paid = (self.paid[0] + tokens[0], self.paid[1] + tokens[1])


class EndpointJudge(Judge):
    """A judge behind an endpoint; prompts are below `root`, replies are kept in `cache`.

    Raises `DataError` for a prompt that is missing or empty.
    """

    def __init__(self, settings: OpenAiJudge, *, root: Path, cache: Path):
        self.settings, self.cache = settings, cache
        self.prompts = {kind: _prompt(root / path) for kind, path in settings.prompts.items()}
        prompts = ", ".join(digest(prompt)[:12] for prompt in self.prompts.values())
        self.label = (
            f"{settings.endpoint.model}, prompt {prompts}, {settings.repeats} repeats, "
            f"temperature {settings.temperature:g}"
        )

    def verdicts(
        self, kind: str, questions: Sequence[Question], answers: Sequence[str], protocol: str
    ) -> list[list[Verdict]]:
        """Return the verdicts of every answer, in order.

        A reply that is no grade, or does not come, is asked for again up to `attempts` times and
        then left unscored with the reason.  Raises `DataError` when the bill, on top of what the
        cache has cost, exceeds `max_cost`: before the first call, or as soon as what was paid
        reaches it; and at ten equal failures in a row.
        """
        calls = self._calls(kind, questions, answers, protocol)
        found = [[] if q.answer else [Verdict(None, NO_ANSWER)] for q in questions]
        with closing(ReplyCache(self.cache)) as known:
            due, _, cost = self._due(calls, known)
            spent, limit = self._cost(*known.paid), self.settings.max_cost
            if cost + spent > limit:
                raise DataError(
                    f"judging takes {due:,} calls for about {cost:.2f}, {spent:.2f} are spent, "
                    f"max_cost is {limit:.2f}; raise it or judge fewer answers"
                )
            endpoint = self.settings.endpoint
            ask = partial(self._verdict, known, endpoint.client(), Streak(endpoint))
            with ThreadPoolExecutor(endpoint.concurrency) as threads:
                waiting = {threads.submit(ask, *call): places for call, places in calls.items()}
                try:
                    for done in tqdm(as_completed(waiting), total=len(waiting), desc="judging",
                                     unit=" answers", leave=False):  # fmt: skip
                        for place in waiting[done]:
                            found[place].append(done.result())
                finally:
                    threads.shutdown(cancel_futures=True)
        return [sorted(verdicts, key=lambda verdict: verdict.repeat) for verdicts in found]

    def bill(self, runs: Sequence["Run"]) -> pd.DataFrame:
        """Return calls, tokens and cost of each run, at most: if every first reply can be used."""
        rows = []
        with closing(ReplyCache(self.cache)) as known:
            for run in runs:
                calls = self._calls(run.benchmark.kind, *run.answered(), run.protocol)
                due = self._due(calls, known)
                rows.append((run.benchmark.name, run.model, run.protocol, *due))
        return pd.DataFrame(rows, columns=list(BILL_COLUMNS))

    def whole_cost(self, asked: Iterable[ToJudge]) -> tuple[int, float]:
        """Estimate the calls and the cost of judging all this.

        Answers are taken to be as long as the right ones, at least 100 tokens.  Raises
        `DataError` when that exceeds what the judge may cost, and for a format without a prompt.
        """
        calls, cost, limit = 0, 0.0, self.settings.max_cost
        for batch in asked:
            prompt, repeats = self._terms(batch.kind, batch.protocol)
            judged = [question for question in batch.questions if question.answer]
            tokens = sum(
                estimate_tokens(prompt_text(prompt, question, ""))
                + max(100, estimate_tokens(question.answer))
                for question in judged
            )
            calls += batch.times * repeats * len(judged)
            cost += batch.times * repeats * self._cost(tokens, _REPLY_TOKENS * len(judged))
        if cost > limit:
            raise DataError(
                f"judging the whole run takes about {calls:,} calls for {cost:.0f}, max_cost is "
                f"{limit:.0f}; raise it, or lower judge.repeats, or ask fewer models, protocols or "
                "ablations"
            )
        return calls, cost

    def _terms(self, kind: str, protocol: str) -> tuple[str, int]:
        """Return the prompt for a benchmark's format, and how often an answer is judged."""
        if kind not in self.prompts:
            raise DataError(f"judge: no prompt for benchmarks of format {kind}")
        return self.prompts[kind], self.settings.repeats if protocol in (ALONE, AFTER) else 1

    def _calls(
        self, kind: str, questions: Sequence[Question], answers: Sequence[str], protocol: str
    ) -> dict[tuple[str, int], list[int]]:
        """Return the calls to make, text and repeat, each with the places of its answers.

        Equal texts are asked once per repeat, whoever gave the answer.
        """
        prompt, repeats = self._terms(kind, protocol)
        calls: dict[tuple[str, int], list[int]] = {}
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True)):
            if question.answer:
                for repeat in range(repeats):
                    text = prompt_text(prompt, question, answer)
                    calls.setdefault((text, repeat), []).append(place)
        return calls

    def _due(self, calls: Iterable[tuple[str, int]], known: ReplyCache) -> tuple[int, int, float]:
        """Return how many calls are not in the cache, their tokens and their cost."""
        missing = [text for text, repeat in calls if known.get(self._key(text, repeat, 0)) is None]
        tokens_in, tokens_out = sum(map(estimate_tokens, missing)), _REPLY_TOKENS * len(missing)
        return len(missing), tokens_in + tokens_out, self._cost(tokens_in, tokens_out)

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        price_in, price_out = self.settings.prices
        return (tokens_in * price_in + tokens_out * price_out) / 1e6

    def _key(self, text: str, repeat: int, attempt: int) -> str:
        endpoint, temperature = self.settings.endpoint, self.settings.temperature
        return digest(
            [endpoint.base_url, endpoint.model, text, temperature, _REPLY_TOKENS, repeat, attempt]
        )

    def _verdict(
        self, known: ReplyCache, client: "OpenAI", streak: Streak, text: str, repeat: int
    ) -> Verdict:
        settings, reason = self.settings, ""
        for attempt in range(settings.attempts):
            key = self._key(text, repeat, attempt)
            reply: str | Failure | None = known.get(key)
            if reply is None:
                spent = self._cost(*known.paid)
                if spent and spent >= settings.max_cost:
                    raise DataError(f"stopped: judging has cost {spent:.2f}, max_cost reached")
                reply, *tokens = complete(client, settings.endpoint,
                                          [{"role": "user", "content": text}],
                                          new_tokens=_REPLY_TOKENS,
                                          temperature=settings.temperature)  # fmt: skip
                if isinstance(reply, str) and not any(tokens):  # the server does not count them
                    tokens = [estimate_tokens(text), estimate_tokens(reply)]
                known.put(key, reply, (tokens[0], tokens[1]))
                streak.add(reply)
            if isinstance(reply, Failure):
                reason = reply.reason
            elif (value := grade(reply)) is not None:
                return Verdict(value, "", repeat)
            else:
                reason = f"no grade in the reply {reply[:80]!r}"
        return Verdict(None, f"{reason} ({settings.attempts} attempts)", repeat)


def _prompt(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"judge prompt {path}: {error}; name a text file") from error
    if not text.strip():
        raise DataError(f"judge prompt {path} is empty")
    return text
