"""Tables: saved whole as CSV, and shown so that text reads left and numbers line up."""

import gzip
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.io.formats.style import Styler

from cocoift.core.files import DataError, write_bytes
from cocoift.core.schema import Settings

if TYPE_CHECKING:
    from IPython.display import Markdown

# How tables and figures call the models, in their order.
LABELS = {
    "base": "base model",
    "mix": "LLaVA-style mixture",
    "merged": "merged mixture",
    "instructed": "instructed mixture",
}
# How they call protocols and metrics.
PROTOCOLS = {
    "single_round": "single-round",
    "multi_round": "after one short-answer round",
    "reference_history": "after a short-answer round, right reply given",
    "wrong_reply": "after a short-answer round, wrong reply given",
    "concat": "opening and question in one turn",
    "history_dropped": "history dropped",
    "after_long": "after one long round",
    "five_rounds": "in the fifth round",
    "figure_1": "after the paper's dialog",
    "other_picture": "single-round, another image",
    "blank_picture": "single-round, blank image",
}
METRICS = {
    "total": "score",
    "overall": "score",
    "open": "score on open questions",
    "collapse": "collapse",
    "closed_collapse": "short answers to closed questions",
    "obedience": "short-answer compliance",
    "truth_first": "truth ranked first",
    "known_unsaid": "truth ranked first where the answer collapsed",
}
_SHORT = {name: label.removesuffix(" mixture") for name, label in LABELS.items()}
# Columns whose cells are keys, and what is shown for them.
_CELLS = {
    "model": LABELS,
    "mixture": LABELS,
    "protocol": PROTOCOLS,
    "metric": METRICS,
    "passed": {True: "yes", False: "no"},
}
# What a table shows for a column: its title (empty: the column's name) and how numbers are written.
COLUMNS = {
    "gate": ("check", ""),
    "bound": ("must be", ""),
    "value": ("", "{:.1f}"),
    "difference": ("difference (points)", "{:+.1f}"),
    "by hand": ("", "{:+.1f}"),
    "p": ("", "{:.2g}"),
    "holm": ("p, corrected (Holm)", "{:.2g}"),
    "accuracy": ("", "{:.0%}"),
    "median_words": ("median words", "{:.0f}"),
    "median_answer_words": ("median words", "{:.0f}"),
    "one_word": ("one word", "{:.0%}"),
    "short": ("three words or fewer", "{:.0%}"),
    "short_share": ("answer is short", "{:.1%}"),
    "prompt_share": ("format stated in this turn", "{:.1%}"),
    "distinct_share": ("share distinct", "{:.1%}"),
    "most_frequent_share": ("share of the most frequent", "{:.1%}"),
    "share": ("", "{:.1%}"),
    "kept_share": ("share kept", "{:.0%}"),
    "because": ("dropped because", ""),
    "rounds_per_record": ("rounds each", "{:.1f}"),
    "first_round_median_words": ("median words, first round", "{:.0f}"),
    "later_rounds_median_words": ("median words, later rounds", "{:.0f}"),
    "all_answers_short": ("all answers short", "{:.0%}"),
    "their share": ("", "{:.0%}"),
    "short among them": ("", "{:.0%}"),
    "short among first rounds": ("", "{:.0%}"),
    "collapse_rate": ("collapsed (%)", "{:.0f}"),
    "distinct_1": ("distinct-1", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
    "mentions": ("mentions per answer", "{:.2f}"),
    "absent_share": ("absent (%)", "{:.1f}"),
    "answers_with_absent": ("answers with an absent one (%)", "{:.1f}"),
    "image_id": ("image", "{}"),
    "title": ("source", ""),
    "form": ("answer format", ""),
    "how_to_get": ("how to get it", ""),
    "seconds of training": ("", "{:,.0f}"),
    "cost": ("", "{:.2f}"),
    "judge": ("", "{:.1f}"),
    "hand": ("", "{:.1f}"),
    "spread": ("", "{:.1f}"),
    "tokens": ("", "{:,.0f}"),
    "megabytes": ("MB", "{:.2f}"),
    "MB": ("", "{:,.1f}"),
}


def in_words(name: str) -> str:
    """Return a contrast's or metric's name with the words that a reader is shown for its keys."""
    words = _SHORT | PROTOCOLS | METRICS
    text = name.replace(" - ", " minus ")
    return re.sub(r"(?<![\w-])[a-z_0-9]+(?![\w-])", lambda key: words.get(key[0], key[0]), text)


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all, and return the path; `.gz` packs it.

    A carriage return in a text becomes a line feed.
    """
    written = table.to_csv(index=False, lineterminator="\n")
    if "\r" in written:  # Python before 3.13 does not quote it, and readers end a row there
        plain = table.replace(r"\r\n?", "\n", regex=True)
        written = plain.to_csv(index=False, lineterminator="\n")
    text = written.encode()
    # Without a time and a file name in it the same table gives the same bytes.
    return write_bytes(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def read_saved(path: Path) -> pd.DataFrame:
    """Return a table that `save_table` wrote, seeds as texts; raises `DataError` where damaged."""
    try:
        return pd.read_csv(path, dtype={"seed": str})
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: {str(error).strip()}; delete it and run the study again"
        ) from error


def show_table(
    table: pd.DataFrame,
    *,
    formats: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    empty: str = "Nothing to list.",
) -> "Styler | Markdown":
    """Return a table for display: titles and cells in words, text escaped and left, numbers right.

    `COLUMNS` knows the titles and number formats of common columns; `names` and `formats` (both by
    the column's own name) go before it.  An interval's ends, `low` and `high`, are written like the
    column before them.  Other whole numbers get thousands separators, others two decimals.  A
    column without a value is left out, and a table without values is the sentence `empty`.
    """
    table = _cells_in_words(_filled(table))
    if table.empty:
        from IPython.display import Markdown

        return Markdown(f"*{empty}*")
    known = {name: COLUMNS.get(name, ("", "")) for name in table}
    titles = LABELS | PROTOCOLS | METRICS
    titles |= {name: in_words(name) for name in map(str, table) if "," in name}
    titles |= {str(name): title for name, (title, _) in known.items() if title}
    titles |= names or {}
    numbers = [name for name, column in table.items() if column.dtype.kind in "iuf"]
    chosen = {name: "{:,}" if table[name].dtype.kind in "iu" else "{:.2f}" for name in numbers}
    chosen |= {name: pattern for name, (_, pattern) in known.items() if pattern and name in numbers}
    chosen |= formats or {}
    for before, end in pairwise(numbers):
        if end in ("low", "high"):
            chosen[end] = chosen[before]
    shown = table.rename(columns=titles)
    left = [
        {"selector": f"{cell}.col{place}", "props": "text-align: left"}
        for place, name in enumerate(table)
        if name not in numbers
        for cell in ("th", "td")
    ]
    styler = shown.style.hide(axis="index").format(escape="html", na_rep="")
    styler = styler.format_index(escape="html", axis="columns")
    for name in (name for name in table if name in chosen):
        styler = styler.format(chosen[name], subset=[titles.get(name, name)], na_rep="")
    return styler.set_table_styles([*left, {"selector": "td, th", "props": "vertical-align: top"}])


def _cells_in_words(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with words for the keys of models, protocols, metrics and contrasts."""
    words = {
        name: table[name].map(lambda cell, of=named: of.get(cell, cell))
        for name, named in _CELLS.items()
        if name in table
    }
    if "contrast" in table:
        words["contrast"] = table.contrast.map(in_words)
    return table.assign(**words)


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that hold something to read: empty texts and missing numbers are none."""
    filled = [bool((column.notna() & (column != "")).any()) for _, column in table.items()]
    return table.loc[:, filled]


def settings_table(settings: Settings, names: Sequence[str], *, title: str) -> pd.DataFrame:
    """Return values of a preset in words, a row per name; names may be dotted: `tuning.rank`."""
    rows = []
    for name in names:
        value: Any = settings
        for part in name.split("."):
            value = getattr(value, part)
        rows.append((name, _in_words(value)))
    return pd.DataFrame(rows, columns=["this run", title])


def _in_words(value: Any) -> str:
    if isinstance(value, Settings):
        pairs = ((name, getattr(value, name)) for name in value.__struct_fields__)
        return ", ".join(f"{name} {_in_words(part)}" for name, part in pairs) or "reference"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_in_words(part)}" for name, part in value.items()) or "none"
    return "none" if value is None else str(value)
