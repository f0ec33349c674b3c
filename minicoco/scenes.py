"""The synthetic world: scenes and the collections that hold them.

A scene is what a mini-COCO image shows, sampled from a seed and known exactly.  A world is all the
scenes of a study, with their names in the upstream collections.
"""

import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property

# COCO's ids, names and supercategories of the ten categories that survive being drawn in 16 pixels,
# and what each is for.
_KINDS = (
    (3, "car", "vehicle", "driving on a road"),
    (9, "boat", "vehicle", "crossing the water"),
    (13, "stop sign", "outdoor", "stopping the traffic"),
    (16, "bird", "animal", "singing in a tree"),
    (28, "umbrella", "accessory", "keeping off the rain"),
    (38, "kite", "sports", "flying in the wind"),
    (47, "cup", "kitchen", "drinking tea"),
    (53, "apple", "food", "eating"),
    (84, "book", "indoor", "reading"),
    (85, "clock", "indoor", "telling the time"),
)
CATEGORIES = {number: name for number, name, *_ in _KINDS}
CATEGORY_IDS = {name: number for number, name, *_ in _KINDS}
SUPERCATEGORIES = {name: above for _, name, above, _ in _KINDS}
USES = {name: use for _, name, _, use in _KINDS}
COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 150, 44),
    "blue": (31, 90, 200),
    "yellow": (245, 210, 30),
    "purple": (140, 60, 170),
    "black": (25, 25, 25),
}
BACKGROUNDS = {
    "beach": (240, 222, 179),
    "park": (186, 224, 170),
    "street": (190, 190, 195),
    "snow": (244, 247, 250),
    "lake": (160, 205, 235),
}
GRID = 4
NUMBERS = ("zero", "one", "two", "three", "four", "five")
PLACES = ("top left", "top right", "bottom left", "bottom right")
LETTERS = "ABCDEFH"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: its cell on the 4 x 4 grid (row 0 is the top), its size, and the letter on it."""

    category: str
    colour: str
    large: bool
    row: int
    column: int
    letter: str = ""

    @property
    def name(self) -> str:
        """Colour and category, `red car`."""
        return f"{self.colour} {self.category}"

    @property
    def place(self) -> str:
        """The quarter of the image, `top left`."""
        vertical = "top" if self.row < GRID // 2 else "bottom"
        return f"{vertical} {'left' if self.column < GRID // 2 else 'right'}"

    @property
    def size(self) -> str:
        """`small` or `large`."""
        return "large" if self.large else "small"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an image shows: its COCO id, background, and things in reading order.

    `flock` is the cell of a crowd of tiny birds, annotated as COCO annotates crowds.
    """

    image_id: int
    pixels: int
    background: str
    things: tuple[Thing, ...]
    flock: tuple[int, int] | None = None

    def counts(self) -> dict[str, int]:
        """Return how many things there are of each category shown."""
        return dict(Counter(thing.category for thing in self.things))

    def by_quarter(self) -> list[Thing]:
        """Return the things quarter by quarter, in the order of `PLACES`, as descriptions do."""
        return sorted(self.things, key=lambda thing: PLACES.index(thing.place))

    def unique(self) -> list[Thing]:
        """Return the things whose category occurs once, so that `the car` is unambiguous."""
        counts = self.counts()
        return [thing for thing in self.things if counts[thing.category] == 1]


def sample_scenes(count: int, *, seed: int, pixels: int = 64) -> list[Scene]:
    """Sample `count` scenes with distinct image ids; the same seed gives the same scenes.

    Ids are drawn from COCO's range (1 to 581,929) and have gaps, as upstream.
    """
    ids = random.Random(f"ids/{seed}").sample(range(1, 581_930), count)
    return [_scene(image_id, seed=seed, pixels=pixels) for image_id in ids]


