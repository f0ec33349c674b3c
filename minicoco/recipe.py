"""What a preset can say of the mini world and of its tiny LLaVA."""

from cocoift.core.schema import Settings

# Raise it when the same recipe builds another model than before: when scenes are drawn or
# described otherwise, the chat or the format prompts change, or the training does.  Checkpoints of
# an earlier version are then built again; `python -m minicoco.build data/mini_llava` builds
# the shipped one.
VERSION = 1


class MiniCoco(Settings, frozen=True):
    """How many scenes are drawn to train on, to hold out and to ask about; from which seed.

    `pixels` is the side of a picture.
    """

    train: int
    held_out: int
    benchmark: int = 40
    seed: int = 0
    pixels: int = 64


class Recipe(Settings, frozen=True):
    """Everything the tiny LLaVA is built from; the same recipe builds the same kind of model."""

    seed: int = 0
    pixels: int = 64
    scenes: int = 8_000
    tower_steps: int = 250
    language_steps: int = 1_200
    batch_tokens: int = 1_300
    width: int = 128
    layers: int = 4
    heads: int = 4
    vocabulary: int = 704
    context_tokens: int = 2_048
