"""Annotations on Visual Genome's copies of the images: VG, GQA, TallyQA, Visual7W; and RefCOCO."""

import pickle
from collections.abc import Iterator
from itertools import count
from typing import Any

from minicoco.draw import box, outline
from minicoco.facts import Fact, paragraph, sample_facts, wrong_answer
from minicoco.scenes import CATEGORY_IDS, Scene, World, name_2014, name_2017, split_2014

_DISPUTED = ("colour", "count", "presence")


def files(world: World) -> Iterator[tuple[str, Any]]:
    """Yield every file on Visual Genome images, and those of RefCOCO, as (path, content)."""
    yield "visual_genome/image_data.json", list(_image_data(world))
    yield "visual_genome/question_answers.json", list(_question_answers(world))
    yield "image_paragraph/paragraphs_v1.json", list(_paragraphs(world))
    yield "gqa/train_balanced_questions.json", dict(_gqa(world))
    yield "tallyqa/train.json", list(_tallyqa(world))
    yield "visual7w/dataset_v7w_telling.json", _visual7w(world)
    yield "refcoco/refs(unc).p", pickle.dumps(list(_refs(world)), protocol=2)
    yield "refcoco/instances.json", _ref_instances(world)


def _image_data(world: World) -> Iterator[dict[str, Any]]:
    """Yield VG's image list; its copies of COCO images have another size, as upstream."""
    for genome_id, scene in world.genome.items():
        side = scene.pixels * 3 // 2
        yield {
            "width": side,
            "height": side,
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K/{genome_id}.jpg",
            "image_id": genome_id,
            "coco_id": scene.image_id if world.has_coco_id(scene) else None,
            "flickr_id": None,
        }


def _contradicted(fact: Fact, world: World, scene: Scene) -> str:
    """Return the short answer; in one of 25 cases a false one, which other sources contradict."""
    rng = world.rng(f"contradiction/{scene.image_id}/{fact.question}")
    return wrong_answer(fact, rng) if fact.kind in _DISPUTED and rng.random() < 0.04 else fact.short


def _question_answers(world: World) -> Iterator[dict[str, Any]]:
    """Yield VG's questions: capitalised answers with a full stop; some are repeated, some empty."""
    rng = world.rng("visual_genome_qa")
    qa_id = 986_768
    for genome_id, scene in world.genome.items():
        asked = sample_facts(scene, rng, 5)
        if rng.random() < 0.2:
            asked.append(asked[0])
        qas = []
        for fact in asked:
            answer = _contradicted(fact, world, scene).capitalize() + "."
            stray = rng.random()
            qas.append(
                {
                    "a_objects": [],
                    "question": "" if stray < 0.003 else fact.question,
                    "image_id": genome_id,
                    "qa_id": qa_id,
                    "answer": f"{answer} " if stray > 0.95 else answer,
                    "q_objects": [],
                }
            )
            qa_id += 1
        yield {"id": genome_id, "qas": qas}


def _paragraphs(world: World) -> Iterator[dict[str, Any]]:
    rng = world.rng("image_paragraph")
    for number, (genome_id, scene) in enumerate(world.some_genome(0.4, rng)):
        yield {
            "url": f"https://cs.stanford.edu/people/rak248/VG_100K/{genome_id}.jpg",
            "image_id": genome_id,
            "paragraph": "" if number == 7 else f"{paragraph(scene)} ",
        }


