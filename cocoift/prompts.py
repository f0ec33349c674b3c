"""Format prompts: the sentences that tell a model how long or in which shape to answer."""

import re
import unicodedata

# The wordings that stand in the paper's templates and in LLaVA's training and evaluation files.
FORMAT_PROMPTS = (
    "Answer the question using a single word or phrase.",
    "Answer the question with a short phrase.",
    "Answer the question with a number.",
    "Answer with a short phrase and provide explanation for your answer.",
    "Answer with the option's letter from the given choices directly.",
    "Answer with the option's letter from the given choices.",
    "Answer with options' letter from the given choices and provide explanation for your choice.",
    "Please answer yes or no about whether the statement about the image is true.",
    "Describe the content of this image in 20 words.",
    "Describe the image in one paragraph.",
    "Provide a one-sentence caption for the provided image.",
    "Provide a short description for this region.",
    "Please provide a short description for this region:",
    "Please provide the bounding box coordinate of the region this sentence describes:",
)

PROMPT_PATTERN = f"(?:{'|'.join(re.escape(p.rstrip('.:')) for p in FORMAT_PROMPTS)})[.:]?"
_PROMPT = re.compile(PROMPT_PATTERN, re.IGNORECASE)
_PUNCTUATION = re.compile(r"[^\w\s]|_")
# Every format prompt has one of these, so most questions need no search for one.
_HINTS = ("answer", "describe", "provide")


def tidy(text: str | None) -> str:
    """Trim `text`, collapse white space, compose Unicode (NFC) and keep non-ASCII as it is."""
    return " ".join(unicodedata.normalize("NFC", text).split()) if text else ""


def has_format_prompt(instruction: str) -> bool:
    """Tell whether an instruction states the shape or length of the answer it wants."""
    return _PROMPT.search(instruction) is not None


def without_format_prompt(instruction: str) -> str:
    """Return the instruction without its format prompt, tidied."""
    folded = instruction.casefold()
    some = any(hint in folded for hint in _HINTS)
    return tidy(_PROMPT.sub(" ", instruction) if some else instruction)


def question_key(question: str) -> str:
    """Return what two questions share when they ask the same thing.

    Format prompts, case, punctuation and blanks are removed: `"What color is the cat ?"` and
    `"what color is the cat?\\nAnswer the question using a single word or phrase."` have one key.
    """
    return tidy(_PUNCTUATION.sub(" ", without_format_prompt(question))).casefold()
