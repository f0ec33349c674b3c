"""Benchmarks of the synthetic world in MM-Vet's and InfiMM-Eval's formats.

As in MM-Vet, no question states the length of its answer.  The scenes are drawn for the benchmark
alone: no source annotates them, and no base model has seen them.
"""

import random
from collections.abc import Iterator, Mapping
from typing import Any

from cocoift.evaluation.sanity import HeldOutRound
from cocoift.merge.layouts import TERSE_PROMPT
from minicoco import foils
from minicoco.corpus import ABOUT, ACCOUNTS, SETTINGS_UNTUNED, USES_UNTUNED
from minicoco.dialog_sets import DESCRIBE
from minicoco.draw import jpeg
from minicoco.facts import (
    SETTING_WORDINGS,
    USE_WORDINGS,
    Fact,
    facts,
    follow_up,
    paragraph,
    presence,
    sample_facts,
    setting_reasoning,
    use_reasoning,
)
from minicoco.scenes import Scene, sample_scenes

# Whose wording a question has: that of the short-answer sources, of the conversational ones, or of
# the base model's pretraining alone.
SHORT, CONVERSATIONS, UNTUNED = "short sources", "conversations", "never tuned on"
# The kinds of questions that the short-answer sources ask, and the capabilities they need.  Letters
# and numbers are not asked: the tiny LLaVA is as often right about them without the image.
_SHORT = {
    "colour": ["rec"],
    "place": ["rec", "spat"],
    "category": ["rec", "spat"],
    "size": ["rec"],
}


def benchmark_scenes(seed: int, *, pixels: int, count: int) -> dict[str, Scene]:
    """Return the benchmark's scenes by image name; the same seed gives the same scenes."""
    scenes = sample_scenes(count, seed=10_000_019 + seed, pixels=pixels)
    return {f"mini_{number:03d}.jpg": scene for number, scene in enumerate(scenes)}


def graded_scenes(*, pixels: int) -> dict[str, Scene]:
    """Return the scenes of the hand-graded answers in `data/judge_trust.json`.

    They were the benchmark's until its scenes were redrawn, twice: the `collapsed` ones later.
    """
    drawn = {"graded": (8_000_009, 40), "collapsed": (9_000_011, 80)}
    return {
        f"{name}_{number:03d}.jpg": scene
        for name, (seed, count) in drawn.items()
        for number, scene in enumerate(sample_scenes(count, seed=seed, pixels=pixels))
    }


def files(scenes: Mapping[str, Scene], seed: int) -> Iterator[tuple[str, Any]]:
    """Yield questions and images of the benchmarks, opening replies, probe questions, foils.

    `dialogs.json` has MM-Vet's format, and `before`: the question of the round that each needs.
    Opening replies say whether the image shows a cup, in a word or a sentence; those in
    `wrong_replies.json` are false.  `descriptions.json` describes each image.
    """
    rng = random.Random(f"benchmark/{seed}")
    rows = [row for name, scene in scenes.items() for row in mm_vet(name, scene, rng)]
    yield "mm_vet/mm-vet.json", {f"v1_{number}": row for number, row in enumerate(rows)}
    rows = [row for name, scene in scenes.items() for row in infimm(name, scene, rng)]
    yield "infimm_eval/core-mm.json", {str(number): row for number, row in enumerate(rows)}
    rows = [row for name, scene in scenes.items() for row in dialogs(name, scene, rng)]
    yield "mm_vet/dialogs.json", {f"v1_{number}": row for number, row in enumerate(rows)}
    cups = {name: presence(scene, "cup") for name, scene in scenes.items()}
    wrong = {"yes": "no", "no": "yes"}
    replies = {
        "opening_replies": {name: fact.short for name, fact in cups.items()},
        "wrong_replies": {name: wrong[fact.short] for name, fact in cups.items()},
        "long_replies": {name: fact.sentence for name, fact in cups.items()},
        "descriptions": {name: paragraph(scene) for name, scene in scenes.items()},
    }
    for file, by_image in replies.items():
        yield f"mm_vet/{file}.json", by_image
    yield "gqa/probe_questions.json", dict(_pairs(scenes, random.Random(f"probe/{seed}")))
    yield from foils.files(scenes, random.Random(f"foils/{seed}"))
    for name, scene in scenes.items():
        for folder in ("mm_vet", "infimm_eval"):
            yield f"{folder}/images/{name}", jpeg(scene)


def closed_and_open(scenes: Mapping[str, Scene], seed: int) -> Iterator[HeldOutRound]:
    """Yield questions on each scene that ask for a short answer, and as many that do not.

    They replace the held-out rounds of a merge where nothing is merged.
    """
    rng = random.Random(f"obedience/{seed}")
    for name, scene in scenes.items():
        for fact in sample_facts(scene, rng, 2, kinds=("colour", "place", "category", "size")):
            asked = f"{fact.question} {TERSE_PROMPT}"
            yield HeldOutRound(name, "phrase", asked, fact.short)
        for question in rng.sample(DESCRIBE, 2):
            yield HeldOutRound(name, "free", question, paragraph(scene))


