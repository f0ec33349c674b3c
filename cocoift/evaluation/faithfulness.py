"""Faithfulness: which categories answers name that the picture's instances do not contain.

CHAIR (Rohrbach et al. 2018, arXiv 1809.02156) on COCO's instances alone, without the captions.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cocoift.core.bootstrap import ratio_interval
from cocoift.core.files import DataError
from cocoift.core.schema import coco_id
from cocoift.sources.instances import read_instances

_DENIAL = re.compile(r"\b(?:no|not|none|without|never|neither|nor)\b|n't\b", re.IGNORECASE)


@dataclass(frozen=True)
class Lexicon:
    """How categories are named: a pattern that finds the names, and the category of each."""

    pattern: re.Pattern[str]
    category: Mapping[str, str]

    def mentioned(self, text: str) -> set[str]:
        """Return the categories a text names; sentences that deny (no, not) name none."""
        sentences = (part for part in re.split(r"[.!?;\n]", text) if not _DENIAL.search(part))
        found = (match for part in sentences for match in self.pattern.findall(part))
        return {self.category[" ".join(match.lower().split())] for match in found}


def read_lexicon(path: Path) -> Lexicon:
    """Read synonyms in CHAIR's format: a line per category, `category, synonym, synonym`.

    The plural in -s or -es of every name counts too.  Raises `DataError` for a missing or empty
    file and for a name of two categories.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; name a file of synonyms") from error
    category: dict[str, str] = {}
    for line in (line for line in lines if line.strip() and not line.startswith("#")):
        first, *others = dict.fromkeys(" ".join(name.lower().split()) for name in line.split(","))
        for name in (first, *others):
            for form in (name, *_plurals(name)):
                if category.setdefault(form, first) != first:
                    raise DataError(f"{path}: {form!r} names {category[form]} and {first}")
    if not category:
        raise DataError(f"{path} names no category")
    longest_first = sorted(category, key=len, reverse=True)
    names = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in longest_first)
    return Lexicon(re.compile(rf"\b(?:{names})\b", re.IGNORECASE), category)


def _plurals(name: str) -> list[str]:
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return [f"{name[:-1]}ies"]
    return [f"{name}es" if name.endswith(("s", "x", "z", "ch", "sh")) else f"{name}s"]


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


def picture_key(name: str) -> str:
    """Return what names a picture in every spelling: its COCO id, or else its file name."""
    try:
        return str(coco_id(name))
    except DataError:
        return name.rsplit("/", 1)[-1]


def mention_table(
    answers: pd.DataFrame, lexicon: Lexicon, present: Mapping[str, set[str]]
) -> pd.DataFrame:
    """Return the answers on known pictures with how many categories they name, and wrongly.

    `present` is from `instance_categories`.  New columns: `mentioned`, `absent`.
    """
    keys = answers.image.map({name: picture_key(name) for name in set(answers.image)})
    known = answers[keys.isin(present)]
    found = [lexicon.mentioned(text) for text in known.answer]
    there = [present[key] for key in keys[known.index]]
    absent = [len(named - seen) for named, seen in zip(found, there, strict=True)]
    return known.assign(mentioned=[len(named) for named in found], absent=absent)


def faithfulness_table(
    mentions: pd.DataFrame, by: list[str], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return, per group, the share of mentioned categories that are not in the picture (CHAIRi).

    Columns: those of `by`, answers, mentions (per answer), absent_share (percent), low, high,
    answers_with_absent (percent, CHAIRs).  Intervals resample images.
    """
    rows = []
    for key, own in mentions.groupby(by, sort=False):
        absent, named = 100.0 * own.absent, own.mentioned
        share = absent.sum() / named.sum() if named.sum() else float("nan")
        low, high = ratio_interval(own.image, absent, named, resamples=resamples)
        some = 100 * (own.absent > 0).mean()
        rows.append((*key, len(own), own.mentioned.mean(), share, low, high, some))
    columns = [*by, "answers", "mentions", "absent_share", "low", "high", "answers_with_absent"]
    return pd.DataFrame(rows, columns=columns)
