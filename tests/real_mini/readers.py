"""Readers for two shapes of real data that only the sample has."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from cocoift.core.schema import coco_id
from cocoift.sources.base import QA, Dialog, content_id, decode, decode_lines


class _Lxmert(msgspec.Struct):
    sent: str
    question_id: int
    label: dict[str, float]
    img_id: str


class _Instruction(msgspec.Struct):
    image: str
    instruction: str
    output: str


def okvqa_lxmert(*, questions: Path) -> Iterator[Dialog]:
    """Yield OK-VQA questions in LXMERT's re-encoding, with the best-scored answer."""
    for row in decode(questions, list[_Lxmert]):
        answer = max(row.label, key=lambda text: row.label[text]) if row.label else None
        yield Dialog(coco_id(row.img_id), str(row.question_id), (QA(row.sent, answer),))


def llava_gpt4(*, answers: Path) -> Iterator[Dialog]:
    """Yield LLaVA's GPT-4 reference answers, `{image, instruction, output}` a line."""
    for row in decode_lines(answers, _Instruction):
        image = coco_id(row.image)
        yield Dialog(image, content_id(image, row.instruction), (QA(row.instruction, row.output),))