def _pairs(scenes: Mapping[str, Scene], rng: random.Random) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield questions with a phrase and a sentence as answers, in GQA's format."""
    kinds = ("colour", "place", "size", "category", "count")
    for image, scene in ((name.removesuffix(".jpg"), scene) for name, scene in scenes.items()):
        for fact in sample_facts(scene, rng, 4, kinds=kinds):
            row = {
                "question": fact.question,
                "imageId": image,
                "answer": fact.short,
                "fullAnswer": fact.sentence,
            }
            yield f"{image}-{fact.kind}-{rng.randrange(10**6):06d}", row


def mm_vet(name: str, scene: Scene, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the questions on a scene in MM-Vet's format, each with its group of wordings."""

    def row(text: str, answer: list[str], capability: list[str], wording: str) -> dict[str, Any]:
        return _mm_vet_row(name, text, answer, capability) | {"wording": wording}

    things = [thing.name for thing in scene.by_quarter()]
    whole = [scene.background, *things]
    yield row(rng.choice(DESCRIBE), whole, ["rec", "gen"], CONVERSATIONS)
    placed = [_placed(thing.name, thing.place) for thing in scene.by_quarter()]
    yield row(rng.choice(ACCOUNTS), [*things, *placed], ["rec", "gen", "spat"], UNTUNED)
    for fact in _short_questions(scene, rng):
        yield row(fact.question, [fact.short], _SHORT[fact.kind], SHORT)
    thing = rng.choice(scene.unique() or scene.things)
    # An attribute counts only if it is said of the thing: `a small red kite` says nothing of a car.
    size = f"{thing.size} {thing.name}<OR>{thing.category} is {thing.size}"
    answer = [thing.name, size, _placed(thing.category, thing.place)]
    text = rng.choice(ABOUT).format(category=thing.category)
    yield row(text, answer, ["rec", "gen", "spat"], UNTUNED)
    thing = rng.choice(scene.things)
    question, _ = use_reasoning(thing, rng.choice(USE_WORDINGS))
    yield row(question, [thing.name, thing.place], ["rec", "know", "gen"], CONVERSATIONS)


def _mm_vet_row(name: str, text: str, answer: list[str], capability: list[str]) -> dict[str, Any]:
    return {
        "imagename": name,
        "question": text,
        "answer": "<AND>".join(answer),
        "capability": capability,
        "imagesource": "drawn",
    }


def _placed(name: str, place: str) -> str:
    return f"{name} is at the {place}<OR>{name} at the {place}"


def _short_questions(scene: Scene, rng: random.Random) -> list[Fact]:
    """Draw two questions of different kinds."""
    by_kind: dict[str, list[Fact]] = {}
    for fact in facts(scene):
        if fact.kind in _SHORT:
            by_kind.setdefault(fact.kind, []).append(fact)
    return [rng.choice(by_kind[kind]) for kind in rng.sample(list(by_kind), min(2, len(by_kind)))]


def dialogs(name: str, scene: Scene, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield two questions on `it`, each with the question of the round before that names it."""
    named = [fact for fact in facts(scene) if fact.kind in ("category", "use", "place")]
    for before in rng.sample(named, min(2, len(named))):
        assert before.thing
        fact = follow_up(before.thing, before.kind, rng)
        row = _mm_vet_row(name, fact.question, [fact.short], _SHORT[fact.kind])
        yield row | {"wording": SHORT, "before": [before.question]}


def infimm(name: str, scene: Scene, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield a deductive and an abductive question; none is analogical.

    Each kind has six wordings, of which the conversational sources use three.  Analogical questions
    are about several images, which the tiny model cannot tell apart.
    """

    def row(
        text: str, category: str, complexity: str, answer: str, steps: list[str]
    ) -> dict[str, Any]:
        return {
            "URL": [],
            "Image path": [name],
            "Question": text,
            "Category": category,
            "Counter-intuitve": None,
            "Complexity": complexity,
            "Answer": answer,
            "Steps": steps,
        }

    thing = rng.choice(scene.things)
    question, _ = use_reasoning(thing, rng.choice((*USE_WORDINGS, *USES_UNTUNED)))
    steps = [f"{thing.name}<AND>{thing.place}"]
    yield row(question, "Deductive", "Moderate", thing.category, steps)
    question, _ = setting_reasoning(scene, rng.choice((*SETTING_WORDINGS, *SETTINGS_UNTUNED)))
    steps = [thing.name for thing in scene.by_quarter()]
    yield row(question, "Abductive", "High", scene.background, steps)
