"""A miniature of LLaVA-mix-665k: LLaVA's file, with its sources, prompts and blemishes."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

from cocoift.sources.refcoco import DESCRIBE, LOCATE, square_box
from minicoco.dialog_sets import chat, llava_instruct
from minicoco.draw import box, outline
from minicoco.facts import article, capital, caption, four_choices, sample_facts
from minicoco.scenes import USES, Scene, World, name_2014, name_2017

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."

Pairs = list[tuple[str, str]]


def files(world: World) -> Iterator[tuple[str, Any]]:
    """Yield `llava_v1_5_mix665k.json` and UniMM-Chat, on the train scenes where they are COCO's.

    Shares follow the real file's records by source: LLaVA .24, ShareGPT .06, VQAv2 .12,
    GQA .11, OKVQA .01, OCR-VQA .12, A-OKVQA .10, TextCaps .03, RefCOCO .07, VG .13.
    """
    rng = world.rng("llava_mix")
    records = [{**row, "image": f"coco/train2017/{row['image']}"} for row in llava_instruct(world)]
    unit = len(records) / 0.24
    for share, folder, make in _PARTS:
        for _ in range(round(unit * share)):
            of_coco = folder.startswith("coco/")
            scene = rng.choice(world.train if of_coco else world.foreign)
            name = name_2017(scene) if of_coco else f"{scene.image_id}.jpg"
            messages = chat(make(scene, rng), last=rng.random() < 0.1)
            records.append({"id": name.removesuffix(".jpg"), "image": f"{folder}/{name}",
                            "conversations": messages})  # fmt: skip
    records += [_text_only(number, rng) for number in range(round(unit * 0.06))]
    records[-1]["conversations"][1]["value"] = ""  # upstream has an empty answer too
    rng.shuffle(records)
    yield "llava_mix/llava_v1_5_mix665k.json", records
    yield "unimm_chat/UniMM-Chat-v0.json", list(_unimm_chat(world))


def _unimm_chat(world: World) -> Iterator[dict[str, Any]]:
    """Yield UniMM-Chat: a conversation per image, as a string, its marker first or last."""
    rng = world.rng("unimm_chat")
    for number, scene in enumerate(world.some(0.3, rng)):
        pairs = [(fact.question, fact.sentence) for fact in sample_facts(scene, rng, 4)]
        messages = chat(pairs, last=rng.random() < 0.5)
        messages[0]["value"] = messages[0]["value"].replace("<image>", "<image >")
        yield {
            "ds_name": "unimm-chat",
            "conversation": json.dumps(messages),
            "origin_dataset": "coco,vqav2,okvqa",
            "idx": number,
            "image_path": f"coco/train2014/{name_2014(scene)}",
        }


def _first_only(pairs: Pairs) -> Pairs:
    """Put the short-answer prompt after the first question only: the fault the paper found."""
    return [(f"{pairs[0][0]}\n{SHORT}", pairs[0][1]), *pairs[1:]]


def _short(scene: Scene, rng: random.Random) -> Pairs:
    asked = sample_facts(scene, rng, rng.randint(3, 5))
    return _first_only([(fact.question, fact.short) for fact in asked])


def _knowledge(scene: Scene, rng: random.Random) -> Pairs:
    return _first_only(
        [(f.question, f.short) for f in sample_facts(scene, rng, 2, kinds=("use",))]
        or [("Is this a picture?", "yes")]
    )


def _book(scene: Scene, rng: random.Random) -> Pairs:
    year = str(1950 + scene.image_id % 70)
    return _first_only(
        [("What is the year of this book?", year), ("Is this a novel?", rng.choice(("Yes", "No")))]
    )


def _choice(scene: Scene, rng: random.Random) -> Pairs:
    """A-OKVQA repeats its prompt in every turn."""
    pairs = []
    for name in list(scene.counts())[:2]:
        choices = four_choices(name, scene, rng)
        options = "\n".join(f"{chr(65 + i)}. {choice}" for i, choice in enumerate(choices))
        question = f"What would you need for {USES[name]}?\n{options}\n{LETTER}"
        pairs.append((question, chr(65 + choices.index(name))))
    return pairs


def _text_caption(scene: Scene, rng: random.Random) -> Pairs:
    question = "Provide a one-sentence caption for the provided image.\nReference OCR token: "
    return [(question, caption(scene, rng))]


def _regions(scene: Scene, rng: random.Random) -> Pairs:
    pairs = []
    for number, thing in enumerate(scene.things):
        found = box(outline(thing, pixels=scene.pixels))
        region = square_box(found, width=scene.pixels, height=scene.pixels)
        text = f"{thing.name} at the {thing.place}"
        if number % 2:
            pairs.append((LOCATE.format(question=text), region))
        else:
            pairs.append((DESCRIBE.format(question=region), text))
    return pairs


def _text_only(number: int, rng: random.Random) -> dict[str, Any]:
    """ShareGPT: rounds that need no picture, answered in sentences."""
    pairs = [("Write a sentence about the sea.", "The sea is wide, and the waves never rest.")]
    for name in rng.sample(sorted(USES), rng.randint(0, 3)):
        use, thing = USES[name], article(name)
        pairs.append(
            rng.choice(
                (
                    (f"What is {thing} for?", f"{capital(thing)} is for {use}."),
                    (f"What would I need for {use}?", f"You would need {thing} for {use}."),
                    (f"Write a sentence about {thing}.", f"{capital(thing)} was at the lake."),
                )
            )
        )
    rng.shuffle(pairs)
    return {"id": f"share_{number}", "model": "", "conversations": chat(pairs, image=False)}


_PARTS: tuple[tuple[float, str, Callable[[Scene, random.Random], Pairs]], ...] = (
    (0.12, "coco/train2017", _short),
    (0.11, "gqa/images", _short),
    (0.01, "coco/train2017", _knowledge),
    (0.12, "ocr_vqa/images", _book),
    (0.10, "coco/train2017", _choice),
    (0.03, "textvqa/train_images", _text_caption),
    (0.07, "coco/train2017", _regions),
    (0.13, "vg/VG_100K", _regions),
)


def pictures(world: World) -> Iterator[tuple[str, Scene]]:
    """Yield the scenes of collections other than COCO, by the image names of the mixture."""
    folders = dict.fromkeys(folder for _, folder, _ in _PARTS if not folder.startswith("coco/"))
    for folder in folders:
        for scene in world.foreign:
            yield f"{folder}/{scene.image_id}.jpg", scene
