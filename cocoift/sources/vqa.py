"""Question answering on COCO images: VQA's own layout and the sets derived from it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.schema import coco_id, whole_number
from cocoift.sources.base import (
    QA,
    Dialog,
    Drop,
    content_id,
    damaged,
    decode,
    decode_array,
    decode_lines,
    lettered,
    majority,
    with_question_mark,
)


class _Question(msgspec.Struct):
    question_id: int
    image_id: int
    question: str | None


class _Answer(msgspec.Struct):
    answer: str


class _Annotation(msgspec.Struct):
    question_id: int
    answers: list[_Answer] | None
    multiple_choice_answer: str | None = None


class _Explained(msgspec.Struct):
    img_id: int
    question: str | None
    answers: list[str] | None
    explanation: list[str | float] | None
    multiple_choice_answer: str | None = None


class _Choice(msgspec.Struct):
    image_id: int
    question_id: str
    question: str | None
    choices: list[str]
    correct_choice_idx: int | None = None
    rationales: list[str] = []


class _SceneText(msgspec.Struct):
    dataset: str
    file_name: str
    question: str | None
    answers: list[str] | None
    question_id: int | None = None


class _Statement(msgspec.Struct):
    image: str
    caption: str | None
    label: Literal[0, 1]


def _short_answer(annotation: _Annotation) -> str | None:
    answers = [answer.answer for answer in annotation.answers or []]
    return majority(answers, preferred=annotation.multiple_choice_answer)


def vqa(*, questions: Path, annotations: Path) -> Iterator[Dialog | Drop]:
    """Yield VQAv2 or OK-VQA questions with the most common of their ten answers.

    Files `v2_OpenEnded_mscoco_*_questions.json` and `v2_mscoco_*_annotations.json`; OK-VQA has
    the same layout without `multiple_choice_answer`.  Format: visualqa.org/download.html.
    """
    answers: dict[int, str | None] = {}
    for annotation in decode_array(annotations, _Annotation, key="annotations"):
        if annotation.question_id in answers:
            yield Drop("repeated_id")
        else:
            answers[annotation.question_id] = _short_answer(annotation)
    asked = set()
    for row in decode_array(questions, _Question, key="questions"):
        asked.add(row.question_id)
        if row.question_id in answers:
            rounds = (QA(row.question, answers[row.question_id]),)
            yield Dialog(row.image_id, str(row.question_id), rounds)
        else:
            yield Drop("question_without_annotation")
    orphans = len(answers.keys() - asked)
    if orphans:
        yield Drop("annotation_without_question", orphans)


def vqa_x(*, explanations: Path, questions: Path, annotations: Path) -> Iterator[Dialog | Drop]:
    """Yield VQAv2 questions answered with VQA-X's human explanation.

    File `train_exp_anno.json`, `{question id: [explanation, ...]}`; questions and answers come from
    VQAv2.  Format: github.com/Seth-Park/MultimodalExplanations.
    """
    explained = decode(explanations, dict[int, list[str]])
    asked = {
        row.question_id: row
        for row in decode_array(questions, _Question, key="questions")
        if row.question_id in explained
    }
    answered = {
        row.question_id: row
        for row in decode_array(annotations, _Annotation, key="annotations")
        if row.question_id in explained
    }
    for key, texts in explained.items():
        if key not in asked or key not in answered:
            yield Drop("explanation_without_question")
            continue
        answer = _explained(_short_answer(answered[key]), texts[0] if texts else None)
        yield Dialog(asked[key].image_id, str(key), (QA(asked[key].question, answer),))


def _explained(answer: str | None, explanation: str | None) -> str | None:
    """Join an answer and its explanation, `yes. the man holds a racket`; `None` if one is blank."""
    short, text = (answer or "").strip().rstrip("."), (explanation or "").strip()
    return f"{short}. {text}" if short and text else None


def vqa_e(*, explained: Path) -> Iterator[Dialog | Drop]:
    """Yield VQA-E questions answered with a short phrase and its explanation.

    File `VQA-E_train_set.json`, a list of `{img_id, question, answers, explanation: [text,
    score]}`.  Format: github.com/liqing-ustc/VQA-E.
    """
    for row in decode_array(explained, _Explained):
        short = majority(row.answers or [], preferred=row.multiple_choice_answer)
        text = str(row.explanation[0]) if row.explanation else None
        dialog_id = content_id(row.img_id, row.question, row.answers, text)
        yield Dialog(row.img_id, dialog_id, (QA(row.question, _explained(short, text)),))


def aokvqa(*, questions: Path) -> Iterator[Dialog | Drop]:
    """Yield A-OKVQA multiple-choice questions answered with a letter and a rationale.

    File `aokvqa_v1p0_train.json`; `correct_choice_idx` counts from 0 and is absent in the test
    split.  Format: github.com/allenai/aokvqa.  Raises `DataError` for a choice beyond the options.
    """
    for row in decode_array(questions, _Choice):
        if row.correct_choice_idx is None:
            yield Drop("hidden_answer")
            continue
        if not 0 <= row.correct_choice_idx < len(row.choices):
            raise damaged(questions, f"question {row.question_id}: correct_choice_idx out of range")
        letter = chr(65 + row.correct_choice_idx)
        answer = _explained(letter, row.rationales[0] if row.rationales else None)
        yield Dialog(
            row.image_id, row.question_id, (QA(lettered(row.question, row.choices), answer),)
        )


def st_vqa(*, questions: Path) -> Iterator[Dialog | Drop]:
    """Yield ST-VQA's scene-text questions on COCO-Text images with their first answer.

    File `train_task_3.json` of the ICDAR 2019 challenge: `{"data": [{dataset, file_name,
    question, answers}]}`; images of other collections are dropped.
    Format: rrc.cvc.uab.es/?ch=11.
    """
    for row in decode_array(questions, _SceneText, key="data"):
        if "coco" not in row.dataset.lower():
            yield Drop("no_coco_id")
            continue
        answer = majority(row.answers or [])
        dialog_id = str(row.question_id or content_id(row.file_name, row.question, answer))
        yield Dialog(coco_id(row.file_name), dialog_id, (QA(row.question, answer),))


def coco_qa(*, questions: Path, answers: Path, image_ids: Path) -> Iterator[Dialog | Drop]:
    """Yield COCO-QA's generated questions from its parallel text files, question marks restored.

    Files `questions.txt`, `answers.txt` and `img_ids.txt`, one entry per line.
    Raises `DataError` for files that are not parallel.
    Format: www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa.
    """
    files = (questions, answers, image_ids)
    try:
        columns = [path.read_text(encoding="utf-8").splitlines() for path in files]
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(questions.parent, error) from error
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(f"{p.name} {len(c)}" for p, c in zip(files, columns, strict=True))
        raise damaged(questions.parent, f"files are not parallel ({lengths} lines)")
    for line, (question, answer, image) in enumerate(zip(*columns, strict=True), start=1):
        image_id = whole_number(image.strip())
        if image_id is None:
            raise damaged(image_ids, f"{image!r} is not an image id", line=line)
        dialog_id = content_id(image.strip(), question, answer)
        yield Dialog(image_id, dialog_id, (QA(with_question_mark(question), answer),))


def vsr(*, statements: Path) -> Iterator[Dialog | Drop]:
    """Yield VSR statements with the answer yes or no.

    Files `train.jsonl` and others of the random or zero-shot split, which share statements.
    Format: github.com/cambridgeltl/visual-spatial-reasoning.
    """
    for row in decode_lines(statements, _Statement):
        image = coco_id(row.image)
        answer = "yes" if row.label else "no"
        yield Dialog(image, content_id(image, row.caption, answer), (QA(row.caption, answer),))
