"""Variants: what the ablations train on, and the mixtures written for them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import digest, holds, sha256, write_text
from cocoift.core.schema import KeptTurn, Record, kept_by_image
from cocoift.merge.export import write_mixture
from cocoift.merge.layouts import LAYOUTS, MERGED, Layout, records
from cocoift.sources.base import decode
from cocoift.tuning.chat import Attend

# Raise it when the layout code changes: older mixtures are then not reused.
_VERSION = 2
# The source whose upstream file answers every question twice, in a phrase and in a sentence.
_TWICE = "gqa"
_FULL_SENTENCE = "Answer the question in a full sentence."


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What to train on: `share` of the images in `layout`, the others as in `merged`.

    `answers` keeps GQA alone of the short-answer sources, with its short answers or its full
    sentences; `overlap` keeps the `same` half of the images for all sources, or for each half of
    the sources (`HALF` and the others) a `disjoint` one; `others` are what replaces the records of
    `share` of the images; `images` limits how many images train
    (`None`: all); `loss_on` and `attend` are the recipe's; `taught` are the rounds of which the
    base's pretraining conversations have one or `several`.
    """

    name: str
    layout: Layout = MERGED
    share: float = 1.0
    answers: Literal["all", "short", "sentence"] = "all"
    left_out: tuple[str, ...] = ()
    overlap: Literal["as it is", "same", "disjoint"] = "as it is"
    others: Literal["none", "text-only", "non-COCO"] = "none"
    images: int | None = None
    loss_on: Literal["all", "last"] = "all"
    attend: Attend = "record"
    taught: Literal["single", "several"] = "single"


# The models that are not trained: what `images` and `pretraining` compare tuned ones with.
BASE = Variant(name="base", images=0)
SEVERAL = Variant(name="base-several", images=0, taught="several")
# Half of the sources: each of the pairs and groups that ask about the same is divided.
HALF = frozenset({
    "vqav2", "visual_genome_qa", "coco_captions", "vqa_e", "llava_instruct", "visdial", "svit",
    "aokvqa", "st_vqa",
})  # fmt: skip
WHOLE = {name: Variant(name=name, layout=layout) for name, layout in LAYOUTS.items()}


def same_records(variant: Variant) -> str | None:
    """Return the mixture of notebook 02 that holds a variant's records; `None`: it has its own."""
    plain = replace(variant, images=None, loss_on="all", attend="record", taught="single")
    for name, whole in WHOLE.items():
        if replace(plain, name=name) == whole:
            return name
    return None


def variant_records(
    variant: Variant,
    images: Iterable[Sequence[KeptTurn]],
    *,
    budget: int,
    image_dir: str,
    sentences: Mapping[str, str],
) -> Iterator[Record]:
    """Yield the records of a variant; hashes of the image ids decide which get its layout.

    So a larger share holds the images of a smaller one.  `sentences` maps GQA's question ids to
    full answers.
    """
    for turns in images:
        drawn = rank(turns[0].turn.image_id)
        chosen = drawn < variant.share
        kept = turns if variant.answers == "all" else _answered_by_gqa(turns, variant, sentences)
        kept = [turn for turn in kept if turn.turn.source not in variant.left_out]
        if variant.overlap != "as it is":
            kept = [turn for turn in kept if _stays(turn.turn.source, drawn, variant.overlap)]
        if kept:
            layout = variant.layout if chosen else MERGED
            yield from records([kept], layout=layout, budget=budget, image_dir=image_dir)


def rank(image_id: int) -> float:
    """Return a number in [0, 1) drawn from the image id, the same on every machine."""
    drawn = hashlib.sha256(f"dose/{image_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


def _stays(source: str, drawn: float, overlap: str) -> bool:
    """Tell whether an image keeps the turns of a source: every source does on half of them."""
    return drawn < 0.5 if overlap == "same" or source in HALF else drawn >= 0.5


def _answered_by_gqa(
    turns: Sequence[KeptTurn], variant: Variant, sentences: Mapping[str, str]
) -> list[KeptTurn]:
    """Return the conversations and GQA's questions, in full sentences if the variant says so."""
    found = []
    for kept in turns:
        turn = kept.turn
        if turn.form == "free":
            found.append(kept)
        elif turn.source == _TWICE and turn.dialog_id in sentences:
            if variant.answers == "sentence":
                asked = f"{turn.question} {_FULL_SENTENCE}"
                turn = turn._replace(instruction=asked, answer=sentences[turn.dialog_id])
            found.append(msgspec.structs.replace(kept, turn=turn))
    return found


class _Twice(msgspec.Struct, rename="camel"):
    full_answer: str = ""


def full_answers(path: Path) -> dict[str, str]:
    """Return GQA's full answers by question id; empty when the file is not there.

    File `train_balanced_questions.json`.  Raises `DataError` when it is damaged.
    """
    if not path.is_file():
        return {}
    rows = decode(path, dict[str, _Twice])
    return {name: row.full_answer for name, row in rows.items() if row.full_answer}


def write_variant(
    variant: Variant, turns: Path, folder: Path, *, budget: int, sentences: Mapping[str, str]
) -> Path:
    """Write a variant's mixture below `folder`, unless it is there, and return its JSON file."""
    path, stamp = folder / f"{variant.name}.json", folder / f"{variant.name}.key"
    parts = [_VERSION, sha256(turns), asdict(variant), budget]
    key = digest([*parts, sorted(sentences.items()) if variant.answers != "all" else None])
    if path.is_file() and holds(stamp, key):
        return path
    stamp.unlink(missing_ok=True)  # a kill between mixture and stamp must not leave an older one
    made = variant_records(
        variant,
        kept_by_image(turns),
        budget=budget,
        image_dir="train2017",
        sentences=sentences,
    )
    write_mixture(made, folder, name=variant.name)
    write_text(stamp, key)
    return path
