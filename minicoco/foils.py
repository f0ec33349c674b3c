"""True sentences on the benchmark's scenes, each with three false ones, in SugarCrepe's format."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace

from minicoco.dialog_sets import DESCRIBE
from minicoco.facts import stated
from minicoco.scenes import CATEGORY_IDS, COLOURS, GRID, Scene, Thing

# By the kinds of SugarCrepe's files: here `att` is the colour, `rel` the place.
_KINDS = ("att", "rel", "obj")
_PER_SCENE = 2


def files(
    scenes: Mapping[str, Scene], rng: random.Random
) -> Iterator[tuple[str, dict[str, dict[str, str]]]]:
    """Yield a file per kind of foil as (path, rows by key); all have the same true sentences.

    The question is a conversational source's and leaves colour, place and object open;
    SugarCrepe's own rows have none.
    """
    true = [
        (name, scene, thing, question)
        for name, scene in scenes.items()
        for thing, question in zip(
            rng.sample(scene.things, _PER_SCENE), rng.sample(DESCRIBE, _PER_SCENE), strict=True
        )
    ]
    false = [exchanged(thing, scene, rng) for _, scene, thing, _ in true]
    for kind in _KINDS:
        rows = {
            str(number): {
                "filename": name,
                "caption": stated(thing),
                "negative_caption": stated(foils[kind]),
                "question": question,
            }
            for number, ((name, _, thing, question), foils) in enumerate(
                zip(true, false, strict=True)
            )
        }
        yield f"sugar_crepe/replace_{kind}.json", rows


def exchanged(thing: Thing, scene: Scene, rng: random.Random) -> dict[str, Thing]:
    """Return a thing in another colour, in another place, and as another category, by kind.

    The scene shows neither that colour nor that category; every thing in it has a colour of its
    own, so this one is nowhere else.  The category has as many words as the thing's, where the
    scene leaves such a one.
    """
    shown = {other.colour for other in scene.things}
    birds = {"bird"} if scene.flock else set()
    absent = [name for name in CATEGORY_IDS if name not in scene.counts().keys() | birds]
    words = len(thing.category.split())
    as_long = [name for name in absent if len(name.split()) == words]
    turned, mirrored = rng.choice(((True, False), (False, True), (True, True)))
    return {
        "att": replace(thing, colour=rng.choice([name for name in COLOURS if name not in shown])),
        "rel": replace(
            thing,
            row=GRID - 1 - thing.row if turned else thing.row,
            column=GRID - 1 - thing.column if mirrored else thing.column,
        ),
        "obj": replace(thing, category=rng.choice(as_long or absent)),
    }
