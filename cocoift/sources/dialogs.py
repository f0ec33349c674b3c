"""Conversational sets: LLaVA's JSON format and its relatives, SVIT, LRV-Instruct, VisDial."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from cocoift.core.files import DataError
from cocoift.core.schema import (
    IMAGE_MARKER,
    TEXT_ONLY,
    Message,
    Record,
    check_record,
    coco_id,
    whole_number,
)
from cocoift.sources.base import (
    QA,
    Dialog,
    Drop,
    content_id,
    damaged,
    decode,
    decode_array,
    decode_lines,
    decode_records,
    with_question_mark,
)
from cocoift.sources.genome import coco_ids

# UniMM-Chat spells the marker with a space in it.
_IMAGE = IMAGE_MARKER.replace(">", " ?>")
_MARKER = re.compile(rf"^\s*{_IMAGE}\s*|\s*{_IMAGE}\s*$")


# Who asks and who answers: LLaVA's names, and those that ms-swift accepts too.
ASKERS, ANSWERERS = ("human", "user"), ("gpt", "assistant", "bot")


class LlavaRecord(msgspec.Struct):
    """An entry of a LLaVA-format file; text-only records have no image, some have several."""

    conversations: list[Message]
    id: str | int = ""
    image: str | list[str] | None = None

    @property
    def images(self) -> list[str]:
        """The names of the images."""
        return [self.image] if isinstance(self.image, str) else self.image or []


class _SvitConversation(msgspec.Struct):
    content: list[Message]


class _Svit(msgspec.Struct):
    image_id: int
    conversations: list[_SvitConversation]


class _Lrv(msgspec.Struct):
    image_id: str
    question: str | None
    answer: str | None


class _UniMm(msgspec.Struct):
    conversation: str
    image_path: str


_Index = Annotated[int, msgspec.Meta(ge=0)]


class _VisDialRound(msgspec.Struct):
    question: _Index
    answer: _Index | None = None


class _VisDialDialog(msgspec.Struct):
    image_id: int
    dialog: list[_VisDialRound]


class _VisDialData(msgspec.Struct):
    questions: list[str]
    answers: list[str]
    dialogs: list[msgspec.Raw]


class _VisDial(msgspec.Struct):
    split: str
    data: _VisDialData


def rounds(messages: Sequence[Message]) -> tuple[QA, ...] | None:
    """Return the rounds of a conversation, or `None` unless questions and answers alternate.

    A first message that is not the asker's is skipped, as by LLaVA's trainer (`preprocess_v1`).
    """
    if messages and messages[0].speaker not in ASKERS:
        messages = messages[1:]
    speakers = [message.speaker for message in messages]
    alternate = {*speakers[::2]} <= {*ASKERS} and {*speakers[1::2]} <= {*ANSWERERS}
    if not messages or len(messages) % 2 or not alternate:
        return None
    texts = [message.value for message in messages]
    pairs = zip(texts[::2], texts[1::2], strict=True)
    return tuple(
        QA(_MARKER.sub("", question) if position == 0 else question, answer)
        for position, (question, answer) in enumerate(pairs)
    )


def left_out(path: Path, first: LlavaRecord | None, *, odd: int, total: int) -> str:
    """Say how many conversations of a file have no `rounds`, and what is wrong with the `first`.

    Empty if every conversation has rounds.  Raises `DataError` with the same words if none has.
    """
    if first is None:
        return ""
    speakers = [repr(message.speaker) for message in first.conversations[:4]]
    more = ", ..." if len(first.conversations) > 4 else ""
    fault = (
        f"{path.name}: {odd:,} of {total:,} conversations cannot be read, such as record "
        f"{str(first.id)!r} with messages from {', '.join(speakers) or 'nobody'}{more}; "
        f"{' or '.join(ASKERS)} must alternate with {' or '.join(ANSWERERS)}"
    )
    if odd == total:
        raise DataError(f"{fault}; correct `from` in {path}")
    return fault


def llava_records(path: Path) -> Iterator[LlavaRecord]:
    """Yield the records of any LLaVA-format file, e.g. `llava_v1_5_mix665k.json`, or JSON Lines.

    Format: github.com/haotian-liu/LLaVA/blob/main/docs/Finetune_Custom_Data.md.
    """
    return (decode_lines if path.suffix == ".jsonl" else decode_array)(path, LlavaRecord)


def whole_records(path: Path, *, source: str) -> Iterator[Record | Drop]:
    """Yield the conversations of any LLaVA-format file as records, about whatever images.

    Texts are trimmed, the image marker stands before the first question, and `source` is named for
    every round.  Those whose speakers do not alternate, that show several images or hold an empty
    message are dropped.
    """
    for number, row in enumerate(llava_records(path)):
        pairs = rounds(row.conversations)
        count = max(1, len(row.conversations) // 2)
        texts = [(text or "").strip() for qa in pairs or () for text in (qa.question, qa.answer)]
        if not pairs:
            yield Drop("odd_conversation", count)
        elif len(row.images) > 1:
            yield Drop("several_images", count)
        elif not all(text.replace(IMAGE_MARKER, "").strip() for text in texts):
            yield Drop("empty", count)
        else:
            marker = f"{IMAGE_MARKER}\n" if row.images else ""
            texts[0] = f"{marker}{texts[0]}"
            said = [
                Message(*each) for each in zip(("human", "gpt") * len(pairs), texts, strict=True)
            ]
            image = row.images[0] if row.images else TEXT_ONLY
            record = Record(f"{number}-{row.id}", image, said, [source] * len(pairs))
            check_record(record)
            yield record


def llava(*, conversations: Path) -> Iterator[Dialog | Drop]:
    """Yield the conversations about COCO images of a LLaVA-format file.

    `llava_instruct_150k.json` uses one id for three conversations, so a dialog id is made of id
    and content.  LVIS-Instruct4V and ShareGPT4V prefix images with `coco/train2017/`; images of
    other collections (`sam/`, `llava/`) are dropped.
    """
    for row in llava_records(conversations):
        yield _on_coco(row.conversations, row.images)


def _on_coco(messages: list[Message], images: Sequence[str]) -> Dialog | Drop:
    """Return a conversation about a COCO image as a dialog, or the reason to drop it."""
    turns = rounds(messages)
    count = max(1, len(messages) // 2)
    if not turns:
        return Drop("odd_conversation", count)
    if len(images) > 1:
        return Drop("several_images", count)
    try:
        image = coco_id("".join(images))
    except DataError:
        return Drop("no_coco_id", count)
    return Dialog(image, f"{image}-{content_id(*turns)}", turns)


def svit(*, conversations: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield SVIT's conversations in its original format.

    Files `conversation.json`, `complex_reasoning.json` and `detail_description.json`: a Visual
    Genome image with several conversations, whose asker is called `user`.
    Format: huggingface.co/datasets/BAAI/SVIT.
    """
    coco = coco_ids(images)
    for row in decode_array(conversations, _Svit):
        for conversation in row.conversations:
            turns = rounds(conversation.content)
            count = max(1, len(conversation.content) // 2)
            if not turns:
                yield Drop("odd_conversation", count)
            elif row.image_id not in coco:
                yield Drop("no_coco_id", count)
            else:
                yield Dialog(coco[row.image_id], f"{row.image_id}-{content_id(*turns)}", turns)


def lrv(*, instructions: Path, images: Path) -> Iterator[Dialog | Drop]:
    """Yield LRV-Instruct's questions, half of which ask about what is not there.

    File `filter_cap1.json`: `{image_id, question, answer}` with Visual Genome ids as strings.
    Format: github.com/FuxiaoLiu/LRV-Instruction.
    """
    coco = coco_ids(images)
    for row in decode_array(instructions, _Lrv):
        number = whole_number(row.image_id)
        image = None if number is None else coco.get(number)
        if image is None:
            yield Drop("no_coco_id")
            continue
        dialog_id = content_id(row.image_id, row.question, row.answer)
        yield Dialog(image, dialog_id, (QA(row.question, row.answer),))


def unimm_chat(*, conversations: Path) -> Iterator[Dialog | Drop]:
    """Yield UniMM-Chat: dialogs that a language model wrote from the annotations of one image.

    File `UniMM-Chat-v0.json`: a list of `{ds_name, image_path, conversation, origin_dataset, idx}`
    whose `conversation` is LLaVA's list of messages as a JSON string, with the image marker before
    or after the first question.  Raises `DataError` for any other string.
    Format: huggingface.co/datasets/Yirany/UniMM-Chat (arXiv 2310.00653).
    """
    messages = msgspec.json.Decoder(list[Message])
    for number, row in enumerate(decode_array(conversations, _UniMm)):
        try:
            conversation = messages.decode(row.conversation)
        except msgspec.MsgspecError as error:
            message = f"{error} - in the string at `$[{number}].conversation`"
            raise damaged(conversations, message) from error
        yield _on_coco(conversation, [row.image_path])


def visdial(*, dialogs: Path) -> Iterator[Dialog | Drop]:
    """Yield VisDial's ten-round dialogs, question marks restored.

    File `visdial_1.0_train.json`: rounds hold indices into string tables.  Only the train split
    uses COCO ids; val and test images have other numbers and are dropped.
    Raises `DataError` for an index that is negative or beyond the tables.
    Format: visualdialog.org/data.
    """
    file = decode(dialogs, _VisDial)
    questions, answers = file.data.questions, file.data.answers
    records = enumerate(file.data.dialogs)
    for _, row in decode_records(dialogs, _VisDialDialog, records, place="$.data.dialogs"):
        if file.split != "train":
            yield Drop("no_coco_id", len(row.dialog))
            continue
        try:
            turns = tuple(
                QA(
                    with_question_mark(questions[r.question]),
                    None if r.answer is None else answers[r.answer],
                )
                for r in row.dialog
            )
        except IndexError as error:
            raise damaged(dialogs, f"dialog of image {row.image_id}: {error}") from error
        yield Dialog(row.image_id, str(row.image_id), turns)
