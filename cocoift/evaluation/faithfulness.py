"""Faithfulness: mentions of COCO's categories that the image does not show.

CHAIR (Rohrbach et al. 2018, arXiv 1809.02156): the rules of `utils/chair.py` in
github.com/LisaAnne/Hallucination, on any list in the format of its `synonyms.txt`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cocoift.core.files import DataError
from cocoift.core.frames import trainings
from cocoift.core.resampling import ratio
from cocoift.core.schema import coco_id
from cocoift.sources.base import Dialog
from cocoift.sources.coco import captions
from cocoift.sources.instances import read_instances

_SENTENCE = re.compile(r"[.!?;\n]")
# As NLTK's tokeniser parts words: `isn't` is `is` and `n't`, `dog's` has a dog, `o'clock` no clock.
_TOKEN = re.compile(
    r"n['’]t\b|[^\W_]+?(?=n['’]t\b)"
    r"|[^\W_]+(?:(?:[-/.]|['’](?!(?:s|m|d|ll|re|ve)\b))[^\W_]+)*|\S"
)
# CHAIR's double words besides the names of two words on its list, and what each counts as.
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe",
            "animal", "cub")  # fmt: skip
_PAIRS = {"home plate": "", "train track": "", "toilet seat": "toilet"}
_PAIRS |= {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS}
_PAIRS |= {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
_PLURALS = (("man", "men"), ("child", "children"), ("person", "people"), ("goose", "geese"),
            ("mouse", "mice"), ("ox", "oxen"), ("fe", "ves"), ("lf", "lves"))  # fmt: skip


@dataclass(frozen=True)
class Lexicon:
    """How categories are named: names of one or two words, with the category of each.

    `pairs` maps two words to what they count as (a name, or a word that names nothing), `singular`
    the plurals of all words; a sentence with one of `denials` names nothing.
    """

    category: Mapping[str, str]
    pairs: Mapping[str, str]
    singular: Mapping[str, str]
    denials: frozenset[str] = frozenset()

    def mentions(self, text: str) -> list[str]:
        """Return the category of every mention in a text, in order.

        A pair such as `hot dog` or `baby elephant` is one word, plurals are their singulars, and a
        seat is no chair where there is a toilet.
        """
        words: list[str] = []
        for sentence in _SENTENCE.split(text.lower()):
            tokens = [self.singular.get(token, token) for token in _TOKEN.findall(sentence)]
            if self.denials.isdisjoint(tokens):
                words += self._paired(tokens)
        if "toilet" in words:
            words = [word for word in words if word != "seat"]
        return [self.category[word] for word in words if word in self.category]

    def _paired(self, tokens: list[str]) -> list[str]:
        words, at = [], 0
        while at < len(tokens):
            pair = " ".join(tokens[at : at + 2])
            words.append(self.pairs.get(pair, tokens[at]))
            at += 2 if pair in self.pairs else 1
        return words


def read_lexicon(path: Path) -> Lexicon:
    """Read a list of names in CHAIR's format: a line per category, `category, name, name`.

    Beyond that format, `#` begins a comment, `category: name, name` names a category by these
    alone, `nothing: name, name` lists pairs that hold a name and mean something else, and
    `unless: word, word` words whose sentences name nothing.  Plurals of all names count too: in
    CHAIR's own list also the few that its code loses (bus, ties, motor bike, cheesecake, iPhone).
    Raises `DataError` for a missing or empty file and for a name of two categories.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; name a file of synonyms") from error
    category: dict[str, str] = {}
    aside: dict[str, list[str]] = {"nothing": [], "unless": []}
    for line in (line for line in lines if line.strip() and not line.startswith("#")):
        head, colon, rest = line.partition(":")
        names = [" ".join(name.lower().split()) for name in (rest if colon else line).split(",")]
        first = head.strip().lower() if colon else names[0]
        if first in aside:
            aside[first] += filter(None, names)
            continue
        for name in filter(None, names):
            if category.setdefault(name, first) != first:
                raise DataError(f"{path}: {name!r} names {category[name]} and {first}")
    if not category:
        raise DataError(f"{path} names no category")
    pairs = _PAIRS | {name: name for name in category if " " in name}
    if odd := [name for name in aside["nothing"] if name.count(" ") != 1]:
        raise DataError(f"{path}: nothing: {odd[0]!r} is not two words")
    pairs |= dict.fromkeys(aside["nothing"], "")
    words = {word for name in (*category, *pairs) for word in name.split()}
    singular = {plural: word for word in words for plural in _plurals(word) if plural not in words}
    return Lexicon(category, pairs, singular, frozenset(aside["unless"]))


