"""What the tiny base model is pretrained to say: descriptions of scenes, questions about them.

The counterpart of LLaVA's first stage and of a language model's pretraining.  Most conversations
describe, the others ask.  For each turn, independent coins decide whether the answer is short or
full and whether the question has a format prompt, so that the base model learns the words of the
study but no cue for the length of an answer.  It also learns wordings that no source of the
mixtures uses, always answered in full: a language model knows more words than it is tuned on.
"""

import random

from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.core.text import FORMAT_PROMPTS
from minicoco.dialog_sets import DESCRIBE
from minicoco.scenes import (
    CATEGORIES,
    COLOURS,
    SUPERCATEGORIES,
    Scene,
    Thing,
    article,
    at_ground,
    caption,
    listed,
    paragraph,
    reasoning,
    relations,
    sample_facts,
)

# Open questions that only the base model reads: no source of the mixtures asks them.
ACCOUNTS = (
    "Give an account of what is here and where it is.",
    "Say what is in this picture and where.",
)
ABOUT = ("Tell me about the {category}.", "What can you say about the {category}?")
SETTING = "What kind of place could this be, and what can be seen there?"

DESCRIPTION_SHARE = 0.65
PROMPT_SHARE = 0.1


def conversation(scene: Scene, rng: random.Random) -> list[Message]:
    """Return a pretraining conversation about a scene."""
    pairs = (_descriptions if rng.random() < DESCRIPTION_SHARE else _questions)(scene, rng)
    messages = []
    for position, (question, answer) in enumerate(pairs):
        if rng.random() < PROMPT_SHARE:
            question = f"{question} {rng.choice(FORMAT_PROMPTS)}"
        marker = f"{IMAGE_MARKER}\n" if position == 0 else ""
        messages += [Message("human", f"{marker}{question}"), Message("gpt", answer)]
    return messages


def _descriptions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    pairs = [(rng.choice((*DESCRIBE, *ACCOUNTS)), paragraph(scene))]
    if rng.random() < 0.35:
        pairs.append(("What is this picture about?", caption(scene, rng)))
    rng.shuffle(pairs)
    return pairs


def _questions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Draw six questions, two of them on places, which are hardest to learn, and two open ones."""
    asked = sample_facts(scene, rng, 4) + sample_facts(scene, rng, 2, kinds=("place", "category"))
    pairs = [(fact.question, rng.choice((fact.short, fact.sentence))) for fact in asked]
    pairs.append(_about(rng.choice(scene.unique() or scene.things), rng))
    pairs.append(rng.choice((reasoning(scene, rng), _setting(scene))))
    rng.shuffle(pairs)
    return pairs


def _about(thing: Thing, rng: random.Random) -> tuple[str, str]:
    question = rng.choice(ABOUT).format(category=thing.category)
    return question, f"There is {article(f'{thing.size} {thing.name}')} at the {thing.place}."


def _setting(scene: Scene) -> tuple[str, str]:
    seen = listed([article(thing.name) for thing in scene.by_quarter()])
    return SETTING, f"It could be {at_ground(scene.background)}. There is {seen}."


def vocabulary_texts(scenes: list[Scene], rng: random.Random) -> list[str]:
    """Return texts that contain every word of the study, to train the tokenizer on."""
    texts = [message.value for scene in scenes for message in conversation(scene, rng)]
    texts += [text for scene in scenes for text in reasoning(scene, rng)]
    texts += [statement for scene in scenes for statement, _ in relations(scene)]
    names = (*CATEGORIES.values(), *COLOURS, *SUPERCATEGORIES.values())
    return [*texts, *FORMAT_PROMPTS * 20, *names, *["USER: ASSISTANT:"] * len(scenes)]
