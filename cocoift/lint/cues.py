"""What in a data file tells that an answer will be short, learnt from the file itself.

A logistic regression of "three words or fewer" on what stands before an answer: the question's
words, whether it has a format prompt, and how the rounds before it went.  Asked about open
questions, it says how often somebody who has read nothing but these cues would answer them
briefly.  That is no model's collapse yet: `prediction` calibrates it.
"""

import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from cocoift.core.files import DataError
from cocoift.core.text import without_format_prompt
from cocoift.lint.conversations import Conversation
from cocoift.lint.wording import SHORT_WORDS, states_form

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

# Open questions as people chat, about any picture.  None of them is a question of the study's
# benchmarks or sources, and none states the length of its answer.
QUESTIONS = (
    "Describe this image in detail.",
    "What is going on here?",
    "Please tell me what this image shows.",
    "Can you explain what is happening in the scene?",
    "What stands out to you in this photo?",
    "Tell me more about the things in the image.",
    "How would you describe this scene to someone who cannot see it?",
    "What do you notice, and why does it matter?",
    "What might have happened just before this moment, and how can you tell?",
    "Why would somebody take this photo?",
    "What could happen next, and what makes you think so?",
    "Give me a summary of what you see.",
)
# What is enough: on mini's mixtures ten times fewer answers move the result by a point or two.
MOST_ANSWERS, MOST_CONVERSATIONS = 60_000, 20_000
RIDGE = 1e-3  # of the mean loss per answer
_WORD = re.compile(r"\w+|\?")


class Past(NamedTuple):
    """A round that came before: whether it had a format prompt, and whether its answer is short."""

    prompted: bool
    short: bool


# The histories after which the open questions are asked: none, and one round that asks for a short
# answer and gets one.
ALONE: tuple[Past, ...] = ()
AFTER: tuple[Past, ...] = (Past(prompted=True, short=True),)


class Raw(msgspec.Struct, frozen=True):
    """The share of short answers that a file's cues foretell, in percent.

    To open questions asked alone and `after` one short round; `answers` are those it rests on.
    """

    alone: float
    after: float
    answers: int


def raw_prediction(
    conversations: Iterable[Conversation], questions: Sequence[str] = QUESTIONS
) -> Raw:
    """Return what a file's cues foretell for open questions, alone and after one short round.

    The same conversations give the same numbers, in whatever order they come.  Raises `DataError`
    where none has an answer.
    """
    seen: list[dict[str, float]] = []
    short: list[bool] = []
    for conversation in sample(conversations):
        for cues, is_short in _answers(conversation):
            seen.append(cues)
            short.append(is_short)
        if len(seen) >= MOST_ANSWERS:
            break
    if not seen:
        raise DataError("no conversation has an answer, so nothing can be predicted")
    counts = Counter(cue for cues in seen for cue in cues)
    columns = {cue: place for place, cue in enumerate(c for c in counts if counts[c] > 1)}
    weights = fit(_matrix(seen, columns), np.array(short, float))
    shares = [
        float(_sigmoid(_matrix([cues_of(q, past) for q in questions], columns) @ weights).mean())
        for past in (ALONE, AFTER)
    ]
    # Ten digits: what the order of additions on another machine changes is far below.
    alone, after = (round(100 * share, 8) for share in shares)
    return Raw(alone, after, len(seen))


def sample(
    conversations: Iterable[Conversation], most: int = MOST_CONVERSATIONS
) -> list[Conversation]:
    """Return up to `most` conversations, evenly from all of a file, in an order of their own.

    Hashes of their content decide which, so neither the order of the file nor its length does.
    """
    kept: list[
        tuple[int, int, Conversation]
    ] = []  # the least hash last, as in a heap of the largest
    for place, conversation in enumerate(conversations):
        if not conversation.rounds:
            continue
        rank = _rank(conversation)
        if len(kept) < most:
            heapq.heappush(kept, (-rank, place, conversation))
        elif rank < -kept[0][0]:
            heapq.heapreplace(kept, (-rank, place, conversation))
    ranked = [(-rank, conversation) for rank, _, conversation in kept]
    return [each for _, each in sorted(ranked, key=lambda item: (item[0], _texts(item[1])))]


def _rank(conversation: Conversation) -> int:
    first, last = conversation.rounds[0], conversation.rounds[-1]
    parts = (conversation.id, *conversation.images, first.question, first.answer, last.answer)
    content = "\n".join(parts).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _texts(conversation: Conversation) -> list[tuple[str, str]]:
    return [(each.question, each.answer) for each in conversation.rounds]


