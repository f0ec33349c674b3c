"""Question answering on COCO images, in the formats of VQAv2 and its relatives."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from minicoco.facts import Fact, four_choices, relations, sample_facts, ten_answers
from minicoco.scenes import USES, Scene, World, name_2014, name_2017, split_2014

_LICENCE = {"name": "mini", "url": "http://creativecommons.org/licenses/by/4.0/"}


def files(world: World) -> Iterator[tuple[str, Any]]:
    """Yield every question answering file on COCO images as (path, content)."""
    asked = _vqa_questions(world)
    yield from _vqav2(world, asked)
    yield from _okvqa(world)
    yield "vqa_e/VQA-E_train_set.json", list(_vqa_e(world, asked))
    yield "vqa_x/train_exp_anno.json", dict(_vqa_x(world, asked))
    yield from _coco_qa(world)
    yield "st_vqa/train_task_3.json", {"data": list(_st_vqa(world))}
    yield from _vsr(world)
    yield "aokvqa/aokvqa_v1p0_train.json", list(_aokvqa(world))


def _vqa_questions(world: World) -> list[tuple[Scene, int, Fact]]:
    """Draw VQAv2's questions: about four per image, on 85 % of the images and the held-out ones."""
    rng = world.rng("vqav2/questions")
    scenes = [*world.some(0.85, rng), *world.held_out]
    return [
        (scene, scene.image_id * 1000 + number, fact)
        for scene in scenes
        for number, fact in enumerate(sample_facts(scene, rng, rng.randint(3, 5)))
    ]


def _vqav2(world: World, asked: list[tuple[Scene, int, Fact]]) -> Iterator[tuple[str, Any]]:
    rng = world.rng("vqav2/answers")
    head = {"info": {"version": "2.0"}, "data_type": "mscoco", "license": _LICENCE}

    def question(text: str) -> str:
        return f"{text} " if rng.random() < 0.02 else text

    def answers(fact: Fact) -> dict[str, Any]:
        given, choice = ten_answers(fact, rng)
        kinds = {"presence": "yes/no", "count": "number"}
        return {
            "question_type": " ".join(fact.question.lower().split()[:2]),
            "multiple_choice_answer": choice,
            "answers": given,
            "answer_type": kinds.get(fact.kind, "other"),
        }

    for split, questions, annotations in _vqa_layout(asked, question, answers):
        about = {**head, "data_subtype": f"{split}2014"}
        del annotations[1:2]  # a question whose annotation is missing
        yield (
            f"vqav2/v2_OpenEnded_mscoco_{split}2014_questions.json",
            {**about, "task_type": "Open-Ended", "questions": questions},
        )
        yield f"vqav2/v2_mscoco_{split}2014_annotations.json", {**about, "annotations": annotations}


def _okvqa(world: World) -> Iterator[tuple[str, Any]]:
    rng = world.rng("okvqa")
    asked = [
        (scene, scene.image_id * 10 + 5, fact)
        for scene in world.some(0.12, rng)
        for fact in sample_facts(scene, rng, 1, kinds=("use",))
    ]

    def answers(fact: Fact) -> dict[str, Any]:
        given = {"raw_answer": fact.short, "answer": fact.short, "answer_confidence": "yes"}
        return {
            "answer_type": "other",
            "question_type": "four",
            "answers": [{**given, "answer_id": number} for number in range(1, 11)],
            "confidence": 3,
        }

    for split, questions, annotations in _vqa_layout(asked, str, answers):
        yield f"okvqa/OpenEnded_mscoco_{split}2014_questions.json", {"questions": questions}
        yield f"okvqa/mscoco_{split}2014_annotations.json", {"annotations": annotations}


