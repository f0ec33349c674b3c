"""The reference judge: an answer gets a verdict in [0, 1], or none with the reason.

It is offline and deterministic: it looks for the facts of the reference answer and, for minicoco's
scenes, deducts for stated facts that are wrong.  `reference_verdict` says what it
cannot see and what it leaves unscored.  The judge behind an endpoint is in `endpoint_judge`.
"""

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cocoift.core.schema import Settings
from cocoift.evaluation.benchmarks import Question, wanted_parts

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
# `A man without a hat is here` denies the hat, not the sentence.
_DENIALS = _NEGATIONS - {"without"} | {"nothing", "nobody", "nope", "nah", "doubt", "doubtful"}
# How far before a word its negation stands: `is not at the top left`.
_REACH = 4
# What stands before an answer (`The answer is: no`), and negations that deny nothing: `no doubt`,
# `not only`, the tag of `It is raining, isn't it?`.
_DENIES_NOTHING = re.compile(
    r"^\W*(?:(?:the|my) )?(?:final )?answer(?: is)?:"
    r"|\b(?:(?:no|little|do(?:n['’]t| not)|(?:not|without|beyond)(?: an?y?)?) (?:doubt|denying)"
    r"|no question (?:that|about)|no wonder|not (?:only|just|merely|simply))\b"
    r"|,\s*\w+n['’]t (?:i|you|he|she|it|we|they|there|this|that)(?=\W*(?:$|[.!?;:]))"
)
# How a first sentence affirms or denies without a yes or no, from its first word on.
_AFFIRMS = re.compile(
    r"\W*(?:(?:yup|yep|yeah|sure|correct|true|indeed|absolutely|definitely|certainly|of course)"
    r"\b(?!\W+not\b)"
    r"|(?:it|he|she|they|there|this|that|these|those) (?:is|are|was|were|do|does|did|has|have|can)"
    r"\W*$|(?:(?:that|this|it)(?: is|['’]s) )?(?:right|correct|true)\W*$)"
)
_DENIES = re.compile(
    r"\W*(?:(?:that|this|it)(?: is|['’]s) )?(?:incorrect|false|untrue|wrong)(?:\W|$)"
)
# What a first sentence says when it leaves a yes-or-no question open.
_OPEN = re.compile(
    r"\b(?:can(?:not|['’]t| not)|could(?:n['’]t| not)|(?:un|not )able to|(?:im|not )possible to"
    r"|(?:hard|difficult) to) (?:\w+ly )?(?:tell|say|know|see|determine|judge|answer|identify)\b"
    r"|\b(?:can|could)(?:not| not|n?['’]t) (?:\w+ly )?be (?:told|known|determined|judged)\b"
    r"|\bun(?:clear|certain|known|sure)\b|\bnot (?:clear|certain|known|sure)\b"
    r"|\bdo(?:n['’]t| not) know\b"
)
# A reference of more words is a sentence: names, places and labels that are asked for have at most
# seven (`red stop sign at the top left`).
_PHRASE_WORDS = 7

NO_ANSWER = "there is no reference answer to compare with"
SENTENCES = "the reference answer is a whole sentence, which no word-by-word comparison can judge"
# What no judge, or not this one, can score: a property of the question, no fault of the judge.
BY_DESIGN = (NO_ANSWER, SENTENCES)


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


def states(text: str, part: str) -> float:
    """Return how far a text states a part: 1, 0, or one half as an alternative (`red or blue`).

    Parts are whole words, whatever case: `"A red car."` states `red car` and `car`, not `red` of
    `redder`.  Plurals state their singular and the other way round, numbers are words or digits,
    hyphens part words (`ten-pound` states `ten`, `a green-covered book` a green book), sizes and
    places have two names (`upper left`), signs and thousands belong to their number: `5` is not
    `-5`, `12` not `12,000`.  What a negation just before it in the same clause denies is not
    stated, unless the negation denies nothing (`no doubt`, `not only`).
    """
    wanted = _words(part)
    if not wanted:
        return float(part.strip() in text)
    if not _places(_words(text), wanted):
        return 0.0
    found = []
    for sentence in _SENTENCE.split(_DENIES_NOTHING.sub(" ", _folded(text))):
        share = 0.5 if "or" in _words(sentence) and "or" not in wanted else 1.0
        for words in map(_words, _CLAUSE.split(sentence)):
            for at in _places(words, wanted):
                before = words[max(0, at - _REACH) : at]
                found.append(0.0 if _denies(before, _NEGATIONS) else share)
    return max(found, default=1.0)  # a part that runs over the end of a clause, as lists do


