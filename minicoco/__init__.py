"""A small synthetic COCO and the tiny LLaVA that sees it; README.md describes the package.

This module holds what a preset can set.
"""

from typing import Annotated, Literal

import msgspec

from cocoift.core.schema import Count, Settings
from cocoift.tuning.chat import ChatFormat

# No system prompt: at this size it would be a third of every short conversation.
CHAT = ChatFormat("vicuna_v1", system="")

# Raise it when the same recipe builds another model than before: when scenes are drawn or described
# differently, or when the chat, the format prompts or the training change.  Checkpoints of an
# earlier version are then rebuilt; `python -m minicoco.llava data/mini_llava` rebuilds the shipped
# one.
VERSION = 2


class MiniCoco(Settings, frozen=True):
    """How many scenes are drawn to train on, to hold out and to ask about, and from which seed.

    `pretraining` are further ones, of stage one.  `pixels` is the side of an image.
    """

    train: Annotated[int, msgspec.Meta(ge=0)]
    held_out: Annotated[int, msgspec.Meta(ge=0)]
    benchmark: Count = 40
    pretraining: Annotated[int, msgspec.Meta(ge=0)] = 0
    seed: int = 0
    pixels: Count = 64


class Recipe(Settings, frozen=True):
    """Everything that determines the tiny LLaVA; the same recipe builds the same kind of model.

    `rounds` is what pretraining's conversations are: `single` ones, as in LLaVA's stage one, or
    `several`, which answer open questions in full after short answers.
    """

    seed: int = 0
    rounds: Literal["single", "several"] = "single"
    pixels: int = 64
    scenes: Count = 8_000
    tower_steps: Count = 250
    language_steps: Count = 2_600
    batch_tokens: Count = 1_300
    width: Count = 128
    layers: Count = 4
    heads: Count = 4
    vocabulary: int = 704
    context_tokens: int = 2_048
