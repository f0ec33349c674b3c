"""What a model sees and says: its claims about scenes, its sight, the wordings it knows."""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from cocoift.core.images import mean_colour
from cocoift.core.resampling import ratio
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.core.text import without_format_prompt
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from cocoift.evaluation.reference_judge import Claims, reference_verdict
from cocoift.evaluation.rollout import Round, as_prompt
from cocoift.evaluation.sanity import COLUMNS, check
from cocoift.tuning.chat import ChatFormat
from minicoco import CHAT
from minicoco.benchmark import CONVERSATIONS, SHORT, UNTUNED, dialogs, infimm, mm_vet
from minicoco.draw import draw
from minicoco.scenes import BACKGROUNDS, CATEGORIES, COLOURS, PLACES, Scene, Thing, sample_scenes

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

_NAMES = "|".join(sorted(CATEGORIES.values(), key=len, reverse=True))
_MENTION = re.compile(
    rf"(?:\b(?P<size>small|large)\s+)?(?:\b(?P<colour>{'|'.join(COLOURS)})\s+)?"
    rf"\b(?P<category>{_NAMES})(?:e?s)?\b"
    rf"(?:\s+(?:is\s+|are\s+)?(?:at|in)\s+the\s+(?P<place>{'|'.join(PLACES)}))?",
    re.IGNORECASE,
)
_AFTER = re.compile(rf"\bis\s+(?:(?P<colour>{'|'.join(COLOURS)})|(?P<size>small|large))\b", re.I)
_GROUND = re.compile(rf"\b(?:at|in) the ({'|'.join(BACKGROUNDS)})\b", re.IGNORECASE)
_NONE = re.compile(r"\bno\b", re.IGNORECASE)


def claims(scene: Scene, answer: str) -> Claims:
    """Count an answer's statements about a scene: right and wrong ones.

    A statement is a category that is named, with the size, colour and place given in the same
    phrase (`a small red cup at the top left`) or by `is` (`The cup is red.`); a category that is
    denied; or the background (`at the beach`).  Answers that name neither, such as `red`, make no
    statement here: the parts that the reference answer wants decide on them.
    """
    verdicts = []
    for sentence in re.split(r"[.!?]", answer):
        mentions = list(_MENTION.finditer(sentence))
        denied = _NONE.search(sentence) is not None
        for mention in mentions:
            claim = {key: value.lower() for key, value in mention.groupdict().items() if value}
            after = _AFTER.search(sentence, mention.end()) if len(mentions) == 1 else None
            if after:
                claim |= {key: value.lower() for key, value in after.groupdict().items() if value}
            there = _fits(scene, claim)
            verdicts.append(not there if denied else there)
        verdicts += [ground.lower() == scene.background for ground in _GROUND.findall(sentence)]
    return Claims(sum(verdicts), len(verdicts) - sum(verdicts))


def claims_by_image(scenes: Mapping[str, Scene]) -> Callable[[str, str], Claims | None]:
    """Return a function that counts an answer's claims about an image of the benchmarks."""

    def counted(image: str, answer: str) -> Claims | None:
        return claims(scenes[image], answer) if image in scenes else None

    return counted


def _fits(scene: Scene, claim: dict[str, str]) -> bool:
    """Tell whether something in the scene is as claimed; the flock counts as birds."""
    if claim == {"category": "bird"} and scene.flock:
        return True
    return any(_is(thing, claim) for thing in scene.things)


def _is(thing: Thing, claim: dict[str, str]) -> bool:
    return all(getattr(thing, key) == value for key, value in claim.items())


FACTS = ("category", "colour", "place", "count")
IMAGES = ("shown", "other", "blank")


def describe(
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
    images: Iterable[Image.Image],
    *,
    chat: ChatFormat = CHAT,
    question: str = "Describe the picture.",
    new_tokens: int = 120,
    batch: int = 64,
) -> list[str]:
    """Return the model's greedy answer to a question about each image."""
    from cocoift.evaluation.generation import generate

    asked = [Message("human", f"{IMAGE_MARKER}\n{question}")]
    return generate(
        model,
        processor,
        [Prompt(str(number), (image,), asked) for number, image in enumerate(images)],
        chat=chat,
        new_tokens=new_tokens,
        batch=batch,
    )


def stated_facts(scene: Scene, description: str) -> list[tuple[str, bool]]:
    """Return which facts of a scene a description states, as (fact, whether stated) pairs.

    There are three per thing: its category is named; it is named with its colour (`red car`); and a
    sentence that does so gives its place.  And one per scene: as many things are placed as there
    are.
    """
    sentences = description.split(".")
    pairs = []
    for thing in scene.things:
        named = [sentence for sentence in sentences if thing.category in sentence]
        coloured = [sentence for sentence in named if thing.name in sentence]
        pairs.append(("category", bool(named)))
        pairs.append(("colour", bool(coloured)))
        pairs.append(("place", any(thing.place in sentence for sentence in coloured)))
    placed = sum(" is at the " in sentence for sentence in sentences)
    return [*pairs, ("count", placed == len(scene.things))]


