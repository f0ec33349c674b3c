"""A judge behind an OpenAI-compatible endpoint: asked once, paid once, remembered.

Replies are kept in an SQLite file under a digest of everything that determines them, so a run
that is stopped, or repeated with more questions, requests only what is missing.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from msgspec import structs

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, digest
from cocoift.core.schema import Settings
from cocoift.core.text import estimate_tokens
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.endpoint import Endpoint, Streak, complete
from cocoift.evaluation.protocols import AFTER, ALONE, Failure
from cocoift.evaluation.reference_judge import NO_ANSWER, Verdict
from cocoift.evaluation.reply_cache import ReplyCache

_GRADE = re.compile(r"(?:grade|score)?\s*[:=]?\s*(-?\d+(?:\.\d+)?)\s*\.?", re.IGNORECASE)
_REPLY_TOKENS = 16


class JudgeTerms(Settings, frozen=True):
    """Who judges and how often.

    `repeats` is how often an answer is judged under the protocols of the headline; under others it
    is judged once.  `attempts` bounds how often an unusable reply is requested again.  `prices`
    are per million tokens, in and out; `max_cost` is the most that all replies may cost together,
    empty ones and those of earlier runs included.
    """

    endpoint: Endpoint
    temperature: float = 0.0
    repeats: int = 1
    attempts: int = 3
    prices: tuple[float, float] = (0.0, 0.0)
    max_cost: float = 10.0


class OpenAiJudge(JudgeTerms, frozen=True, kw_only=True, tag_field="kind", tag="openai"):
    """A preset's judge behind an endpoint: `prompts` names a text file per benchmark format."""

    prompts: dict[str, str]

    def with_prompt(self, prompt: str) -> "JudgeSettings":
        """Return the settings for benchmarks that are judged with this prompt."""
        terms = {name: getattr(self, name) for name in JudgeTerms.__struct_fields__}
        return JudgeSettings(prompt=prompt, **terms)


class JudgeSettings(JudgeTerms, frozen=True, kw_only=True):
    """How the answers to one benchmark are judged."""

    prompt: str

    def under(self, protocol: str) -> "JudgeSettings":
        """Return the settings for answers under a protocol."""
        return self if protocol in (ALONE, AFTER) else structs.replace(self, repeats=1)

    @property
    def prompt_hash(self) -> str:
        """Twelve digits that stand for the prompt in tables."""
        return digest(self.prompt)[:12]


@dataclass(frozen=True)
class Bill:
    """What judging takes: calls that are not in the cache, their tokens, and their cost."""

    calls: int
    tokens_in: int
    tokens_out: int
    cost: float


@dataclass(frozen=True)
class _Call:
    """One reply wanted: of answer number `place`, in repeat `repeat`."""

    place: int
    repeat: int
    text: str


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


def _key(settings: JudgeSettings, call: _Call, attempt: int) -> str:
    return digest(
        [settings.endpoint.base_url, settings.endpoint.model, call.text, settings.temperature,
         _REPLY_TOKENS, call.repeat, attempt]
    )  # fmt: skip


def _calls(
    settings: JudgeSettings, questions: Sequence[Question], answers: Sequence[str]
) -> list[_Call]:
    """Return the calls to make; equal texts are asked once per repeat, whoever said them."""
    return [
        _Call(place, repeat, prompt_text(settings.prompt, question, answer))
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if question.answer
        for repeat in range(settings.repeats)
    ]


def bill(
    settings: JudgeSettings, questions: Sequence[Question], answers: Sequence[str], cache: Path
) -> Bill:
    """Return what judging these answers will take at most, if every first reply can be used."""
    with closing(ReplyCache(cache)) as known:
        texts = {
            _key(settings, call, 0): call.text for call in _calls(settings, questions, answers)
        }
        missing = [text for key, text in texts.items() if known.get(key) is None]
    tokens_in = sum(map(estimate_tokens, missing))
    tokens_out = _REPLY_TOKENS * len(missing)
    return Bill(len(missing), tokens_in, tokens_out, _cost(settings, tokens_in, tokens_out))


