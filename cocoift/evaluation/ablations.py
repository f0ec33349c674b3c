"""Ablations: trainings that differ from those on both mixtures in one thing, and what they answer.

Every arm is trained with the recipe, the steps and the seeds of `merged`, on a mixture written for
it; `merged` and `mix` are arms themselves and their adapters are those of notebook 04.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import msgspec

from cocoift.core.files import DataError, digest, sha256, write_text
from cocoift.core.schema import KeptTurn, Record, kept_by_image
from cocoift.evaluation.protocols import Protocol
from cocoift.merge.export import write_mixture
from cocoift.merge.layouts import LAYOUTS, MERGED, MIX, Layout, records
from cocoift.sources.base import decode

# Mixtures written by code that lays them out differently are not reused; raise it with a change.
_VERSION = 1
Ablation = Literal["dose", "factors", "answers", "sources", "images", "openings"]
ABLATIONS: tuple[str, ...] = get_args(Ablation)
# The source whose upstream file answers every question twice, in a phrase and in a sentence.
_TWICE = "gqa"
# Sources that the ablation `sources` leaves out together, unless a preset has other groups.
GROUPS = {
    "short questions": [
        "coco_qa", "visual_genome_qa", "vqav2", "okvqa", "st_vqa", "vsr", "gqa", "visual7w",
    ],
    "explained answers": ["vqa_e", "aokvqa", "vqa_x"],
    "terse dialogs": ["visdial"],
    "long conversations": [
        "llava_instruct", "lvis_instruct4v", "svit", "sharegpt4v", "lrv_instruct", "unimm_chat",
    ],
    "captions and paragraphs": ["coco_captions", "image_paragraph"],
    "counting": ["tallyqa"],
    "regions": ["refcoco"],
}  # fmt: skip
# Where the prompts stand, times whether a conversation mixes sources.
FACTORS = (
    MIX,
    Layout(prompts="first", sources="mixed"),
    Layout(prompts="every", sources="apart"),
    MERGED,
)
_FULL_SENTENCE = "Answer the question in a full sentence."


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What to train on: `share` of the images in `layout`, the others as in `merged`.

    `answers` keeps GQA alone of the short-answer sources, with its short answers or its full
    sentences; `images` trains on so many images only, `None` on all.
    """

    name: str
    layout: Layout = MERGED
    share: float = 1.0
    answers: Literal["all", "short", "sentence"] = "all"
    left_out: tuple[str, ...] = ()
    images: int | None = None


@dataclass(frozen=True)
class Arm:
    """One setting of one ablation: which variant is trained for it."""

    ablation: str
    setting: str
    variant: Variant


# The model that no arm trains: what `images` compares few images with.
UNTUNED = Variant(name="base", images=0)
WHOLE = {name: Variant(name=name, layout=layout) for name, layout in LAYOUTS.items()}


def arms(
    wanted: Sequence[str],
    *,
    doses: Sequence[float],
    image_counts: Sequence[int],
    groups: Mapping[str, Sequence[str]],
) -> list[Arm]:
    """Return the trained arms of the wanted ablations, in the order to show them.

    `doses` are shares of images laid out as in `mix`; `image_counts` come before all images;
    `groups` are sources to leave out together, by name.
    Raises `DataError` for an ablation that is not one of `ABLATIONS`.
    """
    if strange := set(wanted) - set(ABLATIONS):
        raise DataError(f"ablations: {sorted(strange)} are none of {', '.join(ABLATIONS)}")
    found = []
    for dose in doses if "dose" in wanted else ():
        mixed = Variant(name=f"dose-{100 * dose:g}", layout=MIX, share=dose)
        whole = {0.0: WHOLE["merged"], 1.0: WHOLE["mix"]}
        found.append(Arm("dose", f"{100 * dose:g} %", whole.get(float(dose), mixed)))
    if "factors" in wanted:
        for layout in FACTORS:
            same = [one for one in WHOLE.values() if one.layout == layout]
            own = Variant(name=f"{layout.prompts}-{layout.sources}", layout=layout)
            label = f"{layout.prompts} turn, {layout.sources}"
            found.append(Arm("factors", label, (same or [own])[0]))
    for kind in ("short", "sentence") if "answers" in wanted else ():
        variant = Variant(name=f"gqa-{kind}", layout=MIX, answers=kind)
        found.append(Arm("answers", kind, variant))
    if "sources" in wanted:
        found.append(Arm("sources", "all sources", WHOLE["merged"]))
    for name, sources in groups.items() if "sources" in wanted else ():
        variant = Variant(name=f"without-{name.replace(' ', '-')}", left_out=tuple(sources))
        found.append(Arm("sources", f"without {name}", variant))
    if "images" in wanted:
        fewer = [Variant(name=f"images-{count}", images=count) for count in image_counts]
        found += [Arm("images", f"{one.images:,}", one) for one in (UNTUNED, *fewer)]
        found.append(Arm("images", "all", WHOLE["merged"]))
    return found


def variant_records(
    variant: Variant,
    images: Iterable[Sequence[KeptTurn]],
    *,
    budget: int,
    image_dir: str,
    sentences: Mapping[str, str],
) -> Iterator[Record]:
    """Yield the records of a variant; which images get its layout goes by hashes of their ids.

    So a larger share holds the images of a smaller one.  `sentences` maps GQA's question ids to
    full answers.
    """
    for turns in images:
        chosen = _rank(turns[0].turn.image_id) < variant.share
        kept = turns if variant.answers == "all" else _answered_by_gqa(turns, variant, sentences)
        kept = [one for one in kept if one.turn.source not in variant.left_out]
        if kept:
            layout = variant.layout if chosen else MERGED
            yield from records([kept], layout=layout, budget=budget, image_dir=image_dir)


def _rank(image_id: int) -> float:
    """Return a number in [0, 1) drawn from the image id, the same on every machine."""
    drawn = hashlib.sha256(f"dose/{image_id}".encode()).digest()
    return int.from_bytes(drawn[:8], "big") / 2**64


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
    if path.is_file() and stamp.is_file() and stamp.read_text() == key:
        return path
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


def trained(arms: Sequence[Arm], mixtures: Iterable[str]) -> dict[str, Variant]:
    """Return the variants that arms train, and the mixtures of notebook 04, by name."""
    found = {arm.variant.name: arm.variant for arm in arms}
    found |= {name: WHOLE[name] for name in mixtures}
    found.pop(UNTUNED.name, None)
    return found


def opening_protocols(openings: Mapping[str, Sequence[str]]) -> dict[str, Protocol]:
    """Return the protocols that put 0, 1, 2, ... opening rounds of each kind before a question.

    `openings` maps a kind (`short`, `long`) to its rounds in order.
    """
    found = {"none": Protocol(name="single_round")}
    for kind, texts in openings.items():
        for count in range(1, len(texts) + 1):
            name = f"{kind}_{count}"
            found[f"{kind} x {count}"] = Protocol(name=name, opening=tuple(texts[:count]))
    return found