def _answers(conversation: Conversation) -> Iterator[tuple[dict[str, float], bool]]:
    """Yield the cues of each answer of a conversation, and whether it is short."""
    past: list[Past] = []
    for each in conversation.rounds:
        is_short = len(each.answer.split()) <= SHORT_WORDS
        yield cues_of(each.question, past), is_short
        past.append(Past(states_form(each.question), is_short))


def cues_of(question: str, past: Sequence[Past]) -> dict[str, float]:
    """Return what stands before an answer, by name and strength.

    The question's words and pairs of words, its form (a small letter first, the mark it ends in),
    its format prompt; the answer before it, and that round's prompt, each alone and with the
    question's own; and the share of rounds so far that were short without being asked to be, which
    tells terse chats from short questions and answers.
    """
    prompted = states_form(question)
    bare = without_format_prompt(question).strip()
    words = ["^", *_WORD.findall(bare.lower())]
    found = {f"word {word}": 1.0 for word in words}
    found |= {f"pair {one} {other}": 1.0 for one, other in pairwise(words)}
    state = _lengths(past[-1]) if past else "nothing"
    found[f"small {bare[:1].islower()}"] = found[
        f"end {bare[-1:] if bare[-1:] in '?.' else ''}"
    ] = 1.0
    found[f"prompt {prompted}"] = found[f"after {state}"] = 1.0
    found[f"prompt {prompted} after {state}"] = 1.0
    if past:
        before = f"{state} with prompt {past[-1].prompted}"
        found[f"after {before}"] = found[f"prompt {prompted} after {before}"] = 1.0
        found["terse so far"] = sum(p.short and not p.prompted for p in past) / len(past)
        if prompted:
            found["prompt, terse so far"] = found["terse so far"]
    return found


def _lengths(past: Past) -> str:
    return "short" if past.short else "long"


def _matrix(seen: Sequence[dict[str, float]], columns: dict[str, int]) -> "csr_matrix":
    """Return cues as rows; cues without a column do not count, and the last column is 1."""
    from scipy.sparse import csr_matrix

    places: list[int] = []
    values: list[float] = []
    ends = [0]
    for cues in seen:
        for cue, value in cues.items():
            if (place := columns.get(cue)) is not None:
                places.append(place)
                values.append(value)
        places.append(len(columns))
        values.append(1.0)
        ends.append(len(places))
    return csr_matrix((values, places, ends), shape=(len(seen), len(columns) + 1))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return expit(values)


def fit(cues: "csr_matrix", short: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """Return the weights of the logistic regression: least mean loss + ridge / 2 · |weights|².

    Newton's method; all sums are NumPy's and SciPy's own, not those of a threaded BLAS, so that
    the number of cores changes nothing.
    """
    weights, turned = np.zeros(cues.shape[1]), cues.T.tocsr()
    loss = _loss(cues @ weights, short, weights, ridge)
    for _ in range(100):
        chances = _sigmoid(cues @ weights)
        slope = turned @ ((chances - short) / len(short)) + ridge * weights
        if np.abs(slope).max() < 1e-8:
            break
        curve = chances * (1 - chances) / len(short)
        step = _solve(cues, turned, curve, ridge, slope)
        scale = 1.0
        while (
            new := _loss(cues @ (weights - scale * step), short, weights - scale * step, ridge)
        ) > loss:
            scale /= 2
            if scale < 1e-6:
                return weights
        weights, loss = weights - scale * step, new
    return weights


def _loss(logits: np.ndarray, short: np.ndarray, weights: np.ndarray, ridge: float) -> float:
    mean = np.logaddexp(0, logits) - short * logits
    return float(mean.mean() + ridge / 2 * (weights * weights).sum())


def _solve(
    cues: "csr_matrix", turned: "csr_matrix", curve: np.ndarray, ridge: float, slope: np.ndarray
) -> np.ndarray:
    """Return (cues' · curve · cues + ridge)⁻¹ · slope by conjugate gradients."""
    found, rest = np.zeros_like(slope), slope.copy()
    along, size = rest.copy(), (slope * slope).sum()
    enough = 1e-6 * size
    for _ in range(500):
        image = turned @ (curve * (cues @ along)) + ridge * along
        length = size / (along * image).sum()
        found, rest = found + length * along, rest - length * image
        new = (rest * rest).sum()
        if new < enough:
            break
        along, size = rest + new / size * along, new
    return found