def sight_table(
    models: "Sequence[tuple[LlavaForConditionalGeneration, LlavaProcessor]]",
    scenes: Sequence[Scene],
    *,
    chat: ChatFormat = CHAT,
    resamples: int = 2_000,
) -> pd.DataFrame:
    """Return accuracy with a 95 % interval per image condition and fact, a mean over the models.

    Conditions: the image of the scene (`shown`), of the next scene (`other`), and a blank image.
    Columns: image, fact, accuracy, low, high, n; intervals are over models and scenes, since the
    facts of a scene are correlated.
    """
    drawn = [draw(scene) for scene in scenes]
    blank = Image.new("RGB", drawn[0].size, mean_colour(models[0][1].image_processor.image_mean))
    images = {"shown": drawn, "other": [*drawn[1:], drawn[0]], "blank": [blank] * len(drawn)}
    rows = []
    for condition in IMAGES:
        descriptions = [describe(*model, images[condition], chat=chat) for model in models]
        found = [
            (base, number, *pair)
            for base, texts in enumerate(descriptions)
            for number, (scene, text) in enumerate(zip(scenes, texts, strict=True))
            for pair in stated_facts(scene, text)
        ]
        facts = pd.DataFrame(found, columns=["base", "scene", "fact", "right"])
        for fact in FACTS:
            of_fact = facts[facts.fact == fact]
            right = of_fact.right
            share, *ends = ratio(of_fact.scene, right, right.notna(),
                                 resamples=resamples, trainings=of_fact.base)  # fmt: skip
            rows.append((condition, fact, share, *np.clip(ends, 0, 1), len(right)))
    return pd.DataFrame(rows, columns=["image", "fact", "accuracy", "low", "high", "n"])


# What a base that sees names rightly: with the image of the scene at least, with another at most.
SEES = {"category": (0.95, 0.30), "colour": (0.95, 0.15), "place": (0.85, 0.05)}


def sight_checks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the checks that a base sees, of a `sight_table`: gate, value, bound, n, passed."""
    rows, by_fact = [], table.set_index(["image", "fact"])
    for fact, (least, most) in SEES.items():
        for image, bound in (("shown", least), ("other", most)):
            accuracy, count = by_fact.loc[(image, fact), ["accuracy", "n"]]
            passed = accuracy >= bound if image == "shown" else accuracy <= bound
            limit = f"at {'least' if image == 'shown' else 'most'} {bound:.0%}"
            names = {"shown": "its own image", "other": "another scene's"}
            rows.append((f"{fact}, {names[image]}", accuracy, limit, int(count), passed))
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(table: pd.DataFrame) -> str:
    """Return the sight table in a sentence: what is named correctly by seeing, and by guessing."""

    def shares(condition: str) -> str:
        rows = table[table.image == condition].set_index("fact").accuracy
        return ", ".join(f"{fact} {rows[fact]:.0%}" for fact in ("category", "colour", "place"))

    return (
        f"Describing held-out scenes, the base model is right about {shares('shown')}; shown "
        f"another scene's image, about {shares('other')}."
    )


# A base model answers open questions in full, and wordings that nothing is tuned on nearly as well
# as those of the conversational sources; a format prompt does not shorten its answers yet, which
# are short by a coin.  Its own image, and the round that a question refers to, are worth points to
# it; and it reads open questions after the opening rounds, or tuned models would only inherit that.
FULL, NEAR, SHORTENED_AT_MOST, SEEN, RECALLED, KEPT = 0.9, 0.8, 0.2, 0.3, 0.1, 0.8


def base_checks(
    answer: Answerer,
    closed: Sequence[Prompt],
    *,
    opening: Sequence[str],
    seed: int,
    pixels: int,
    count: int = 60,
) -> pd.DataFrame:
    """Return the sanity checks of a base model: gate, value, bound, n, passed.

    The model is asked the benchmarks' questions about `count` scenes drawn for this purpose alone,
    open ones after the `opening` rounds too, and the `closed` questions, which ask for a short
    answer.
    """
    scenes = sample_scenes(count, seed=7_000_003 + seed, pixels=pixels)
    images = [draw(scene) for scene in scenes]
    rng = random.Random(f"language/{seed}")
    rows = [(at, row) for at, scene in enumerate(scenes) for row in mm_vet("", scene, rng)]
    full: dict[str, list[bool]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    asked = [[Round(row["question"], "")] for _, row in rows]
    for (at, row), reply in zip(rows, _replies(answer, images, rows, asked), strict=True):
        full[row["wording"]].append(len(reply.split()) > SHORT_WORDS)
        scores[row["wording"]].append(_score(scenes[at], row["answer"], reply))
    known, unknown = scores[CONVERSATIONS], scores[UNTUNED]
    mean = sum(known) / len(known)
    alone = (sum(known) + sum(unknown)) / len(known + unknown)
    are_open = [(at, row) for at, row in rows if row["wording"] != SHORT]
    after = _after(answer, scenes, images, are_open, opening)
    brief, bare = _are_short(answer, closed), _are_short(answer, map(_without_prompt, closed))
    shortened = [prompted - plain for prompted, plain in zip(brief, bare, strict=True)]
    return pd.DataFrame(
        [
            check("full answers to conversations' wordings", full[CONVERSATIONS], FULL),
            check("full answers to wordings never tuned on", full[UNTUNED], FULL),
            check("score on wordings never tuned on, relative to conversations'",
                 [score / mean for score in unknown] if mean else [], NEAR),
            check("short answers that a format prompt adds", shortened, SHORTENED_AT_MOST,
                  at_most=True),
            check("InfiMM-Eval: what its own image adds to the score, against another",
                  _worth_of_image(answer, scenes, images, rng), SEEN),
            check("dialogs: what the round before adds to the score",
                  _worth_of_round(answer, scenes, images, rng), RECALLED),
            check("open questions after the opening: how much of the score is kept",
                  [score / alone for score in after] if alone else [], KEPT),
        ],
        columns=COLUMNS,
    )  # fmt: skip


def _without_prompt(prompt: Prompt) -> Prompt:
    *before, last = prompt.messages
    bare = Message(last.speaker, without_format_prompt(last.value).strip())
    return Prompt(prompt.key, prompt.pictures, [*before, bare])


def _are_short(answer: Answerer, asked: Iterable[Prompt]) -> list[bool]:
    """Return for each question whether its answer is short; one that fails is none."""
    replies = sorted(answer(list(asked)), key=lambda numbered: numbered[0])
    return [not isinstance(reply, Failure) and len(reply.split()) <= SHORT_WORDS
            for _, reply in replies]  # fmt: skip


def _after(
    answer: Answerer,
    scenes: Sequence[Scene],
    images: Sequence[Image.Image],
    rows: Sequence[tuple[int, dict[str, Any]]],
    opening: Sequence[str],
) -> list[float]:
    """Return the scores of questions in MM-Vet's format after the opening rounds."""
    every: list[tuple[int, dict[str, Any]]] = [(at, {}) for at in range(len(scenes))]
    played: list[list[Round]] = [[] for _ in scenes]
    for text in opening:
        replies = _replies(answer, images, every, [[*past, Round(text, "")] for past in played])
        played = [[*past, Round(text, reply)] for past, reply in zip(played, replies, strict=True)]
    asked = [[*played[at], Round(row["question"], "")] for at, row in rows]
    replies = _replies(answer, images, rows, asked)
    return [_score(scenes[at], row["answer"], reply)
            for (at, row), reply in zip(rows, replies, strict=True)]  # fmt: skip


