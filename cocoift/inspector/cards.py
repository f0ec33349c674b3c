"""An image of the merged set as HTML: turns, drops, decisions and answers, every text escaped."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cocoift.core.text import visible
from cocoift.inspector.data import ImageView
from cocoift.merge.curation import Decision
from cocoift.merge.rules import TurnKey

_CELL = (
    "vertical-align:top;text-align:left;padding:.2rem .5rem;overflow-wrap:anywhere;"
    "unicode-bidi:isolate;border-bottom:1px solid #ddd"
)
# What an answer shows before it must be scrolled.
_LONG = "display:block;max-height:14rem;overflow:auto;white-space:pre-wrap"


def _cell(text: str) -> str:
    return f'<td dir="auto" style="{_CELL}">{text}</td>'


def _some(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _table(caption: str, heads: Mapping[str, int], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; `heads` maps a column's head to its share of the width, in percent."""
    first = "".join(
        f'<th scope="col" style="{_CELL};width:{share}%">{html.escape(name)}</th>'
        for name, share in heads.items()
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return (
        '<table style="border-collapse:collapse;width:100%;table-layout:fixed;font-size:13px;'
        'line-height:1.35">'
        f'<caption style="text-align:left;font-weight:bold">{html.escape(caption)}</caption>'
        f"<thead><tr>{first}</tr></thead><tbody>{body}</tbody></table>"
    )


def turn_table(
    view: ImageView, titles: Mapping[str, str], flags: Mapping[TurnKey, Decision]
) -> str:
    """Return the kept turns in the order of the merged record, with flags said in words."""
    rows = []
    for number, turn in enumerate(view.turns, start=1):
        flag = flags.get((turn["source"], turn["dialog_id"], turn["round"]))
        said = f"⚑ flagged: {visible(flag.reason)} {visible(flag.note)}" if flag else ""
        rows.append(
            (
                str(number),
                visible(titles.get(turn["source"], turn["source"])),
                f'<span style="{_LONG}">{visible(turn["instruction"])}</span>',
                f'<span style="{_LONG}">{visible(turn["answer"])}</span>',
                visible(turn["form"]),
                f"{turn['tokens']:,}",
                said,
            )
        )
    records = len({turn["record"] for turn in view.turns})
    title = f"{_some(len(rows), 'turn')} in {_some(records, 'record')}"
    heads = {"#": 5, "source": 16, "instruction": 28, "answer": 25, "form": 15, "tokens": 11}
    if any(row[-1] for row in rows):
        heads |= {"instruction": 22, "answer": 19, "decision": 12}
    else:
        rows = [row[:-1] for row in rows]
    return _table(title, heads, rows)


def dropped_table(view: ImageView, titles: Mapping[str, str], reasons: Mapping[str, str]) -> str:
    """Return the dropped turns folded away, with the reason for each in words."""
    rows = [
        (
            visible(reasons.get(turn["reason"], turn["reason"])),
            visible(titles.get(turn["source"], turn["source"])),
            f'<span style="{_LONG}">{visible(turn["instruction"])}</span>',
            f'<span style="{_LONG}">{visible(turn["answer"])}</span>',
        )
        for turn in view.dropped
    ]
    if not rows:
        return "<p>Nothing about this image was dropped.</p>"
    table = _table(
        "Dropped turns", {"reason": 16, "source": 16, "instruction": 38, "answer": 30}, rows
    )
    return f"<details><summary>{_some(len(rows), 'dropped turn')}</summary>{table}</details>"


def answer_table(answers: pd.DataFrame, *, one: str, other: str) -> str:
    """Return a picture's answers under two protocols side by side, with scores and reasons.

    `answers` are rows of `verdicts.csv.gz` about one picture.
    """
    own = answers[answers.protocol.isin([one, other])]
    rows = []
    for (question, model, seed), told in own.groupby(["question", "model", "seed"], sort=False):
        cells = []
        for protocol in (one, other):
            said = told[told.protocol == protocol].head(1).to_dict("records")
            cells.append(_answered(said[0]) if said else "")
        rows.append((visible(question), visible(f"{model}, seed {seed}"), *cells))
    if not rows:
        return "<p>No model was asked about this picture.</p>"
    return _table("Model answers", {"question": 22, "model": 14, one: 32, other: 32}, rows)


def _answered(row: Mapping[str, Any]) -> str:
    opening = (
        f'<span style="color:#555">opening reply: {visible(row["opening_reply"])}</span><br>'
        if row["opening_reply"]
        else ""
    )
    score = f"score {float(row['score']):.2f}" if row["score"] != "" else "no score"
    why = f" ({visible(row['reason'])})" if row["reason"] else ""
    return f'{opening}<span style="{_LONG}">{visible(row["answer"])}</span>{score}{why}'


def legend(view: ImageView, colours: Mapping[str, str]) -> str:
    """Return the categories of an image with how often each stands in it."""
    counts: dict[str, int] = {}
    for row in view.instances:
        counts[row["category"]] = counts.get(row["category"], 0) + 1
    items = "".join(
        f'<li style="display:inline-block;margin-right:1rem"><span aria-hidden="true" '
        f'style="color:{colours[name]}">■</span> {visible(name)} × {count}</li>'
        for name, count in sorted(counts.items())
    )
    return f'<ul style="padding:0;margin:.3rem 0;list-style:none">{items}</ul>' if items else ""


def image_card(*, title: str, overlay: str, parts: Sequence[str]) -> str:
    """Return the static card of an image: the same content as the widget, nothing to click."""
    return (
        '<section style="display:flex;flex-wrap:wrap;gap:1rem;align-items:flex-start;'
        f'border-top:1px solid #ccc;padding-top:.6rem"><h4 style="flex:1 0 100%;margin:0">'
        f'{visible(title)}</h4><div style="flex:1 1 20rem;max-width:32rem">{overlay}</div>'
        f'<div style="flex:2 1 30rem;min-width:0">{"".join(parts)}</div></section>'
    )


def raw_card(name: str, text: str) -> str:
    """Return an upstream record as text, under the name of its file."""
    return (
        f"<details open><summary>{visible(name)}</summary>"
        f'<pre style="{_LONG};overflow-wrap:anywhere">{visible(text)}</pre></details>'
    )