def _denies(words: Sequence[str], negations: Collection[str]) -> bool:
    return any(word in negations or word.endswith(("n't", "n’t")) for word in words)


def _folded(text: str) -> str:
    # Some of MM-Vet's answers spell a line break as a backslash and an n.
    folded = unicodedata.normalize("NFKC", text.replace("\\n", " ")).casefold()
    return _COMPOUND.sub("", folded)


def _words(text: str) -> list[str]:
    return [_plain(word) for word in _WORD.findall(_folded(text))]


def _plain(word: str) -> str:
    """Return one spelling for all forms of a number, and for a word's cases and numbers."""
    word = word.removesuffix("'s").removesuffix("’s")
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

    Recall is the share of `<AND>` parts of which one `<OR>` form is stated.  Where the answer makes
    statements that can be checked, the score is the harmonic mean of recall and the share of right
    ones among them; where it makes none, or nobody knows (no `claims`), it is the recall alone.
    Steps, where a question has them, count as half: as InfiMM-Eval scores answer and steps.

    A part `yes` or `no` is compared with what the first sentence says (`_says`).  A part of which
    every form is a sentence leaves the answer unscored, since a right answer words it differently.
    Blind to paraphrase (an apple called fruit is not stated) and to style: it measures facts, not
    fluency.
    """
    if not question.answer:
        return Verdict(None, NO_ANSWER)
    recalls = [_stated_share(wanted, answer) for wanted in (question.answer, *question.steps)]
    if None in recalls:
        return Verdict(None, SENTENCES)
    recall, *steps = (share for share in recalls if share is not None)
    if steps:
        recall = (recall + sum(steps) / len(steps)) / 2
    if claims is None or not claims.right + claims.wrong:
        return Verdict(recall)
    precision = claims.right / (claims.right + claims.wrong)
    whole = recall + precision
    return Verdict(2 * recall * precision / whole if whole else 0.0)


def _stated_share(wanted: str, answer: str) -> float | None:
    """Return the share of wanted parts that an answer states, `None` if one is a sentence."""
    shares = []
    for forms in wanted_parts(wanted):
        if forms and min(len(form.split()) for form in forms) > _PHRASE_WORDS:
            return None
        found = [0.0]
        for form in forms:
            plain = form.casefold().strip(" .")
            yes_no = plain in ("yes", "no")
            found.append(_says(answer, plain) if yes_no else states(answer, form))
        shares.append(max(found))
    return sum(shares) / len(shares)


def _says(answer: str, wanted: str) -> float:
    """Return how far an answer says `yes` or `no`: 1, 0, or one half for both.

    Its first sentence decides: by the word itself or another for it (`Nope.`, `Correct.`), else by
    being negated (`It does not look dangerous.` says no) or not (`It looks dangerous.` says yes).
    A negation that denies nothing (`There is no doubt that ...`) does not count.  One that leaves
    the question open (`It is unclear.`) says neither, nor does a fragment of one or two words
    (`Red.`).
    """
    text = _DENIES_NOTHING.sub(" ", _folded(answer))
    first = next((part for part in _SENTENCE.split(text) if _words(part)), "")
    words = _words(first)
    if "yes" in words:
        return 0.5 if {"yes", "no"} <= set(words[:3]) else float(wanted == "yes")
    if _OPEN.search(first):
        return 0.0
    if _AFFIRMS.match(first):
        return float(wanted == "yes")
    if _DENIES.match(first) or _denies(words, _DENIALS):
        return float(wanted == "no")
    return float(wanted == "yes" and len(words) > 2)