def _plurals(word: str) -> list[str]:
    """Return the plurals of a word: irregular ones, and those in -s, -es and -ies."""
    found = [word.removesuffix(end) + other for end, other in _PLURALS if word.endswith(end)]
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return [*found, f"{word[:-1]}ies"]
    return [*found, f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh", "o")) else f"{word}s"]


def instance_categories(paths: Iterable[Path]) -> dict[str, set[str]]:
    """Return the categories of every image of COCO instances files, by `picture_key`.

    Crowds count.  Images without any instance have an empty set; of an image in several files the
    last one counts.  Files that are not there are left out.
    """
    found: dict[str, set[str]] = {}
    for path in (path for path in paths if path.is_file()):
        file = read_instances(path)
        by_image = file.by_image()
        for image in file.images:
            names = {name for _, name in by_image.get(image.id, ())}
            found[picture_key(image.file_name or str(image.id))] = names
    return found


def shown_categories(
    instances: Iterable[Path], captioned: Iterable[Path], lexicon: Lexicon
) -> dict[str, set[str]]:
    """Return what images show: `instance_categories`, and what COCO's captions of them mention.

    Files that are not there are left out, and captions of images that no instances file lists.
    """
    found = instance_categories(instances)
    for path in (path for path in captioned if path.is_file()):
        for caption in captions(captions=path):
            if isinstance(caption, Dialog) and str(caption.image_id) in found:
                named = lexicon.mentions(caption.rounds[0].answer or "")
                found[str(caption.image_id)].update(named)
    return found


def picture_key(name: str) -> str:
    """Return one key for every spelling of an image's name: its COCO id, or else its file name."""
    try:
        return str(coco_id(name))
    except DataError:
        return name.rsplit("/", 1)[-1]


def mention_table(
    answers: pd.DataFrame, lexicon: Lexicon, present: Mapping[str, set[str]]
) -> pd.DataFrame:
    """Return the answers on known images, with their mentions of categories and the wrong ones.

    `present` is from `shown_categories`.  New columns: `mentioned`, `absent` (counts).
    """
    keys = answers.image.map({name: picture_key(name) for name in set(answers.image)})
    known = answers[keys.isin(present)]
    found = [lexicon.mentions(text) for text in known.answer]
    there = [present[key] for key in keys[known.index]]
    absent = [sum(name not in seen for name in named)
              for named, seen in zip(found, there, strict=True)]  # fmt: skip
    return known.assign(mentioned=[len(named) for named in found], absent=absent)


def faithfulness_table(
    mentions: pd.DataFrame, by: list[str], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return, per group, the share of mentions of what is not in the image (CHAIRi).

    Columns: those of `by`, answers, mentions (per answer), absent_share (percent), low, high,
    answers_with_absent (percent, CHAIRs).  The share is a mean over trainings, its interval over
    trainings and images.
    """
    rows, mentions = [], mentions.assign(training=trainings(mentions))
    for key, group in mentions.groupby(by, sort=False):
        share, *ends = ratio(group.image, 100.0 * group.absent, group.mentioned,
                             resamples=resamples, trainings=group.training)  # fmt: skip
        some = 100 * (group.absent > 0).mean()
        numbers = len(group), group.mentioned.mean(), share, *np.clip(ends, 0, 100), some
        rows.append((*key, *numbers))
    columns = [*by, "answers", "mentions", "absent_share", "low", "high", "answers_with_absent"]
    return pd.DataFrame(rows, columns=columns)