def cost_of_a_run(settings: JudgeSettings, questions: Sequence[Question]) -> float:
    """Estimate what judging one answer to each question costs, once.

    An answer counts as long as the right one, at least 100 tokens.
    """
    judged = [question for question in questions if question.answer]
    texts = [prompt_text(settings.prompt, question, "") for question in judged]
    answers = [max(100, estimate_tokens(question.answer)) for question in judged]
    tokens_in = sum(map(estimate_tokens, texts)) + sum(answers)
    return _cost(settings, tokens_in, _REPLY_TOKENS * len(judged))


def _cost(settings: JudgeSettings, tokens_in: int, tokens_out: int) -> float:
    price_in, price_out = settings.prices
    return (tokens_in * price_in + tokens_out * price_out) / 1e6


def judge(
    settings: JudgeSettings, questions: Sequence[Question], answers: Sequence[str], *, cache: Path
) -> list[list[Verdict]]:
    """Judge every answer `repeats` times; return its verdicts, in order.

    A reply that is no grade, or does not come, is asked for again up to `attempts` times and then
    left unscored with the reason.  Raises `DataError` when the bill, on top of what the cache has
    cost, exceeds `max_cost`: before the first call, or as soon as what was paid reaches it; and at
    ten equal failures in a row.
    """
    expected = bill(settings, questions, answers, cache)
    with closing(ReplyCache(cache)) as known:
        spent = _cost(settings, *known.paid)
    if expected.cost + spent > settings.max_cost:
        raise DataError(
            f"judging takes {expected.calls:,} calls for about {expected.cost:.2f}, "
            f"{spent:.2f} are spent, max_cost is {settings.max_cost:.2f}; "
            "raise it or judge fewer answers"
        )
    by_text: dict[tuple[str, int], list[_Call]] = {}
    for call in _calls(settings, questions, answers):
        by_text.setdefault((call.text, call.repeat), []).append(call)
    verdicts: list[list[Verdict]] = [
        [] if question.answer else [Verdict(None, NO_ANSWER)] for question in questions
    ]
    with closing(ReplyCache(cache)) as known:
        for same, verdict in _graded(settings, list(by_text.values()), known):
            for call in same:
                verdicts[call.place].append(verdict)
    return [sorted(found, key=lambda verdict: verdict.repeat) for found in verdicts]


def _graded(
    settings: JudgeSettings, groups: list[list[_Call]], known: ReplyCache
) -> Iterator[tuple[list[_Call], Verdict]]:
    client, streak = settings.endpoint.client(), Streak(settings.endpoint)

    def verdict(same: list[_Call]) -> Verdict:
        call, reason = same[0], ""
        for attempt in range(settings.attempts):
            key = _key(settings, call, attempt)
            reply = known.get(key)
            if reply is None:
                spent = _cost(settings, *known.paid)
                if spent and spent >= settings.max_cost:
                    raise DataError(f"stopped: judging has cost {spent:.2f}, max_cost reached")
                chat = [{"role": "user", "content": call.text}]
                completion, *tokens = complete(
                    client,
                    settings.endpoint,
                    chat,
                    new_tokens=_REPLY_TOKENS,
                    temperature=settings.temperature,
                )
                if isinstance(completion, Failure) and any(tokens):
                    known.put_unusable((tokens[0], tokens[1]))
                streak.add(completion)
                if isinstance(completion, Failure):
                    reason = completion.reason
                    continue
                # Servers that do not count tokens are counted for.
                estimated = estimate_tokens(call.text), estimate_tokens(completion)
                known.put(key, completion, (tokens[0], tokens[1]) if any(tokens) else estimated)
                reply = completion
            value = grade(reply)
            if value is not None:
                return Verdict(value, "", call.repeat)
            reason = f"no grade in the reply {reply[:80]!r}"
        return Verdict(None, f"{reason} ({settings.attempts} attempts)", call.repeat)

    with ThreadPoolExecutor(settings.endpoint.concurrency) as threads:
        waiting = {threads.submit(verdict, same): same for same in groups}
        try:
            for done in tqdm(as_completed(waiting), total=len(waiting), desc="judging",
                             unit=" answers", leave=False):  # fmt: skip
                yield waiting[done], done.result()
        finally:
            threads.shutdown(cancel_futures=True)
