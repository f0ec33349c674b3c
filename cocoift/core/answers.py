"""When two answers count as the same: the answer normalisation of VQA's evaluation.

`2` and `Two.`, `a dog` and `dog`, `dont` and `don't` agree, as they do when VQA scores a model.
Source: `processPunctuation` and `processDigitArticle` in `vqaEval.py` of GT-Vision-Lab/VQA.
"""

import re
from collections.abc import Iterable

_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5",
    "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset({"a", "an", "the"})
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_FULL_STOP = re.compile(r"\.(?!\d)")
_THOUSANDS = re.compile(r"\d,\d")
_MINUS = re.compile(r"(?<!\w)[-\u2212](?=\d)")
# VQA recognises a contraction in any spelling that lacks one of its apostrophes.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll
    why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll
    you're you've
"""
_CONTRACTIONS = {
    whole[:place] + whole[place + 1 :]: whole
    for whole in _CONTRACTED.split()
    for place, letter in enumerate(whole)
    if letter == "'"
}


def vqa_answer(text: str) -> str:
    """Return an answer as VQA's evaluation compares it: digits for number words, no articles.

    A punctuation mark that stands next to a space anywhere in the text is removed, any other
    becomes a space, and all are removed where a comma separates digits (`1,000`).
    """
    return _joined(word for word in _words(text) if word not in _ARTICLES)


def answer_key(text: str) -> str:
    """Return a key that two answers share if they agree: VQA's normalisation, with two exceptions.

    A negative number keeps its sign, and an answer that would become empty (the letter `A`, a lone
    mark) stays as it is.
    """
    signed = _MINUS.sub("minus ", text)
    return vqa_answer(signed) or _joined(_words(signed)) or text.strip()


def _words(text: str) -> list[str]:
    """Return the words of an answer without punctuation, number words as digits."""
    bare = text = " ".join(text.split())
    together = _THOUSANDS.search(text) is not None
    for mark in filter(text.__contains__, _MARKS):
        apart = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if apart or together else " ")
    return [_NUMBERS.get(word, word) for word in _FULL_STOP.sub("", bare).lower().split()]


def _joined(words: Iterable[str]) -> str:
    return " ".join(_CONTRACTIONS.get(word, word) for word in words)
