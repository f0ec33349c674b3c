"""Sets on Visual Genome images, joined to COCO through `image_data.json`."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from cocoift.core.schema import coco_id, whole_number
from cocoift.sources.base import (
    QA,
    Dialog,
    Drop,
    content_id,
    damaged,
    decode_array,
    decode_object,
    lettered,
)


class _GenomeImage(msgspec.Struct):
    image_id: int
    coco_id: int | None


class _Paragraph(msgspec.Struct):
    image_id: int
    paragraph: str | None


class _GenomeQA(msgspec.Struct):
    qa_id: int
    question: str | None
    answer: str | None


class _GenomeQAs(msgspec.Struct):
    id: int
    qas: list[_GenomeQA]


class _GqaQuestion(msgspec.Struct, rename="camel"):
    image_id: str
    question: str | None
    answer: str | None


class _Count(msgspec.Struct):
    image: str
    image_id: int
    question_id: int
    question: str | None
    answer: int | None


class _Telling(msgspec.Struct):
    qa_id: int
    question: str | None
    answer: str | None
    multiple_choices: list[str]


class _TellingImage(msgspec.Struct):
    image_id: int
    split: str
    qa_pairs: list[_Telling]


def coco_ids(images: Path) -> dict[int, int]:
    """Return `{Visual Genome id: COCO id}` from `image_data.json`, for images with a COCO id.

    About half of the 108,077 Visual Genome images come from COCO.
    Format: homes.cs.washington.edu/~ranjay/visualgenome/api.html.
    """
    rows = decode_array(images, _GenomeImage)
    return {row.image_id: row.coco_id for row in rows if row.coco_id is not None}


def paragraphs(*, paragraphs: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield Image Paragraph Captioning's paragraph per Visual Genome image.

    File `paragraphs_v1.json`.  Format: cs.stanford.edu/people/ranjaykrishna/im2p.
    """
    coco = coco_ids(images)
    for row in decode_array(paragraphs, _Paragraph):
        if row.image_id in coco:
            dialog_id = content_id(row.image_id, row.paragraph)
            yield Dialog(coco[row.image_id], dialog_id, (QA("", row.paragraph),))
        else:
            yield Drop("no_coco_id")


def visual_genome_qa(*, question_answers: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield Visual Genome's free-form questions.

    File `question_answers.json`: `id` beside `qas`, each answer a phrase with a full stop.
    Format: homes.cs.washington.edu/~ranjay/visualgenome/api.html.
    """
    coco = coco_ids(images)
    for image in decode_array(question_answers, _GenomeQAs):
        if image.id not in coco:
            yield Drop("no_coco_id", len(image.qas))
            continue
        for row in image.qas:
            yield Dialog(coco[image.id], str(row.qa_id), (QA(row.question, row.answer),))


def gqa(*, questions: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield GQA's questions with their short answers.

    File `train_balanced_questions.json`, keyed by question id; `imageId` is a Visual Genome id
    as a string, or `n...` for images from elsewhere.
    Format: cs.stanford.edu/people/dorarad/gqa/download.html.
    """
    coco = coco_ids(images)
    for question_id, row in decode_object(questions, _GqaQuestion):
        number = whole_number(row.image_id)
        image = None if number is None else coco.get(number)
        if image is None:
            yield Drop("no_coco_id")
        else:
            yield Dialog(image, question_id, (QA(row.question, row.answer),))


def tallyqa(*, questions: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield TallyQA's counting questions with the count in digits.

    File `train.json`: images in `train2014/` and `val2014/` carry COCO ids, those in
    `VG_100K*/` Visual Genome ids (`image_id` there is the id plus 90,000,000, so the file name
    is read instead).  Format: github.com/manoja328/TallyQA_dataset.
    Raises `DataError` for an image name of neither kind.
    """
    coco = coco_ids(images)
    for row in decode_array(questions, _Count):
        folder, _, name = row.image.rpartition("/")
        image: int | None
        if not folder.startswith("VG_100K"):
            image = coco_id(name)
        else:
            number = whole_number(name.removesuffix(".jpg"))
            if number is None:
                raise damaged(questions, f"question {row.question_id}: image {row.image!r}")
            image = coco.get(number)
        if image is None:
            yield Drop("no_coco_id")
            continue
        answer = None if row.answer is None else str(row.answer)
        yield Dialog(image, str(row.question_id), (QA(row.question, answer),))


def visual7w(*, telling: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield Visual7W's telling questions as multiple choice, answered with a letter.

    File `dataset_v7w_telling.json`: the right answer beside three wrong ones, whose order is
    drawn from the question id.  Only `split: train`.  Format: github.com/yukezhu/visual7w-toolkit.
    """
    coco = coco_ids(images)
    for image in decode_array(telling, _TellingImage, key="images"):
        reason = None if image.image_id in coco else "no_coco_id"
        reason = reason if image.split == "train" else "other_split"
        if reason:
            yield Drop(reason, len(image.qa_pairs))
            continue
        for row in image.qa_pairs:
            yield Dialog(coco[image.image_id], str(row.qa_id), (_multiple_choice(row),))


def _multiple_choice(row: _Telling) -> QA:
    if not row.answer or not row.answer.strip():
        return QA(row.question, None)
    options = sorted(
        {row.answer, *row.multiple_choices}, key=lambda option: content_id(row.qa_id, option)
    )
    return QA(lettered(row.question, options), chr(65 + options.index(row.answer)))