def _scene(image_id: int, *, seed: int, pixels: int) -> Scene:
    rng = random.Random(f"scene/{seed}/{image_id}")
    count = rng.choices((2, 3, 4), weights=(3, 4, 3))[0]
    cells = rng.sample([(row, column) for row in range(GRID) for column in range(GRID)], 5)
    things = _things(rng, cells[:count])
    flock = cells[4] if rng.random() < 0.05 else None
    ground = rng.choice(list(BACKGROUNDS))
    return Scene(image_id=image_id, pixels=pixels, background=ground, things=things, flock=flock)


def _things(rng: random.Random, cells: list[tuple[int, int]]) -> tuple[Thing, ...]:
    """Fill cells; some scenes repeat a category so that there is something to count."""
    names = list(CATEGORIES.values())
    categories = rng.sample(names, len(cells))
    if rng.random() < 0.35:
        categories[-1] = categories[0]
    colours = rng.sample(list(COLOURS), len(cells))
    things = []
    for (row, column), category, colour in zip(cells, categories, colours, strict=True):
        letter = rng.choice(LETTERS) if category == "stop sign" else ""
        large = rng.random() < 0.5
        things.append(Thing(category=category, colour=colour, large=large,
                            row=row, column=column, letter=letter))  # fmt: skip
    return tuple(sorted(things, key=lambda thing: (thing.row, thing.column)))


@dataclass(frozen=True)
class World:
    """All scenes of a mini-COCO and their identities in the upstream collections.

    Visual Genome alone has the `foreign` scenes.
    """

    seed: int
    train: tuple[Scene, ...]
    held_out: tuple[Scene, ...]
    foreign: tuple[Scene, ...]

    @cached_property
    def scenes(self) -> dict[int, Scene]:
        """Every COCO scene by image id."""
        return {scene.image_id: scene for scene in (*self.train, *self.held_out)}

    @cached_property
    def genome(self) -> dict[int, Scene]:
        """About 45 % of the COCO scenes and all foreign ones, by Visual Genome id."""
        rng = self.rng("visual_genome")
        chosen = [scene for scene in self.scenes.values() if rng.random() < 0.45]
        ids = rng.sample(range(2_315_000, 2_418_000), len(chosen) + len(self.foreign))
        return dict(zip(ids, (*chosen, *self.foreign), strict=True))

    def has_coco_id(self, scene: Scene) -> bool:
        """Tell whether a Visual Genome scene is also a COCO image."""
        return scene.image_id in self.scenes

    def rng(self, name: str) -> random.Random:
        """Return a writer's random numbers, which do not depend on the other writers."""
        return random.Random(f"{self.seed}/{name}")

    def some(self, share: float, rng: random.Random) -> list[Scene]:
        """Return about `share` of the train scenes."""
        return [scene for scene in self.train if rng.random() < share]

    def some_genome(self, share: float, rng: random.Random) -> list[tuple[int, Scene]]:
        """Return about `share` of the Visual Genome scenes with their ids there."""
        return [item for item in self.genome.items() if rng.random() < share]


def make_world(*, train: int, held_out: int, seed: int, pixels: int) -> World:
    """Sample the scenes of a mini-COCO; the same arguments give the same world."""
    foreign = max(2, train // 20)
    scenes = sample_scenes(train + held_out + foreign, seed=seed, pixels=pixels)
    # val2017 is a part of val2014, so the held-out scenes are taken from val2014, sorted first.
    scenes.sort(key=lambda scene: split_2014(scene) == "train")
    val, rest = scenes[:held_out], scenes[held_out:]
    rest.sort(key=lambda scene: scene.image_id)
    return World(seed, tuple(rest[foreign:]), tuple(val), tuple(rest[:foreign]))


def split_2014(scene: Scene) -> str:
    """Return the 2014 split of an image: train2017 holds train2014 and most of val2014."""
    return "val" if scene.image_id % 10 < 3 else "train"


def name_2014(scene: Scene) -> str:
    """Return the 2014 file name, `COCO_train2014_000000000009.jpg`."""
    return f"COCO_{split_2014(scene)}2014_{scene.image_id:012d}.jpg"


def name_2017(scene: Scene) -> str:
    """Return the 2017 file name, `000000000009.jpg`."""
    return f"{scene.image_id:012d}.jpg"
