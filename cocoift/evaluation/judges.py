"""Judges: an answer gets a verdict in [0, 1], or none with the reason.

The reference judge is offline and deterministic: it looks for the wanted facts in an answer and,
for mini's scenes, deducts for stated facts that are wrong.  `reference_verdict` says what it
cannot see.  The judge behind an endpoint is in `judge_api`.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from cocoift.core.schema import Settings
from cocoift.evaluation.benchmarks import Question

# A number with its sign and its thousands, else a word; hyphens part words.
_WORD = re.compile(
    r"(?<![\w.)])[-+\u2212]?\d+(?:,\d{3})*(?:\.\d+)?(?![\w])|[^\W_]+(?:['’.][^\W_]+)*"
)
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_COUNTS = {"couple": "2", "pair": "2", "dozen": "12"} | {n: str(i) for i, n in enumerate(_NUMBERS)}
# `a green-covered book` is a green book.
_COMPOUND = re.compile(r"(?<=[a-z])-[a-z]+ed\b")
_SENTENCE = re.compile(r"[.!?;:](?:\s|$)")
_CLAUSE = re.compile(r",(?:\s|$)|\bbut\b")
# Sizes and places have two names each; shades of colours differ and are no such names.
_SAME = {"upper": "top", "lower": "bottom", "big": "large", "tiny": "small", "little": "small"}
_NEGATIONS = frozenset({"no", "not", "never", "without", "neither", "nor", "cannot", "none"})
# How far before a word its negation stands: `is not at the top left`.
_REACH = 4


class ReferenceJudge(Settings, frozen=True, tag_field="kind", tag="reference"):
    """A preset's offline judge (`reference_verdict`)."""


@dataclass(frozen=True)
class Verdict:
    """A judge's score of one answer, `None` when it could not be had; `repeat` counts from 0."""

    score: float | None
    reason: str = ""
    repeat: int = 0


@dataclass(frozen=True)
class Claims:
    """What an answer states about a scene: how many statements are right and how many wrong."""

    right: int
    wrong: int


def wanted_parts(answer: str) -> list[list[str]]:
    """Return the parts of an answer in MM-Vet's syntax, each with its alternatives.

    `"-1<AND>-5"` wants two parts, `"12<OR>=12"` one part in either form.
    """
    return [
        [option.strip() for option in part.split("<OR>") if option.strip()]
        for part in answer.split("<AND>")
    ]


def states(text: str, part: str) -> float:
    """Return how far a text states a part: 1, 0, or one half as an alternative (`red or blue`).

    Parts are whole words, whatever case: `"A red car."` states `red car` and `car`, not `red` of
    `redder`.  Plurals state their singular and the other way round, numbers are words or digits,
    hyphens part words (`ten-pound` states `ten`, `a green-covered book` a green book), sizes and
    places have two names (`upper left`), signs and thousands belong to their number: `5` is not
    `-5`, `12` not `12,000`.  What a negation just before it in the same clause denies is not
    stated.
    """
    wanted = _words(part)
    if not wanted:
        return float(part.strip() in text)
    if not _places(_words(text), wanted):
        return 0.0
    found = []
    for sentence in _SENTENCE.split(_folded(text)):
        share = 0.5 if "or" in _words(sentence) and "or" not in wanted else 1.0
        for words in map(_words, _CLAUSE.split(sentence)):
            for at in _places(words, wanted):
                found.append(0.0 if _denied(words[max(0, at - _REACH) : at]) else share)
    return max(found, default=1.0)  # a part that runs over the end of a clause, as lists do


def _denied(before: Sequence[str]) -> bool:
    return any(w in _NEGATIONS or w.endswith(("n't", "n’t")) for w in before)


def _folded(text: str) -> str:
    # Some of MM-Vet's answers spell a line break as a backslash and an n.
    folded = unicodedata.normalize("NFKC", text.replace("\\n", " ")).casefold()
    return _COMPOUND.sub("", folded)


def _words(text: str) -> list[str]:
    return [_plain(word) for word in _WORD.findall(_folded(text))]


def _plain(word: str) -> str:
    """Return one spelling for all forms of a number, and for a word's singular and plural."""
    if word in _COUNTS:
        return _COUNTS[word]
    if word in _SAME:
        return _SAME[word]
    number = word.replace(",", "").replace("\u2212", "-")
    if _NUMBER.fullmatch(number):
        return f"{float(number):g}" if len(number) < 15 else number.removeprefix("+")
    if word.isalpha() and len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        if word.endswith("ies"):
            return f"{word[:-3]}y"
        return word[:-2] if word.endswith(("ses", "xes", "ches", "shes", "zes")) else word[:-1]
    return word


def _places(words: Sequence[str], part: Sequence[str]) -> list[int]:
    size = len(part)
    return [at for at in range(len(words) - size + 1) if list(words[at : at + size]) == list(part)]


def reference_verdict(question: Question, answer: str, *, claims: Claims | None = None) -> Verdict:
    """Score an answer by the wanted parts it states and, with `claims`, by what it states wrongly.

    Recall is the share of `<AND>` parts of which one `<OR>` form is stated.  Precision is the
    share of right statements among all (1 without `claims`).  The score is their harmonic mean.
    Steps, where a question has them, count as half: as InfiMM-Eval scores answer and steps.

    Blind to paraphrase (an apple called fruit is not stated) and to style: it measures facts, not
    fluency.
    """
    if not question.answer:
        return Verdict(None, "upstream gives no answer to compare with")
    recall = _stated_share(question.answer, answer)
    if question.steps:
        steps = sum(_stated_share(step, answer) for step in question.steps) / len(question.steps)
        recall = (recall + steps) / 2
    precision = 1.0
    if claims is not None and claims.right + claims.wrong:
        precision = claims.right / (claims.right + claims.wrong)
    whole = recall + precision
    return Verdict(2 * recall * precision / whole if whole else 0.0)


def _stated_share(wanted: str, answer: str) -> float:
    parts = wanted_parts(wanted)
    shares = [max((states(answer, form) for form in forms), default=0.0) for forms in parts]
    return sum(shares) / len(shares)
