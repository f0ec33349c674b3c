"""What is true of a scene and how it is put: facts, descriptions, crowd workers' answers."""

import random
from dataclasses import dataclass
from itertools import product
from typing import Any

from minicoco.scenes import (
    CATEGORIES,
    CATEGORY_IDS,
    COLOURS,
    NUMBERS,
    PLACES,
    USES,
    Scene,
    Thing,
)

# The answers that an annotator may confuse, by kind.
_WRONG = {"colour": tuple(COLOURS), "count": ("1", "2", "3"), "place": PLACES}


@dataclass(frozen=True)
class Fact:
    """A question with its answer as a word or phrase and as a sentence.

    Kinds: `colour place count presence category size background use letter`.  `thing` is what the
    question is about, where that is one thing.
    """

    kind: str
    question: str
    short: str
    sentence: str
    thing: Thing | None = None


def plural(category: str) -> str:
    """Return the plural of a category name."""
    return f"{category}{'es' if category.endswith('s') else 's'}"


def article(name: str) -> str:
    """Return a name with its indefinite article, `an apple`."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def capital(text: str) -> str:
    """Return `text` with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def listed(names: list[str]) -> str:
    """Join names as in a sentence: `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def at_ground(background: str) -> str:
    """Return where a scene is, `at the beach`."""
    return f"{'in' if background in ('park', 'street', 'snow') else 'at'} the {background}"


def facts(scene: Scene) -> list[Fact]:
    """Return every question that the sources ask about a scene, in a fixed order."""
    found = [fact for thing in scene.unique() for fact in _thing_facts(thing)]
    found += [_count(scene, category) for category in scene.counts()]
    found += [presence(scene, category) for category in CATEGORIES.values()]
    found += _quarters(scene)
    ground = f"The picture was taken {at_ground(scene.background)}."
    return [*found, Fact("background", "Where was this picture taken?", scene.background, ground)]


def _thing_facts(thing: Thing) -> list[Fact]:
    category, name, place, use = thing.category, thing.name, thing.place, USES[thing.category]
    found = [
        Fact("colour", f"What color is the {category}?", thing.colour,
             f"The {category} is {thing.colour}.", thing),
        Fact("place", f"Where is the {category}?", place, f"The {name} is at the {place}.", thing),
        Fact("size", f"How big is the {category}?", thing.size,
             f"The {name} is {thing.size}.", thing),
        Fact("use", f"Which object is for {use}?", category,
             f"The {name} at the {place} is for {use}.", thing),
    ]  # fmt: skip
    if thing.letter:
        sentence = f"The letter on the sign is {thing.letter}."
        found.append(Fact("letter", "What letter is on the sign?", thing.letter, sentence))
    return found


def _count(scene: Scene, category: str) -> Fact:
    number, several = scene.counts()[category], plural(category)
    some = f"are {NUMBERS[number]} {several}" if number > 1 else f"is one {category}"
    question = f"How many {several} are there?"
    return Fact("count", question, str(number), f"There {some} in the picture.")


def presence(scene: Scene, category: str) -> Fact:
    """Ask whether a scene shows a category."""
    seen = [thing for thing in scene.things if thing.category == category]
    question = f"Is there {article(category)} in the picture?"
    if not seen:
        return Fact("presence", question, "no", f"No, there is no {category} in the picture.")
    there = listed([f"{article(thing.name)} at the {thing.place}" for thing in seen])
    return Fact("presence", question, "yes", f"Yes, there is {there}.")


def _quarters(scene: Scene) -> list[Fact]:
    """Ask what is in each quarter that holds exactly one thing."""
    places: dict[str, list[Thing]] = {}
    for thing in scene.things:
        places.setdefault(thing.place, []).append(thing)
    return [
        Fact("category", f"What is at the {place}?", things[0].category,
             f"{capital(article(things[0].name))} is at the {place}.", things[0])
        for place, things in places.items() if len(things) == 1
    ]  # fmt: skip


def relations(scene: Scene) -> list[tuple[str, bool]]:
    """Return statements on the relative places of things, each with its truth."""
    found = []
    for thing, other in product(scene.unique(), repeat=2):
        words = [("above", "below")] if thing.row < other.row else []
        words += [("left of", "right of")] if thing.column < other.column else []
        for pair in words:
            for word, truth in zip(pair, (True, False), strict=True):
                found.append((f"The {thing.category} is {word} the {other.category}.", truth))
    return found


def caption(scene: Scene, rng: random.Random) -> str:
    """Return a sentence on the whole scene, in one of three wordings."""
    things = list(scene.things)
    rng.shuffle(things)
    names = listed([article(thing.name) for thing in things])
    ground = at_ground(scene.background)
    wordings = (
        f"{capital(names)} {ground}.",
        f"{capital(ground)} there is {names}.",
        f"A picture of {names} {ground}.",
    )
    return rng.choice(wordings)


def paragraph(scene: Scene) -> str:
    """Return a sentence on the background and one on each thing, quarter by quarter."""
    sentences = [f"The picture was taken {at_ground(scene.background)}."]
    for thing in scene.by_quarter():
        subject = f"{thing.size} {thing.name}"
        sentences.append(f"{capital(article(subject))} is at the {thing.place}.")
    if scene.flock:
        sentences.append("A flock of tiny birds is flying by.")
    return " ".join(sentences)


def stated(thing: Thing) -> str:
    """Return a sentence with all that is true of a thing."""
    return f"There is {article(f'{thing.size} {thing.name}')} at the {thing.place}."


# Open questions that need a step of reasoning, as the conversational sources word them: from a use
# to a thing, and from what is seen to the place.
USE_WORDINGS = (
    "What could someone in this picture use for {use}, and how can you tell?",
    "Suppose you think of {use}. Which object would you look for here?",
    "Somebody needs something for {use}. What would help them here, and why?",
)
SETTING_WORDINGS = (
    "What kind of place could this be, and what makes you think so?",
    "Where might this picture have been taken, and what can be seen there?",
    "Suppose you stood in this picture. Where would you be, and what would be around you?",
)


def use_reasoning(thing: Thing, wording: str) -> tuple[str, str]:
    """Return a question from a use to a thing, and its answer, which gives the step."""
    use = USES[thing.category]
    answer = (
        f"{capital(article(thing.category))} is for {use}. There is {article(thing.name)} at the "
        f"{thing.place}, so it could serve for {use}."
    )
    return wording.format(use=use), answer


def setting_reasoning(scene: Scene, wording: str) -> tuple[str, str]:
    """Return a question on what kind of place a scene shows, and its answer with what is seen."""
    seen = listed([article(thing.name) for thing in scene.by_quarter()])
    return wording, f"It could be {at_ground(scene.background)}. There is {seen}."


def reasoning(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Return a question that needs a step of reasoning, and its answer."""
    if rng.random() < 0.5:
        return setting_reasoning(scene, rng.choice(SETTING_WORDINGS))
    return use_reasoning(rng.choice(scene.things), rng.choice(USE_WORDINGS))


