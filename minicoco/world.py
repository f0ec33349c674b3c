"""The mini world: which scenes are train2017 or val2017, and what other collections call them."""

import random
from dataclasses import dataclass
from functools import cached_property

from minicoco.facts import Fact, facts
from minicoco.scenes import Scene, sample_scenes


@dataclass(frozen=True)
class World:
    """All scenes of a mini-COCO and their identities in the upstream collections."""

    seed: int
    train: tuple[Scene, ...]
    held_out: tuple[Scene, ...]
    foreign: tuple[Scene, ...]  # pictures that only Visual Genome has

    @cached_property
    def scenes(self) -> dict[int, Scene]:
        """Every COCO scene by image id."""
        return {scene.image_id: scene for scene in (*self.train, *self.held_out)}

    @cached_property
    def genome(self) -> dict[int, Scene]:
        """Visual Genome id -> scene, for about 45 % of the COCO scenes and all foreign ones."""
        rng = self.rng("visual_genome")
        chosen = [scene for scene in self.scenes.values() if rng.random() < 0.45]
        ids = rng.sample(range(2_315_000, 2_418_000), len(chosen) + len(self.foreign))
        return dict(zip(ids, (*chosen, *self.foreign), strict=True))

    def has_coco_id(self, scene: Scene) -> bool:
        """Tell whether a Visual Genome scene is a COCO image too."""
        return scene.image_id in self.scenes

    def rng(self, name: str) -> random.Random:
        """Return the random numbers of one writer, independent of the other writers."""
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
    # val2017 is a part of val2014, so the held-out scenes come from those that stand first there.
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


def sample_facts(
    scene: Scene, rng: random.Random, count: int, *, kinds: tuple[str, ...] = ()
) -> list[Fact]:
    """Draw up to `count` different facts of a scene, half of the presence questions being no."""
    pool = [fact for fact in facts(scene) if not kinds or fact.kind in kinds]
    weights = [0.25 if fact.kind == "presence" else 1.0 for fact in pool]
    drawn: list[Fact] = []
    while pool and len(drawn) < count:
        index = rng.choices(range(len(pool)), weights)[0]
        drawn.append(pool.pop(index))
        weights.pop(index)
    return drawn
