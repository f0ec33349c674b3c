"""Text: format prompts, keys for equal questions, token counts, escaping for HTML."""

import html
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

from cocoift.core.files import DataError

CountTokens = Callable[[str], int]

# The wordings in the paper's templates and in LLaVA's training and evaluation files.
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
# A sign before a number, or an operator between two: they change what is asked.
_SIGNED = re.compile(r"(?<!\w)[-+\u2212](?=\d)|(?<=\d) ?[-+*/=<>\u2212] ?(?=\d)")
_DIGIT = re.compile(r"\d")
_SPOKEN = {"-": " minus ", "\u2212": " minus ", "+": " plus ", "*": " times ", "/": " over ",
           "=": " equals ", "<": " below ", ">": " above "}  # fmt: skip
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_ASCII_KEY = bytes(ord(_PUNCTUATION.sub(" ", chr(c)).lower()) for c in range(128)).ljust(256)


def tidy(text: str | None) -> str:
    """Trim `text`, collapse white space, compose Unicode (NFC); non-ASCII characters stay."""
    if not text:
        return ""
    if text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()  # most texts: the same result in a third of the time
    return " ".join((text if text.isascii() else unicodedata.normalize("NFC", text)).split())


def has_format_prompt(instruction: str) -> bool:
    """Tell whether an instruction states the shape or length of the answer it wants."""
    return _may_have_prompt(instruction) and _PROMPT.search(instruction) is not None


def without_format_prompt(instruction: str) -> str:
    """Return the instruction with a space in place of its format prompt."""
    return _PROMPT.sub(" ", instruction) if _may_have_prompt(instruction) else instruction


def _may_have_prompt(instruction: str) -> bool:
    """Spare most instructions the search: every format prompt contains one of these words."""
    folded = instruction.casefold()
    return "answer" in folded or "describe" in folded or "provide" in folded


def question_key(question: str) -> str:
    """Return a key that questions share if they ask the same thing.

    Format prompts, case, punctuation and spacing do not matter: `"What color is the cat ?"` and
    `"what color is the cat?\\nAnswer the question using a single word or phrase."` share a key.
    Signs and operators of numbers do: `-5` is not `5`, `5-3` not `5+3`.
    """
    bare = without_format_prompt(question)
    if _DIGIT.search(bare):  # few texts have a digit, and this search is much faster
        bare = _SIGNED.sub(lambda found: _SPOKEN[found[0].strip()], bare)
    if bare.isascii():  # a translation table gives the same result in a tenth of the time
        return " ".join(bare.encode().translate(_ASCII_KEY).decode().split())
    return tidy(_PUNCTUATION.sub(" ", tidy(bare))).casefold()


def estimate_tokens(text: str) -> int:
    """Estimate tokens as one per three UTF-8 bytes, rounded up.

    It errs on the high side: LLaMA's tokenizer makes about one token of four bytes of English, so a
    record that fits by this estimate also fits by the real count.
    """
    return -(-len(text if text.isascii() else text.encode()) // 3)


def token_counter(tokenizer_file: str | Path | None) -> CountTokens:
    """Return a function that counts the tokens of a text, special tokens not included.

    `tokenizer_file` is a checkpoint's `tokenizer.json`; without it tokens are estimated.  Raises
    `DataError` when the file is missing or is not a tokenizer.
    """
    if tokenizer_file is None:
        return estimate_tokens
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{tokenizer_file}: {error}; give a checkpoint's tokenizer.json") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def counted(number: float, noun: str) -> str:
    """Return a number with its noun: `1 round`, `2 rounds`, `1,500 rounds`."""
    return f"{number:,.10g} {noun}{'' if number == 1 else 's'}"


def visible(text: object) -> str:
    """Return text escaped for HTML, with control and direction marks shown as their code points."""
    shown = "".join(
        f"[U+{ord(c):04X}]" if unicodedata.category(c) in ("Cc", "Cf") and c not in "\n\t" else c
        for c in str("" if text is None else text)
    )
    return html.escape(shown)
