"""Scenes: what a mini-COCO picture shows, sampled from a seed and known exactly."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

# COCO's own category ids and names, with the ten that survive being drawn in 16 pixels.
CATEGORIES = {
    3: "car",
    9: "boat",
    13: "stop sign",
    16: "bird",
    28: "umbrella",
    38: "kite",
    47: "cup",
    53: "apple",
    84: "book",
    85: "clock",
}
SUPERCATEGORIES = {
    "car": "vehicle",
    "boat": "vehicle",
    "stop sign": "outdoor",
    "bird": "animal",
    "umbrella": "accessory",
    "kite": "sports",
    "cup": "kitchen",
    "apple": "food",
    "book": "indoor",
    "clock": "indoor",
}
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
USES = {
    "car": "driving on a road",
    "boat": "crossing the water",
    "stop sign": "stopping the traffic",
    "bird": "singing in a tree",
    "umbrella": "keeping off the rain",
    "kite": "flying in the wind",
    "cup": "drinking tea",
    "apple": "eating",
    "book": "reading",
    "clock": "telling the time",
}
GRID = 4
PLACES = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: where it stands on the 4 x 4 grid (row 0 is the top), how big, what it says."""

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
        """The quarter of the picture, `top left`."""
        vertical = "top" if self.row < GRID // 2 else "bottom"
        return f"{vertical} {'left' if self.column < GRID // 2 else 'right'}"

    @property
    def size(self) -> str:
        """`small` or `large`."""
        return "large" if self.large else "small"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture: its COCO id, background and things in reading order.

    `flock` marks the cell of a crowd of tiny birds, annotated as COCO annotates crowds.
    """

    image_id: int
    pixels: int
    background: str
    things: tuple[Thing, ...]
    flock: tuple[int, int] | None = None

    def counts(self) -> dict[str, int]:
        """Return how many things there are of each category shown."""
        counts: dict[str, int] = {}
        for thing in self.things:
            counts[thing.category] = counts.get(thing.category, 0) + 1
        return counts

    def by_quarter(self) -> list[Thing]:
        """Return the things quarter by quarter, in the order of `PLACES`: as they are told."""
        return sorted(self.things, key=lambda thing: PLACES.index(thing.place))

    def unique(self) -> list[Thing]:
        """Return the things whose category occurs once, so that `the car` means one thing."""
        counts = self.counts()
        return [thing for thing in self.things if counts[thing.category] == 1]


def sample_scenes(count: int, *, seed: int, pixels: int = 64) -> list[Scene]:
    """Sample `count` scenes with distinct image ids; the same seed gives the same scenes.

    Ids are drawn from COCO's range (1 to 581,929) with gaps, as upstream.
    """
    ids = random.Random(f"ids/{seed}").sample(range(1, 581_930), count)
    return list(islice(_scenes(ids, seed=seed, pixels=pixels), count))


def _scenes(ids: list[int], *, seed: int, pixels: int) -> Iterator[Scene]:
    for image_id in ids:
        rng = random.Random(f"scene/{seed}/{image_id}")
        count = rng.choices((2, 3, 4), weights=(3, 4, 3))[0]
        cells = rng.sample([(row, column) for row in range(GRID) for column in range(GRID)], 5)
        things = _things(rng, cells[:count])
        flock = cells[4] if rng.random() < 0.05 else None
        background = rng.choice(list(BACKGROUNDS))
        yield Scene(
            image_id=image_id, pixels=pixels, background=background, things=things, flock=flock
        )


def _things(rng: random.Random, cells: list[tuple[int, int]]) -> tuple[Thing, ...]:
    """Fill cells; some scenes repeat a category so that counting has something to count."""
    names = list(CATEGORIES.values())
    categories = rng.sample(names, len(cells))
    if rng.random() < 0.35:
        categories[-1] = categories[0]
    colours = rng.sample(list(COLOURS), len(cells))
    things = []
    for (row, column), category, colour in zip(cells, categories, colours, strict=True):
        letter = rng.choice("ABCDEFH") if category == "stop sign" else ""
        large = rng.random() < 0.5
        things.append(
            Thing(
                category=category,
                colour=colour,
                large=large,
                row=row,
                column=column,
                letter=letter,
            )
        )
    return tuple(sorted(things, key=lambda thing: (thing.row, thing.column)))
