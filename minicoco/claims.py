"""What an answer claims about a mini scene, and whether it is so."""

import re
from collections.abc import Callable, Mapping

from cocoift.evaluation.judges import Claims
from minicoco.scenes import BACKGROUNDS, CATEGORIES, COLOURS, PLACES, Scene, Thing

_NAMES = "|".join(sorted(CATEGORIES.values(), key=len, reverse=True))
_MENTION = re.compile(
    rf"(?:\b(?P<size>small|large)\s+)?(?:\b(?P<colour>{'|'.join(COLOURS)})\s+)?"
    rf"\b(?P<category>{_NAMES})(?:e?s)?\b"
    rf"(?:\s+(?:is\s+|are\s+)?(?:at|in)\s+the\s+(?P<place>{'|'.join(PLACES)}))?",
    re.IGNORECASE,
)
_AFTER = re.compile(rf"\bis\s+(?:(?P<colour>{'|'.join(COLOURS)})|(?P<size>small|large))\b", re.I)
_GROUND = re.compile(rf"\b(?:at|in) the ({'|'.join(BACKGROUNDS)})\b", re.IGNORECASE)
_NONE = re.compile(r"\bno\b", re.IGNORECASE)


def claims(scene: Scene, answer: str) -> Claims:
    """Count an answer's statements about a scene: right and wrong ones.

    A statement is a category that is named, with the size, colour and place given with it in one
    phrase (`a small red cup at the top left`) or by `is` (`The cup is red.`); a category that is
    denied; and the ground (`at the beach`).  Answers that name no category and no ground, such as
    `red`, claim nothing here: the wanted parts decide on them.
    """
    verdicts = []
    for sentence in re.split(r"[.!?]", answer):
        mentions = list(_MENTION.finditer(sentence))
        denied = _NONE.search(sentence) is not None
        for mention in mentions:
            claim = {key: value.lower() for key, value in mention.groupdict().items() if value}
            after = _AFTER.search(sentence, mention.end()) if len(mentions) == 1 else None
            if after:
                claim |= {key: value.lower() for key, value in after.groupdict().items() if value}
            there = _fits(scene, claim)
            verdicts.append(not there if denied else there)
        verdicts += [ground.lower() == scene.background for ground in _GROUND.findall(sentence)]
    return Claims(sum(verdicts), len(verdicts) - sum(verdicts))


def claims_by_image(scenes: Mapping[str, Scene]) -> Callable[[str, str], Claims | None]:
    """Return a function that counts an answer's claims about a picture of mini's benchmarks."""

    def counted(image: str, answer: str) -> Claims | None:
        return claims(scenes[image], answer) if image in scenes else None

    return counted


def _fits(scene: Scene, claim: dict[str, str]) -> bool:
    """Tell whether something in the scene is as claimed; the flock counts as birds."""
    if claim == {"category": "bird"} and scene.flock:
        return True
    return any(_is(thing, claim) for thing in scene.things)


def _is(thing: Thing, claim: dict[str, str]) -> bool:
    return all(getattr(thing, key) == value for key, value in claim.items())