def _vqa_layout(
    asked: list[tuple[Scene, int, Fact]],
    question: Callable[[str], str],
    answers: Callable[[Fact], dict[str, Any]],
) -> Iterator[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """Yield VQA's layout by 2014 split: questions, and annotations that refer to them by id."""
    for split in ("train", "val"):
        rows = [({"image_id": scene.image_id, "question_id": number}, fact)
                for scene, number, fact in asked if split_2014(scene) == split]  # fmt: skip
        questions = [{**ids, "question": question(fact.question)} for ids, fact in rows]
        yield split, questions, [{**answers(fact), **ids} for ids, fact in rows]


def _vqa_e(world: World, asked: list[tuple[Scene, int, Fact]]) -> Iterator[dict[str, Any]]:
    rng = world.rng("vqa_e")
    for scene, _, fact in asked:
        if rng.random() < 0.35 and fact.kind != "background":
            yield {
                "img_id": scene.image_id,
                "question": fact.question,
                "answers": [fact.short] * 10,
                "multiple_choice_answer": fact.short,
                "answer_type": "other",
                "question_type": "other",
                "explanation": [fact.sentence.lower().removesuffix("."), 0.9],
            }


def _vqa_x(world: World, asked: list[tuple[Scene, int, Fact]]) -> Iterator[tuple[str, list[str]]]:
    rng = world.rng("vqa_x")
    for scene, question_id, fact in asked:
        if split_2014(scene) == "train" and rng.random() < 0.12:
            text = fact.sentence if rng.random() < 0.75 else fact.sentence.removesuffix(".")
            yield str(question_id), [text[0].lower() + text[1:]]


def _coco_qa(world: World) -> Iterator[tuple[str, bytes]]:
    rng = world.rng("coco_qa")
    lines: dict[str, list[str]] = {"questions": [], "answers": [], "types": [], "img_ids": []}
    types = {"category": "0", "count": "1", "colour": "2", "background": "3"}
    for scene in world.some(0.5, rng):
        for fact in sample_facts(scene, rng, 2, kinds=tuple(types)):
            lines["questions"].append(fact.question.lower().removesuffix("?"))
            lines["answers"].append(fact.short)
            lines["types"].append(types[fact.kind])
            lines["img_ids"].append(str(scene.image_id))
    for name, column in lines.items():
        yield f"cocoqa/train/{name}.txt", ("\n".join(column) + "\n").encode()


def _st_vqa(world: World) -> Iterator[dict[str, Any]]:
    signs = [("coco-text", name_2014(scene), thing.letter)
             for scene in world.train for thing in scene.unique() if thing.letter]  # fmt: skip
    signs += [("visualgenome", "2345678.jpg", thing.letter)
              for scene in world.foreign for thing in scene.unique() if thing.letter]  # fmt: skip
    for number, (dataset, name, letter) in enumerate(signs):
        yield {
            "question": "What letter is on the sign?",
            "answers": [letter],
            "question_id": number,
            "file_path": f"{dataset}/{name}",
            "file_name": name,
            "dataset": dataset,
            "set_name": "train",
        }


def _vsr(world: World) -> Iterator[tuple[str, bytes]]:
    """Yield both splits; zero-shot repeats statements of the random split, as upstream."""
    rng = world.rng("vsr")
    rows = []
    for scene in world.some(0.2, rng):
        statements = relations(scene)
        for caption, truth in rng.sample(statements, min(2, len(statements))):
            rows.append(
                {
                    "image": name_2017(scene),
                    "image_link": f"http://images.cocodataset.org/train2017/{name_2017(scene)}",
                    "caption": caption,
                    "label": int(truth),
                    "relation": " ".join(caption.split()[3:-2]),
                    "annotator_id": 1,
                    "vote_true_validator_id": "[1, 2]",
                    "vote_false_validator_id": "[]",
                }
            )
    for name, part in (("random/train", rows), ("zeroshot/train", rows[::5])):
        lines = b"\n".join(msgspec.json.encode(row) for row in part)
        yield f"vsr/{name}.jsonl", lines + b"\n"


def _aokvqa(world: World) -> Iterator[dict[str, Any]]:
    rng = world.rng("aokvqa")
    for scene in world.some(0.2, rng):
        for fact in sample_facts(scene, rng, 1, kinds=("use",)):
            choices = four_choices(fact.short, scene, rng)
            reason = f"{fact.sentence.removesuffix('.')} because that is what it is made for."
            yield {
                "split": "train",
                "image_id": scene.image_id,
                "question_id": f"{scene.image_id:022x}",
                "question": f"What would you need for {USES[fact.short]}?",
                "choices": choices,
                "correct_choice_idx": choices.index(fact.short),
                "direct_answers": [fact.short] * 10,
                "difficult_direct_answer": False,
                "rationales": [reason, fact.sentence, f"It is {fact.short}."],
            }
