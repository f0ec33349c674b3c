"""A record as HTML: its picture beside its rounds, every text escaped."""

import base64
import html
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cocoift.core.files import DataError, inside
from cocoift.core.images import open_image
from cocoift.core.schema import IMAGE_MARKER, Record
from cocoift.core.text import tidy
from cocoift.tuning.chat import Sample

_LARGEST_SIDE = 320


def record_card(
    record: Record, *, image_root: Path, names: Mapping[str, str], rounds: int = 12
) -> str:
    """Return a record as a self-contained HTML card: the picture and the first `rounds` rounds.

    Annotations are untrusted: their text is escaped, direction marks are isolated per cell, and
    a picture that is missing or leaves `image_root` is told in words.  `names` are the titles of
    the sources.
    """
    messages = record.conversations
    pairs = list(zip(messages[::2], messages[1::2], record.sources, strict=True))
    rows = "".join(
        f"<tr>{_cell(names.get(source, source), 'white-space:nowrap;color:#555')}"
        f"{_cell(tidy(ask.value.replace(IMAGE_MARKER, '')))}{_cell(reply.value)}</tr>"
        for ask, reply, source in pairs[:rounds]
    )
    more = len(pairs) - rounds
    note = f"<p>and {more} more rounds</p>" if more > 0 else ""
    head = "".join(
        f'<th scope="col" style="text-align:left">{name}</th>'
        for name in ("source", "instruction", "answer")
    )
    title = (
        f"record {html.escape(record.id)}: {len(pairs)} rounds, {len(set(record.sources))} sources"
    )
    return (
        '<section style="display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;'
        'margin:1rem 0;border-top:1px solid #ccc;padding-top:.6rem">'
        f"{_picture(record, image_root)}"
        f'<div style="flex:1 1 24rem;min-width:0"><strong>{title}</strong>'
        f'<table style="table-layout:auto;font-size:.9em"><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}</div></section>"
    )


def supervision_card(sample: Sample, decode: Callable[[Sequence[int]], str], *, image: str) -> str:
    """Return a sample as HTML: its whole text, the supervised tokens marked and underlined.

    `decode` turns ids into text; the run of image tokens, each decoded as `image`, is shortened.
    """
    parts, place = [], 0
    for start, end in sample.spans:
        parts.append(html.escape(_shortened(decode(sample.input_ids[place:start]), image)))
        told = html.escape(decode(sample.input_ids[start:end]))
        parts.append(f'<mark style="background:#cfe3ff;text-decoration:underline">{told}</mark>')
        place = end
    return (
        '<div dir="auto" style="white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid #ccc;'
        f'padding:.6rem;font-family:monospace;font-size:.9em">{"".join(parts)}</div>'
    )


def dialog_card(
    picture: Path, *, title: str, dialogs: Mapping[str, Sequence[tuple[str, str]]]
) -> str:
    """Return dialogs about one picture side by side: a column each, with its rounds in order.

    `dialogs` maps a column's heading to its rounds, (question, answer).  All text is escaped.
    """
    columns = "".join(
        '<div style="flex:1 1 14rem;min-width:0">'
        f"<strong>{html.escape(heading)}</strong>{''.join(map(_round, rounds))}</div>"
        for heading, rounds in dialogs.items()
    )
    return (
        '<section style="display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;'
        'margin:1rem 0;border-top:1px solid #ccc;padding-top:.6rem">'
        f'{_image(picture, alt=title)}<div style="flex:1 1 24rem;min-width:0">'
        f"<strong>{html.escape(title)}</strong>"
        f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{columns}</div></div></section>'
    )


def _round(pair: tuple[str, str]) -> str:
    question, answer = (html.escape(tidy(text)) for text in pair)
    style = "margin:.4rem 0;unicode-bidi:isolate;overflow-wrap:anywhere"
    return (
        f'<p dir="auto" style="{style};color:#555">{question}</p>'
        f'<p dir="auto" style="{style};padding-left:1rem">{answer or "(no words)"}</p>'
    )


def _shortened(text: str, image: str) -> str:
    count = text.count(image)
    run = image * count
    return text.replace(run, f"{image} × {count}") if count > 1 else text


def _cell(text: str, style: str = "") -> str:
    return (
        f'<td dir="auto" style="text-align:left;unicode-bidi:isolate;overflow-wrap:anywhere;'
        f'{style}">{html.escape(text)}</td>'
    )


def _picture(record: Record, image_root: Path) -> str:
    try:
        path = inside(image_root, record.image)
    except DataError as error:
        return f'<p style="width:12rem;color:#666">{html.escape(str(error))}</p>'
    return _image(path, alt=f"picture {record.image}")


def _image(path: Path, *, alt: str) -> str:
    """Return a picture as an element, or, where it cannot be shown, the reason in words."""
    try:
        data = thumbnail(path)
    except DataError as error:
        return f'<p style="width:12rem;color:#666">{html.escape(str(error))}</p>'
    return f'<img alt="{html.escape(alt)}" src="{data}" style="width:12rem;image-rendering:auto">'


def thumbnail(path: Path) -> str:
    """Return a picture as a `data:` address, at most 320 px a side, proportions kept.

    Raises `DataError` when it is missing, no picture, or too large to be decoded safely.
    """
    small = open_image(path)
    small.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
