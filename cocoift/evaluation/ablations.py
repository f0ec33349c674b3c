"""Ablations: trainings that differ from those on both mixtures in one thing, and what they answer.

Every variant is trained with the recipe, the steps and the seeds of `merged`, on a mixture written
for it; `merged` and `mix` are variants themselves and their adapters are those of notebook 04.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from cocoift.core.files import DataError
from cocoift.evaluation.others import Others
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.variants import BASE, SEVERAL, WHOLE, Variant
from cocoift.merge.layouts import LAYOUTS, MERGED, MIX, Layout

Ablation = Literal[
    "dose", "factors", "layouts", "pretraining", "answers", "sources", "overlap", "others",
    "images", "cures", "openings",
]  # fmt: skip
# Those whose answers rest on every seed of a preset; the others run on `ablations.seeds`.
ON_ALL_SEEDS = ("factors", "layouts")
ABLATIONS: tuple[str, ...] = get_args(Ablation)
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
    LAYOUTS["merged"],
)


@dataclass(frozen=True)
class AskedVariant:
    """A variant as one setting of an ablation: what is trained for it, and how it is asked.

    `alone` and `after` are the protocols that count as single-round and as multi-round.
    """

    ablation: str
    setting: str
    variant: Variant
    alone: str = ALONE
    after: str = AFTER

    @property
    def model(self) -> str:
        """The model's name in tables: its variant, and its setting if it is asked differently."""
        as_always = (self.alone, self.after) == (ALONE, AFTER)
        return self.variant.name if as_always else f"{self.variant.name}, {self.setting}"