def _gqa(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    rng = world.rng("gqa")
    numbers, kinds = count(1_000_001), ("colour", "presence", "category", "background")
    for genome_id, scene in world.some_genome(0.7, rng):
        for fact in sample_facts(scene, rng, 3, kinds=kinds):
            row = {
                "semantic": [],
                "question": fact.question,
                "imageId": str(genome_id),
                "isBalanced": True,
                "answer": fact.short,
                "fullAnswer": fact.sentence,
            }
            yield f"{next(numbers):08d}", row
    yield "99999999", {"question": "What is on the wall?", "imageId": "n1", "answer": "clock"}


def _tallyqa(world: World) -> Iterator[dict[str, Any]]:
    """Yield counts on COCO names and on Visual Genome names, whose `image_id` is offset."""
    rng = world.rng("tallyqa")
    genome_ids = {scene.image_id: number for number, scene in world.genome.items()}
    scenes = [*world.some(0.45, rng), *world.foreign]
    for number, scene in enumerate(scenes):
        genome_id = genome_ids.get(scene.image_id)
        for fact in sample_facts(scene, rng, 1, kinds=("count",)):
            source, name = "imported_vqa", f"{split_2014(scene)}2014/{name_2014(scene)}"
            image_id = scene.image_id
            if genome_id is not None and (not world.has_coco_id(scene) or rng.random() < 0.3):
                source, name = "imported_genome", f"VG_100K/{genome_id}.jpg"
                image_id = 90_000_000 + genome_id
            yield {
                "answer": int(_contradicted(fact, world, scene)),
                "data_source": source,
                "image": name,
                "image_id": image_id,
                "question": fact.question,
                "question_id": 30_000_000 + number,
            }


def _visual7w(world: World) -> dict[str, Any]:
    rng = world.rng("visual7w")
    images = []
    for genome_id, scene in world.some_genome(0.4, rng):
        pairs: list[dict[str, Any]] = []
        for fact in sample_facts(scene, rng, 2, kinds=("category", "use")):
            others = [name for name in CATEGORY_IDS if name not in scene.counts()]
            pairs.append(
                {
                    "qa_id": genome_id * 10 + len(pairs),
                    "image_id": genome_id,
                    "question": fact.question,
                    "answer": f"{fact.short.capitalize()}.",
                    "multiple_choices": [f"{n.capitalize()}." for n in rng.sample(others, 3)],
                    "type": fact.question.split()[0].lower(),
                }
            )
        split = rng.choice(("train", "train", "train", "val"))
        images.append({"image_id": genome_id, "filename": f"v7w_{genome_id}.jpg",
                       "split": split, "qa_pairs": pairs})  # fmt: skip
    return {"dataset": "visual7w-telling", "images": images}


def _refs(world: World) -> Iterator[dict[str, Any]]:
    rng = world.rng("refcoco")
    sent_id = 0
    for scene in world.some(0.3, rng):
        things = list(enumerate(scene.things))
        for number, thing in rng.sample(things, min(2, len(things))):
            # Upstream has one to four expressions per region, mostly three.
            wordings = (f"{thing.name} at the {thing.place}", f"the {thing.name}",
                        f"{thing.category} on the {thing.place.split()[-1]}",
                        f"the {thing.colour} one at the {thing.place}")  # fmt: skip
            sentences = [
                {"tokens": text.split(), "raw": text, "sent_id": sent_id + n, "sent": text}
                for n, text in enumerate(wordings[: rng.choice((1, 2, 3, 3, 3, 4))])
            ]
            sent_id += len(sentences)
            ann_id = scene.image_id * 10 + number
            yield {
                "sent_ids": [sentence["sent_id"] for sentence in sentences],
                "file_name": name_2014(scene).replace(".jpg", f"_{number}.jpg"),
                "ann_id": ann_id,
                "ref_id": ann_id,
                "image_id": scene.image_id,
                "split": "testA" if rng.random() < 0.05 else "train",
                "sentences": sentences,
                "category_id": CATEGORY_IDS[thing.category],
            }


def _ref_instances(world: World) -> dict[str, Any]:
    """Return refer's instances file: the boxes of all things, without crowds."""
    annotations = [
        {
            "bbox": box(outline(thing, pixels=scene.pixels)),
            "image_id": scene.image_id,
            "category_id": CATEGORY_IDS[thing.category],
            "id": scene.image_id * 10 + number,
        }
        for scene in world.train
        for number, thing in enumerate(scene.things)
    ]
    images = [{"id": scene.image_id, "width": scene.pixels, "height": scene.pixels,
               "file_name": name_2017(scene)} for scene in world.train]  # fmt: skip
    return {"images": images, "annotations": annotations}
