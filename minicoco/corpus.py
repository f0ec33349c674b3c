"""What the tiny base model is pretrained to say: descriptions of scenes, questions about them.

The counterpart of LLaVA's first stage and of a language model's pretraining.  As in that stage,
conversations are single rounds, which describe or ask.  So that the base model can read a history
at all, the others are rounds of closed questions.  Few of those have an open one among them, after
full answers alone, never after a short one: without any, the base takes every later question for a
closed one.  For each other answer to a closed question a coin decides whether it is short or full,
and for each question whether it has a format prompt: the base model learns the words of the study
but no cue for the length of an answer.  It also learns wordings that no source of the mixtures
uses, always answered in full: a language model knows more words than it is tuned on.
"""

import random
from typing import Literal

from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.core.text import FORMAT_PROMPTS
from minicoco.dialog_sets import DESCRIBE
from minicoco.facts import (
    SETTING_WORDINGS,
    USE_WORDINGS,
    Fact,
    caption,
    dialog_facts,
    paragraph,
    reasoning,
    relations,
    sample_facts,
    setting_reasoning,
    stated,
    use_reasoning,
)
from minicoco.scenes import CATEGORIES, COLOURS, SUPERCATEGORIES, Scene

# Open questions that only the base model reads: no source of the mixtures asks them.
ACCOUNTS = (
    "Give an account of what is here and where it is.",
    "Say what is in this picture and where.",
)
ABOUT = ("Tell me about the {category}.", "What can you say about the {category}?")
USES_UNTUNED = (
    "Which thing here has to do with {use}, and how do you know?",
    "For {use}, what would you take from this picture, and why?",
    "Explain which object here goes with {use}.",
)
SETTINGS_UNTUNED = (
    "What kind of place could this be, and what can be seen there?",
    "Guess where this is and say what is there.",
    "What would a visitor find at this place?",
)

DESCRIPTION_SHARE = 0.5
PROMPT_SHARE = 0.1
# How many of the conversations are single rounds, and in how many of the others one is open: the
# smallest share of 0, 0.1 and 0.5 with which the base passes its sanity checks.
SINGLE_SHARE = 0.5
OPEN_SHARE = 0.1


def conversation(
    scene: Scene, rng: random.Random, *, rounds: Literal["single", "several"] = "single"
) -> list[Message]:
    """Return a pretraining conversation about a scene; `rounds` is that of the recipe."""
    describes = rng.random() < DESCRIPTION_SHARE
    if rounds == "several":
        pairs = (_descriptions if describes else _questions)(scene, rng)
    elif rng.random() >= SINGLE_SHARE:
        pairs = (_with_open if rng.random() < OPEN_SHARE else _closed)(scene, rng)
    else:
        pairs = [_descriptions(scene, rng)[0] if describes else _question(scene, rng)]
    return _messages(pairs, rng)


def single_round(scene: Scene, rng: random.Random) -> list[Message]:
    """Return a conversation of one round: a description of a scene, or an answer about it."""
    describes = rng.random() < DESCRIPTION_SHARE
    return _messages([_descriptions(scene, rng)[0] if describes else _question(scene, rng)], rng)


def _messages(pairs: list[tuple[str, str]], rng: random.Random) -> list[Message]:
    """Return rounds as messages, a format prompt after some of the questions."""
    messages = []
    for position, (question, answer) in enumerate(pairs):
        if rng.random() < PROMPT_SHARE:
            question = f"{question} {rng.choice(FORMAT_PROMPTS)}"
        marker = f"{IMAGE_MARKER}\n" if position == 0 else ""
        messages += [Message("human", f"{marker}{question}"), Message("gpt", answer)]
    return messages


def _descriptions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    pairs = [_description(scene, rng)]
    if rng.random() < 0.35:
        pairs.append(("What is this picture about?", caption(scene, rng)))
    rng.shuffle(pairs)
    return pairs


def _questions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Draw six questions, two of them on places, which are hardest to learn, and two open ones."""
    asked = sample_facts(scene, rng, 4) + sample_facts(scene, rng, 2, kinds=("place", "category"))
    pairs = _by_coin(asked, rng)
    pairs.append(_about(scene, rng))
    pairs.append(rng.choice((_use, _setting))(scene, rng))
    rng.shuffle(pairs)
    return pairs


def _question(scene: Scene, rng: random.Random) -> tuple[str, str]:
    """Draw a question for a single round, of each kind as often."""
    if rng.random() < 1 / 4:
        return _closed(scene, rng)[0]
    return rng.choice((_about, _use, _setting))(scene, rng)


def _closed(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Draw six closed questions, letters among them where there are some: they are rare."""
    letters = sample_facts(scene, rng, 1, kinds=("letter",))
    return _by_coin([*letters, *dialog_facts(scene, rng, 6)][:6], rng)


def _with_open(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Draw closed questions and, in one of the first rounds, an open one after full answers."""
    asked, place = dialog_facts(scene, rng, 5), rng.randrange(4)
    opened = rng.choice((_description, _about, _use, _setting))(scene, rng)
    before = [(fact.question, fact.sentence) for fact in asked[:place]]
    return [*before, opened, *_by_coin(asked[place:], rng)]


def _by_coin(asked: list[Fact], rng: random.Random) -> list[tuple[str, str]]:
    return [(fact.question, rng.choice((fact.short, fact.sentence))) for fact in asked]


def _description(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return rng.choice((*DESCRIBE, *ACCOUNTS)), paragraph(scene)


def _about(scene: Scene, rng: random.Random) -> tuple[str, str]:
    thing = rng.choice(scene.unique() or scene.things)
    question = rng.choice(ABOUT).format(category=thing.category)
    return question, stated(thing)


def _use(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return use_reasoning(rng.choice(scene.things), rng.choice((*USE_WORDINGS, *USES_UNTUNED)))


def _setting(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return setting_reasoning(scene, rng.choice((*SETTING_WORDINGS, *SETTINGS_UNTUNED)))


def vocabulary_texts(scenes: list[Scene], rng: random.Random) -> list[str]:
    """Return texts that contain every word of the study, to train the tokenizer on."""
    texts = [message.value for scene in scenes
             for message in conversation(scene, rng, rounds="several")]  # fmt: skip
    texts += [text for scene in scenes for text in reasoning(scene, rng)]
    texts += [statement for scene in scenes for statement, _ in relations(scene)]
    names = (*CATEGORIES.values(), *COLOURS, *SUPERCATEGORIES.values())
    return [*texts, *FORMAT_PROMPTS * 20, *names, *["USER: ASSISTANT:"] * len(scenes)]