def sample_facts(
    scene: Scene, rng: random.Random, count: int, *, kinds: tuple[str, ...] = ()
) -> list[Fact]:
    """Draw up to `count` different facts of a scene, of these kinds or of all."""
    pool = [fact for fact in facts(scene) if not kinds or fact.kind in kinds]
    weights = [0.25 if fact.kind == "presence" else 1.0 for fact in pool]
    drawn: list[Fact] = []
    while pool and len(drawn) < count:
        index = rng.choices(range(len(pool)), weights)[0]
        drawn.append(pool.pop(index))
        weights.pop(index)
    return drawn


def follow_up(thing: Thing, asked: str, rng: random.Random) -> Fact:
    """Return a question on `it`, of another kind than the one `asked` before about the thing."""
    wordings = {
        "colour": ("What color is it?", thing.colour, f"Its color is {thing.colour}."),
        "size": ("How big is it?", thing.size, f"Its size is {thing.size}."),
        "place": ("Where is it?", thing.place, f"It is at the {thing.place}."),
    }
    known = "place" if asked == "category" else asked  # the question gave the place away
    kind = rng.choice([kind for kind in wordings if kind != known])
    return Fact(kind, *wordings[kind], thing)


def dialog_facts(scene: Scene, rng: random.Random, count: int) -> list[Fact]:
    """Draw up to `count` closed questions in turn; every second one on a thing has a follow-up."""
    found: list[Fact] = []
    for fact in sample_facts(scene, rng, count):
        found.append(fact)
        if fact.thing and rng.random() < 0.5:
            found.append(follow_up(fact.thing, fact.kind, rng))
    return found[:count]


def wrong_answer(fact: Fact, rng: random.Random) -> str:
    """Return a false answer of the right kind."""
    choices = [text for text in _WRONG.get(fact.kind, ("yes", "no")) if text != fact.short]
    return rng.choice(choices)


def four_choices(right: str, scene: Scene, rng: random.Random) -> list[str]:
    """Return a category and three that the scene does not show, in a random order."""
    others = [name for name in CATEGORY_IDS if name not in scene.counts()]
    choices = [right, *rng.sample(others, 3)]
    rng.shuffle(choices)
    return choices


def ten_answers(fact: Fact, rng: random.Random) -> tuple[list[dict[str, Any]], str]:
    """Return the answers of ten annotators, some of them wrong, and `multiple_choice_answer`.

    For about 4 % of the questions five annotators make the same mistake, so that only
    `multiple_choice_answer` settles the tie, as in VQAv2.
    """
    tie = rng.random() < 0.04
    texts = [fact.short] * (5 if tie else rng.randint(7, 10))
    other = wrong_answer(fact, rng)
    texts += [other] * (10 - len(texts))
    rng.shuffle(texts)
    answers = [
        {"answer": text, "answer_confidence": rng.choice(("yes", "maybe")), "answer_id": number}
        for number, text in enumerate(texts, start=1)
    ]
    return answers, fact.short
