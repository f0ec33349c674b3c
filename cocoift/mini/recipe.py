"""What a preset can say of the mini world and of its tiny LLaVA."""

from cocoift.core.schema import Settings


class MiniCoco(Settings, frozen=True):
    """How many scenes are drawn for training and held out, from which seed, at which size."""

    train: int
    held_out: int
    seed: int = 0
    pixels: int = 64


class Recipe(Settings, frozen=True):
    """Everything the tiny LLaVA is built from; the same recipe builds the same kind of model."""

    seed: int = 0
    pixels: int = 64
    scenes: int = 8_000
    tower_steps: int = 250
    language_steps: int = 900
    batch_tokens: int = 1_300
    width: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 704
    context_tokens: int = 2_048
