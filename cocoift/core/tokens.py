"""How many tokens a text costs: by a checkpoint's tokenizer, or estimated without one."""

from collections.abc import Callable
from pathlib import Path

from cocoift.core.files import DataError

CountTokens = Callable[[str], int]


def estimate(text: str) -> int:
    """Estimate tokens as one per three UTF-8 bytes, rounded up.

    Meant to err on the high side: LLaMA's tokenizer makes about one token of four bytes of
    English, so a record that fits by this estimate fits by the real count.
    """
    return -(-len(text.encode()) // 3)


def token_counter(tokenizer_file: str | Path | None) -> CountTokens:
    """Return a function that counts the tokens of a text, special tokens not included.

    `tokenizer_file` is the `tokenizer.json` of a checkpoint; without one tokens are estimated.
    Raises `DataError` when the file is missing or no tokenizer.
    """
    if tokenizer_file is None:
        return estimate
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{tokenizer_file}: {error}; give a checkpoint's tokenizer.json") from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
