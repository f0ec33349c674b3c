"""What can truly be said about a scene: questions with their short and their full answers."""

import random
from dataclasses import dataclass

from minicoco.scenes import CATEGORIES, USES, Scene, Thing

NUMBERS = ("zero", "one", "two", "three", "four", "five")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A question with its answer as a word or phrase and as a sentence; `kind` names what it asks.

    Kinds: `colour place count presence category size background use letter`.
    """

    kind: str
    question: str
    short: str
    sentence: str


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
    """Return every question the mini sources ask of a scene, in a fixed order."""
    found = [fact for thing in scene.unique() for fact in _thing_facts(thing)]
    found += [_count(scene, category) for category in scene.counts()]
    found += [_presence(scene, category) for category in CATEGORIES.values()]
    found += _quarters(scene)
    ground = capital(f"the picture was taken {at_ground(scene.background)}.")
    found.append(
        Fact(
            kind="background",
            question="Where was this picture taken?",
            short=scene.background,
            sentence=ground,
        )
    )
    return found


def _thing_facts(thing: Thing) -> list[Fact]:
    category = thing.category
    made = [
        Fact(
            kind="colour",
            question=f"What color is the {category}?",
            short=thing.colour,
            sentence=f"The {category} is {thing.colour}.",
        ),
        Fact(
            kind="place",
            question=f"Where is the {category}?",
            short=thing.place,
            sentence=f"The {thing.name} is at the {thing.place}.",
        ),
        Fact(
            kind="size",
            question=f"How big is the {category}?",
            short=thing.size,
            sentence=f"The {thing.name} is {thing.size}.",
        ),
        Fact(
            kind="use",
            question=f"Which object is for {USES[category]}?",
            short=category,
            sentence=f"The {thing.name} at the {thing.place} is for {USES[category]}.",
        ),
    ]
    if thing.letter:
        made.append(
            Fact(
                kind="letter",
                question="What letter is on the sign?",
                short=thing.letter,
                sentence=f"The letter on the sign is {thing.letter}.",
            )
        )
    return made


def _count(scene: Scene, category: str) -> Fact:
    number = scene.counts()[category]
    some = f"are {NUMBERS[number]} {plural(category)}" if number > 1 else f"is one {category}"
    return Fact(
        kind="count",
        question=f"How many {plural(category)} are there?",
        short=str(number),
        sentence=f"There {some} in the picture.",
    )


def _presence(scene: Scene, category: str) -> Fact:
    seen = [thing for thing in scene.things if thing.category == category]
    if seen:
        there = listed([f"{article(thing.name)} at the {thing.place}" for thing in seen])
        sentence = f"Yes, there is {there}."
    else:
        sentence = f"No, there is no {category} in the picture."
    return Fact(
        kind="presence",
        question=f"Is there {article(category)} in the picture?",
        short="yes" if seen else "no",
        sentence=sentence,
    )


def _quarters(scene: Scene) -> list[Fact]:
    """Ask what is in a quarter that holds exactly one thing."""
    places: dict[str, list[Thing]] = {}
    for thing in scene.things:
        places.setdefault(thing.place, []).append(thing)
    return [
        Fact(
            kind="category",
            question=f"What is at the {place}?",
            short=things[0].category,
            sentence=f"{capital(article(things[0].name))} is at the {place}.",
        )
        for place, things in places.items()
        if len(things) == 1
    ]


def relations(scene: Scene) -> list[tuple[str, bool]]:
    """Return statements on where things stand to each other, each with its truth."""
    found = []
    things = scene.unique()
    for one in things:
        for other in things:
            if one.row < other.row:
                found.append((f"The {one.category} is above the {other.category}.", True))
                found.append((f"The {one.category} is below the {other.category}.", False))
            if one.column < other.column:
                found.append((f"The {one.category} is left of the {other.category}.", True))
                found.append((f"The {one.category} is right of the {other.category}.", False))
    return found


def caption(scene: Scene, rng: random.Random) -> str:
    """Return one sentence on the whole scene, worded by chance as captions are."""
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
    """Return a sentence on the ground and one on each thing, quarter by quarter."""
    sentences = [f"The picture was taken {at_ground(scene.background)}."]
    for thing in scene.by_quarter():
        subject = f"{thing.size} {thing.name}"
        sentences.append(f"{capital(article(subject))} is at the {thing.place}.")
    if scene.flock:
        sentences.append("A flock of tiny birds is flying by.")
    return " ".join(sentences)


def reasoning(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Return a question that needs a step of reasoning, and its answer with the step."""
    thing = rng.choice(scene.things)
    use = USES[thing.category]
    question = rng.choice(
        (
            f"What could someone in this picture use for {use}, and how can you tell?",
            f"Suppose you think of {use}. Which object would you look for here?",
        )
    )
    answer = (
        f"{capital(article(thing.category))} is for {use}. There is {article(thing.name)} at the "
        f"{thing.place}, so it could serve for {use}."
    )
    return question, answer
