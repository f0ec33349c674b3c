"""Tables: saved whole as CSV, and shown so that text reads left and numbers line up."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pandas.io.formats.style import Styler

from cocoift.core.files import write_bytes
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


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, whole or not at all, and return the path; `.gz` packs it."""
    text = table.to_csv(index=False, lineterminator="\n").encode()
    # Without a time and a file name in it the same table gives the same bytes.
    return write_bytes(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def show_table(
    table: pd.DataFrame,
    *,
    formats: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    empty: str = "Nothing to list.",
) -> "Styler | Markdown":
    """Return a table for display: columns renamed, text escaped and left, numbers right.

    `formats` maps column names (before `names` renames them) to format strings; whole numbers
    get thousands separators without one.  A column without a value is left out, and a table
    without rows is the sentence `empty`.
    """
    if table.empty:
        from IPython.display import Markdown

        return Markdown(f"*{empty}*")
    names, table = names or {}, _filled(table)
    chosen = {name: "{:,}" for name in table if pd.api.types.is_integer_dtype(table[name])} | {
        name: pattern for name, pattern in (formats or {}).items() if name in table
    }
    shown = table.rename(columns=names)
    text = [names.get(name, name) for name in table if not is_numeric_dtype(table[name])]
    left = [
        {"selector": f"{cell}.col{shown.columns.get_loc(name)}", "props": "text-align: left"}
        for name in text
        for cell in ("th", "td")
    ]
    styler = shown.style.hide(axis="index").format(escape="html", na_rep="")
    for name, pattern in chosen.items():
        styler = styler.format(pattern, subset=[names.get(name, name)], na_rep="")
    return styler.set_table_styles([*left, {"selector": "td, th", "props": "vertical-align: top"}])


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
        return ", ".join(f"{name} {_in_words(one)}" for name, one in pairs) or "reference"
    if isinstance(value, list):
        return ", ".join(map(_in_words, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_in_words(one)}" for name, one in value.items()) or "none"
    return "none" if value is None else str(value)