def _worth_of_image(
    answer: Answerer, scenes: Sequence[Scene], images: Sequence[Image.Image], rng: random.Random
) -> list[float]:
    """Return for each question in InfiMM-Eval's format what is scored less with the next image."""
    rows = [(at, row) for at, scene in enumerate(scenes) for row in infimm("", scene, rng)]
    asked = [[Round(row["Question"], "")] for _, row in rows]
    shown = [
        _replies(answer, pictures, rows, asked) for pictures in (images, [*images[1:], images[0]])
    ]
    return [
        _score(scenes[at], row["Answer"], right, row["Steps"])
        - _score(scenes[at], row["Answer"], wrong, row["Steps"])
        for (at, row), right, wrong in zip(rows, *shown, strict=True)
    ]


def _worth_of_round(
    answer: Answerer, scenes: Sequence[Scene], images: Sequence[Image.Image], rng: random.Random
) -> list[float]:
    """Return for each question on `it` what is scored less without the round before."""
    rows = [(at, row) for at, scene in enumerate(scenes) for row in dialogs("", scene, rng)]
    before = [row["before"][0] for _, row in rows]
    named = _replies(answer, images, rows, [[Round(text, "")] for text in before])
    alone = [[Round(row["question"], "")] for _, row in rows]
    whole = [[Round(text, reply), *last]
             for text, reply, last in zip(before, named, alone, strict=True)]  # fmt: skip
    kept, dropped = (_replies(answer, images, rows, asked) for asked in (whole, alone))
    return [
        _score(scenes[at], row["answer"], with_it) - _score(scenes[at], row["answer"], without)
        for (at, row), with_it, without in zip(rows, kept, dropped, strict=True)
    ]


def _replies(
    answer: Answerer,
    images: Sequence[Image.Image],
    rows: Sequence[tuple[int, dict[str, Any]]],
    asked: Sequence[Sequence[Round]],
) -> list[str]:
    """Return the replies to the last round of each dialog; empty where one failed.

    `rows` begin with the place of their image.
    """
    prompts = [as_prompt((str(at),), (images[at],), rounds)
               for (at, _), rounds in zip(rows, asked, strict=True)]  # fmt: skip
    replies = dict(answer(prompts))
    in_order = (replies[number] for number in range(len(prompts)))
    return ["" if isinstance(reply, Failure) else reply for reply in in_order]


def _score(scene: Scene, answer: str, reply: str, steps: Sequence[str] = ()) -> float:
    reference = Question(id="", images=("",), text="", answer=answer, steps=tuple(steps))
    return reference_verdict(reference, reply, claims=claims(scene, reply)).score or 0.0
