"""Does a model see?  What it says of held-out scenes, against the truth and against blindness."""

from collections.abc import Iterable, Sequence

import pandas as pd
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from cocoift.core.bootstrap import ratio_interval
from cocoift.core.images import mean_colour
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import Prompt
from cocoift.tuning.chat_formats import ChatFormat
from minicoco.draw import draw
from minicoco.llava import CHAT
from minicoco.scenes import Scene

FACTS = ("category", "colour", "place", "count")
IMAGES = ("shown", "other", "blank")


def describe(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    pictures: Iterable[Image.Image],
    *,
    chat: ChatFormat = CHAT,
    question: str = "Describe the picture.",
    new_tokens: int = 120,
    batch: int = 64,
) -> list[str]:
    """Return the model's greedy answer to one question about each picture."""
    asked = [Message("human", f"{IMAGE_MARKER}\n{question}")]
    return generate(
        model,
        processor,
        [Prompt(str(number), (picture,), asked) for number, picture in enumerate(pictures)],
        chat=chat,
        new_tokens=new_tokens,
        batch=batch,
    )


def told_facts(scene: Scene, description: str) -> list[tuple[str, bool]]:
    """Return which facts of a scene a description states, as (fact, whether stated) pairs.

    Each thing gives three: its category is named; it is named with its colour (`red car`); and a
    sentence that names it so gives its place.  The scene gives one: as many things are told as
    there are.
    """
    sentences = description.split(".")
    pairs = []
    for thing in scene.things:
        named = [sentence for sentence in sentences if thing.category in sentence]
        coloured = [sentence for sentence in named if thing.name in sentence]
        pairs.append(("category", bool(named)))
        pairs.append(("colour", bool(coloured)))
        pairs.append(("place", any(thing.place in sentence for sentence in coloured)))
    placed = sum(" is at the " in sentence for sentence in sentences)
    return [*pairs, ("count", placed == len(scene.things))]


def sight_table(
    models: Sequence[tuple[LlavaForConditionalGeneration, LlavaProcessor]],
    scenes: Sequence[Scene],
    *,
    chat: ChatFormat = CHAT,
    resamples: int = 2_000,
) -> pd.DataFrame:
    """Return accuracy with a 95 % interval per image condition and fact, all models together.

    Conditions: the scene's own picture (`shown`), the next scene's (`other`), and a blank one.
    Columns: image, fact, accuracy, low, high, n; intervals resample scenes, since the facts of
    one scene are correlated.
    """
    drawn = [draw(scene) for scene in scenes]
    blank = Image.new("RGB", drawn[0].size, mean_colour(models[0][1].image_processor.image_mean))
    pictures = {"shown": drawn, "other": [*drawn[1:], drawn[0]], "blank": [blank] * len(drawn)}
    rows = []
    for condition in IMAGES:
        descriptions = [describe(*model, pictures[condition], chat=chat) for model in models]
        found = [
            (number, *pair)
            for texts in descriptions
            for number, (scene, text) in enumerate(zip(scenes, texts, strict=True))
            for pair in told_facts(scene, text)
        ]
        facts = pd.DataFrame(found, columns=["scene", "fact", "right"])
        for fact in FACTS:
            own = facts[facts.fact == fact]
            ends = ratio_interval(own.scene, own.right, own.right.notna(), resamples=resamples)
            rows.append((condition, fact, own.right.mean(), *ends, len(own)))
    return pd.DataFrame(rows, columns=["image", "fact", "accuracy", "low", "high", "n"])


def summary(table: pd.DataFrame) -> str:
    """Return the sight table in one sentence: what is named right, seeing and guessing."""

    def shares(condition: str) -> str:
        rows = table[table.image == condition].set_index("fact").accuracy
        return ", ".join(f"{fact} {rows[fact]:.0%}" for fact in ("category", "colour", "place"))

    return (
        f"Describing held-out scenes, the base is right in {shares('shown')}; of another "
        f"scene's picture it would have been in {shares('other')}."
    )
