"""Records, samples and dialogs as HTML cards, every text escaped."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from cocoift.core.files import DataError, inside
from cocoift.core.images import image_address, open_image
from cocoift.core.schema import IMAGE_MARKER, Record
from cocoift.core.templates import render
from cocoift.core.text import counted, tidy
from cocoift.tuning.chat import Sample
from cocoift.tuning.data import batch_samples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LARGEST_SIDE = 320


def record_card(
    record: Record, *, image_root: Path, names: Mapping[str, str], rounds: int = 12
) -> str:
    """Return a record as a self-contained HTML card: its image and its first `rounds` rounds.

    An image that is missing or leaves `image_root` is reported in words.  `names` are the titles
    of the sources.
    """
    messages = record.conversations
    listed = [
        (names.get(source, source), tidy(asked.value.replace(IMAGE_MARKER, "")), reply.value)
        for asked, reply, source in zip(messages[::2], messages[1::2], record.sources, strict=True)
    ]
    return render(
        "record.html",
        record=record,
        rounds=listed,
        shown=rounds,
        counted=f"{counted(len(listed), 'round')}, {counted(len(set(record.sources)), 'source')}",
        **_picture(image_root, record.image),
    )


def supervision_card(
    sample: Sample, decode: Callable[[Sequence[int]], str], *, image: str
) -> Markup:
    """Return a sample as HTML: its whole text, the supervised tokens marked and underlined.

    `decode` turns ids into text; the run of image tokens, each decoded as `image`, is shortened.
    """
    ids, parts, place = list(sample.input_ids), [], 0
    for start, end in sample.spans:
        before = decode(ids[place:start])
        count = before.count(image)
        if count > 1:
            before = before.replace(image * count, f"{image} × {count}")
        parts += [(before, False), (decode(ids[start:end]), True)]
        place = end
    return render("supervision.html", parts=parts)


def batch_card(
    input_ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    image: str = IMAGE_MARKER,
) -> Markup:
    """Return what carries loss in a batch of a foreign trainer as HTML, one card per row.

    `input_ids` and `labels` are the collator's, as lists or tensors on the CPU, and `image` is how
    an image token decodes.  Raises `DataError` as `samples.batch_samples` does.
    """
    rows = []
    for sample in batch_samples(input_ids, labels, pad=tokenizer.pad_token_id):
        share = sum(end - start for start, end in sample.spans) / max(1, len(sample.input_ids))
        head = f"{sample.record_id}: {len(sample.input_ids)} tokens, {share:.0%} carry loss"
        card = supervision_card(sample, tokenizer.decode, image=image)
        rows.append(Markup("<h4>{}</h4>{}").format(head, card))
    return Markup("").join(rows)


def dialog_card(
    root: Path, name: str, *, title: str, dialogs: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """Return dialogs about the image `name` below `root` side by side, a column each.

    `dialogs` maps a column's heading to its rounds, (question, answer).
    """
    tidied = {
        heading: [(tidy(question), tidy(answer)) for question, answer in rounds]
        for heading, rounds in dialogs.items()
    }
    return render("dialogs.html", title=title, dialogs=tidied, **_picture(root, name))


def _picture(root: Path, name: str) -> dict[str, str]:
    """Return what a template shows of an image: its data, or why there is none."""
    try:
        return {"data": thumbnail(inside(root, name)), "failure": ""}
    except DataError as error:
        return {"data": "", "failure": str(error)}


def thumbnail(path: Path) -> str:
    """Return an image as a `data:` address, at most 320 px a side, proportions unchanged.

    Raises `DataError` when it is missing, no image, or too large to be decoded safely.
    """
    small = open_image(path)
    small.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    return image_address(small, "jpeg", quality=88)
