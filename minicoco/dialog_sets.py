"""Conversational sets in LLaVA's format and similar ones."""

import random
from collections.abc import Iterator
from typing import Any

import msgspec

from minicoco.facts import Fact, caption, dialog_facts, paragraph, reasoning, sample_facts
from minicoco.scenes import Scene, World, name_2014, name_2017

# Open questions that ask for a whole description without stating its length.
DESCRIBE = (
    "Describe the picture.",
    "What is happening in this picture?",
    "What do you see in the picture?",
    "Can you tell me about this picture?",
)


def chat(
    pairs: list[tuple[str, str]], *, asker: str = "human", image: bool = True, last: bool = False
) -> list[dict[str, str]]:
    """Return LLaVA's messages for question-answer pairs.

    The marker of the `image` is before the first question or, with `last`, after it; upstream has
    both.
    """
    messages = []
    for position, (question, answer) in enumerate(pairs):
        if position == 0 and image:
            question = f"{question}\n<image>" if last else f"<image>\n{question}"
        messages += [{"from": asker, "value": question}, {"from": "gpt", "value": answer}]
    return messages


def conversation(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Return three rounds of different questions answered in sentences, as in LLaVA-Instruct."""
    return [(fact.question, fact.sentence) for fact in sample_facts(scene, rng, 3)]


def files(world: World) -> Iterator[tuple[str, Any]]:
    """Yield every conversational file as (path, content)."""
    yield "llava_instruct/llava_instruct_150k.json", list(llava_instruct(world))
    yield "lvis_instruct4v/lvis_instruct4v_220k.json", list(_lvis(world))
    yield from _svit(world)
    yield "sharegpt4v/sharegpt4v_instruct_gpt4-vision_cap100k.json", list(_sharegpt4v(world))
    yield "lrv/filter_cap1.json", list(_lrv(world))
    yield "visdial/visdial_1.0_train.json", _visdial(world)
    yield "evaluation/qa90_questions.jsonl", _evaluation(world)


def llava_instruct(world: World) -> Iterator[dict[str, Any]]:
    """Yield LLaVA-Instruct: conversation, detail and reasoning with the same id, as upstream."""
    rng = world.rng("llava_instruct")
    for scene in world.some(0.6, rng):
        head = {"id": f"{scene.image_id:012d}", "image": name_2017(scene)}
        last = rng.random() < 0.3
        yield {**head, "conversations": chat(conversation(scene, rng), last=last)}
        if rng.random() < 0.5:
            detail = [(rng.choice(DESCRIBE), paragraph(scene))]
            yield {**head, "conversations": chat(detail, last=last)}
        if rng.random() < 0.5:
            yield {**head, "conversations": chat([reasoning(scene, rng)])}


def _lvis(world: World) -> Iterator[dict[str, Any]]:
    rng = world.rng("lvis_instruct4v")
    for scene in world.some(0.4, rng):
        pairs = [*conversation(scene, rng), reasoning(scene, rng)]
        path = f"coco/train2017/{name_2017(scene)}"
        yield {"id": path.removesuffix(".jpg"), "image": path, "conversations": chat(pairs)}


def _svit(world: World) -> Iterator[tuple[str, Any]]:
    rng = world.rng("svit")

    def rows(share: float, make: Any) -> list[dict[str, Any]]:
        found = []
        for genome_id, scene in world.some_genome(share, rng):
            content = chat(make(scene), asker="user", image=False)
            found.append({"image_id": genome_id, "conversations": [{"content": content}]})
        return found

    yield "svit/conversation.json", rows(0.5, lambda scene: conversation(scene, rng))
    yield "svit/complex_reasoning.json", rows(0.3, lambda scene: [reasoning(scene, rng)])
    details = rows(0.3, lambda scene: [(rng.choice(DESCRIBE), paragraph(scene))])
    for row in details[:1]:  # a damaged entry: a conversation without a question
        row["conversations"].append({"content": [{"from": "gpt", "value": "Hello."}]})
    yield "svit/detail_description.json", details


def _sharegpt4v(world: World) -> Iterator[dict[str, Any]]:
    """Yield long descriptions; a fifth of the images come from other collections."""
    rng = world.rng("sharegpt4v")
    for number, scene in enumerate(world.some(0.3, rng)):
        foreign = number % 5 == 4
        path = f"sam/images/sa_{scene.image_id}.jpg" if foreign else f"train2017/{name_2017(scene)}"
        text = f"{paragraph(scene)} {caption(scene, rng)}"
        yield {
            "id": f"{scene.image_id:012d}",
            "image": path if foreign else f"coco/{path}",
            "conversations": chat([(rng.choice(DESCRIBE), text)]),
        }


def _lrv(world: World) -> Iterator[dict[str, Any]]:
    """Yield questions, half of which ask about what is not there; one answer is null."""
    rng = world.rng("lrv")
    for number, (genome_id, scene) in enumerate(world.some_genome(0.5, rng)):
        for fact in sample_facts(scene, rng, 2, kinds=("presence", "colour")):
            yield {
                "image_id": str(genome_id),
                "question": fact.question,
                "answer": None if number == 3 else fact.sentence,
                "task": "Image Captioning",
            }


def _visdial(world: World) -> dict[str, Any]:
    """Return ten-round dialogs over string tables: no question marks, terse answers, `it`.

    A quarter of the scenes have a dialog, so that about a quarter of all turns without a format
    prompt are terse, as in the published counts of the conversational sets on COCO images.
    """
    rng = world.rng("visdial")
    questions: dict[str, int] = {}
    answers: dict[str, int] = {}
    dialogs = []
    for scene in world.some(0.25, rng):
        rows = []
        for fact in dialog_facts(scene, rng, 10):
            question = fact.question.lower().removesuffix("?")
            answer = _terse(fact, rng)
            rows.append({"question": questions.setdefault(question, len(questions)),
                         "answer": answers.setdefault(answer, len(answers)),
                         "answer_options": [], "gt_index": 0})  # fmt: skip
        dialogs.append({"image_id": scene.image_id, "caption": caption(scene, rng), "dialog": rows})
    return {
        "version": "1.0",
        "split": "train",
        "data": {"questions": list(questions), "answers": list(answers), "dialogs": dialogs},
    }


def _terse(fact: Fact, rng: random.Random) -> str:
    if fact.kind == "presence":
        return "yes" if fact.short == "yes" else rng.choice(("no", "nope", "no – i don’t see any"))
    return rng.choice((fact.short, f"it is {fact.short}")) if fact.kind == "colour" else fact.short


def _evaluation(world: World) -> bytes:
    """Return the question file of LLaVA-Bench (COCO); three of its images are also in train2017."""
    scenes = [*world.held_out[:17], *world.train[:3]]
    rows = [{"question_id": number, "image": name_2014(scene).split("_")[-1],
             "text": DESCRIBE[0], "category": "detail"}
            for number, scene in enumerate(scenes)]  # fmt: skip
    return b"\n".join(msgspec.json.encode(row) for row in rows) + b"\n"