def asked_variants(
    wanted: Sequence[str],
    *,
    doses: Sequence[float],
    image_counts: Sequence[int],
    groups: Mapping[str, Sequence[str]],
) -> list[AskedVariant]:
    """Return the variants of the wanted ablations, in the order to show them.

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
        found.append(AskedVariant("dose", f"{100 * dose:g} %", whole.get(float(dose), mixed)))
    if "factors" in wanted:
        for layout in FACTORS:
            label = f"{layout.prompts} turn, {layout.sources}"
            found.append(AskedVariant("factors", label, _laid_out(layout)))
    for kind in ("short", "sentence") if "answers" in wanted else ():
        variant = Variant(name=f"gqa-{kind}", layout=MIX, answers=kind)
        found.append(AskedVariant("answers", kind, variant))
    if "sources" in wanted:
        found.append(AskedVariant("sources", "all sources", WHOLE["merged"]))
    for name, sources in groups.items() if "sources" in wanted else ():
        variant = Variant(name=f"without-{name.replace(' ', '-')}", left_out=tuple(sources))
        found.append(AskedVariant("sources", f"without {name}", variant))
    found += [each for each in _FIXED if each.ablation in wanted]
    if "others" in wanted:
        found += _diluted()
    if "images" in wanted:
        fewer = [Variant(name=f"images-{count}", images=count) for count in image_counts]
        found += [AskedVariant("images", f"{few.images:,}", few) for few in (BASE, *fewer)]
        found.append(AskedVariant("images", "all", WHOLE["merged"]))
    return found


# What differs between both mixtures besides prompts and mixing, one difference at a time.
CHOPPED, MASKED, LONG, WITHOUT_VISDIAL, MERGED_WITHOUT = (
    "merged, chopped", "merged, turns masked", "apart, long", "baseline without VisDial",
    "merged without VisDial",
)  # fmt: skip
_FIXED = [
    AskedVariant("layouts", "LLaVA-style", WHOLE["mix"]),
    AskedVariant("layouts", LONG, Variant(name="apart-long", layout=replace(MIX, rounds="many"))),
    AskedVariant(
        "layouts",
        WITHOUT_VISDIAL,
        Variant(name="mix-without-visdial", layout=MIX, left_out=("visdial",)),
    ),
    AskedVariant("layouts", "merged", WHOLE["merged"]),
    AskedVariant(
        "layouts", CHOPPED, Variant(name="merged-chopped", layout=replace(MERGED, rounds="few"))
    ),
    AskedVariant("layouts", MASKED, Variant(name="merged-masked", attend="turn")),
    AskedVariant(
        "layouts",
        MERGED_WITHOUT,
        Variant(name="merged-without-visdial", left_out=("visdial",)),
    ),
    AskedVariant("pretraining", "base, single rounds", BASE),
    AskedVariant("pretraining", "base, several rounds", SEVERAL),
    AskedVariant("pretraining", "LLaVA-style, single rounds", WHOLE["mix"]),
    AskedVariant(
        "pretraining",
        "LLaVA-style, several rounds",
        Variant(name="mix-several", layout=MIX, taught="several"),
    ),
    AskedVariant("pretraining", "merged, single rounds", WHOLE["merged"]),
    AskedVariant(
        "pretraining", "merged, several rounds", Variant(name="merged-several", taught="several")
    ),
    AskedVariant("overlap", "same images", Variant(name="overlap-same", overlap="same")),
    AskedVariant("overlap", "disjoint images", Variant(name="overlap-none", overlap="disjoint")),
]

# Shares of the merged records that text-only ones, or those about other pictures, replace.
OTHER_SHARES = (0.1, 0.3, 0.5)


def _diluted() -> list[AskedVariant]:
    kinds: tuple[Others, ...] = ("text-only", "non-COCO")
    found = [AskedVariant("others", "none", WHOLE["merged"])]
    for kind, share in product(kinds, OTHER_SHARES):
        name = f"{kind}-{100 * share:g}"
        variant = Variant(name=name, others=kind, share=share)
        found.append(AskedVariant("others", f"{kind}, {100 * share:g} %", variant))
    return found


# Models that keep the LLaVA-style data and change how they are asked or trained: ablation `cures`.
BASELINE, DROPPED, SENTENCE = "LLaVA-style", "history dropped", "sentence asked for"
_FULL_SENTENCE = "Answer in a full sentence."
_SENTENCE_ALONE, _SENTENCE_AFTER = "sentence_alone", "sentence_after_short"


def mitigation_variants(mixtures: Sequence[str]) -> list[AskedVariant]:
    """Return the alternative mitigations, on the LLaVA-style data, and the merge itself.

    A mitigation at inference changes how that data's model is asked: without the history, or for
    a full sentence.  `mixtures` are those that notebook 04 tunes on.
    """
    mix, last = WHOLE["mix"], Variant(name="last-answer", layout=MIX, loss_on="last")
    every = Layout(prompts="every", sources="apart")
    merges = [name for name in ("merged", "instructed") if name in mixtures]
    return [
        AskedVariant("cures", BASELINE, mix),
        AskedVariant("cures", DROPPED, mix, after=ALONE),
        AskedVariant("cures", SENTENCE, mix, alone=_SENTENCE_ALONE, after=_SENTENCE_AFTER),
        AskedVariant("cures", "loss on the last answer", last),
        AskedVariant("cures", "prompt in every turn", _laid_out(every)),
        *(AskedVariant("cures", name, WHOLE[name]) for name in merges),
    ]


def _laid_out(layout: Layout) -> Variant:
    """Return the variant with a layout: one of the whole mixtures if it has that layout."""
    same = [whole for whole in WHOLE.values() if whole.layout == layout]
    return (same or [Variant(name=f"{layout.prompts}-{layout.sources}", layout=layout)])[0]


def mitigation_protocols(protocols: Mapping[str, Protocol]) -> list[Protocol]:
    """Return the protocols under which open questions ask for a full sentence."""
    named = {ALONE: _SENTENCE_ALONE, AFTER: _SENTENCE_AFTER}
    return [
        replace(protocols[name], name=new, appended=_FULL_SENTENCE) for name, new in named.items()
    ]


def trained(variants: Sequence[AskedVariant], mixtures: Iterable[str]) -> dict[str, Variant]:
    """Return what asked variants train on, and the mixtures of notebook 04, by name."""
    found = {asked.variant.name: asked.variant for asked in variants}
    found |= {name: WHOLE[name] for name in mixtures}
    for untuned in (BASE, SEVERAL):
        found.pop(untuned.name, None)
    return found


def opening_protocols(openings: Mapping[str, Sequence[str]]) -> dict[str, Protocol]:
    """Return the protocols that put 0, 1, 2, ... opening rounds of each kind before a question.

    `openings` maps a kind (`short`, `long`) to its rounds in order.
    """
    found = {"none": Protocol(name=ALONE)} if openings else {}
    for kind, texts in openings.items():
        for count in range(1, len(texts) + 1):
            name = f"{kind}_{count}"
            found[f"{kind} x {count}"] = Protocol(name=name, opening=tuple(texts[:count]))
    return found


_PLACES = ("1st", "2nd", "3rd")


def position_protocols(openings: Mapping[str, Sequence[str]]) -> dict[str, Protocol]:
    """Return protocols of three opening rounds, two long and a short one in each position.

    The paper's own dialog has it second.  None without a `short` and two `long` rounds.
    """
    short, long = openings.get("short", ())[:1], list(openings.get("long", ())[:2])
    if not short or len(long) < 2:
        return {}
    found = {}
    for at, place in enumerate(_PLACES):
        rounds = (*long[:at], *short, *long[at:])
        found[f"short {place} of 3"] = Protocol(name=f"short_{place}", opening=rounds)
    return found
