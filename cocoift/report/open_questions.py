"""Answers from the tables that a run left: a query on a table, and how its rows are shown."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from cocoift.report.tables import read_saved
from cocoift.report.told import NOT_MEASURED, told

if TYPE_CHECKING:
    from IPython.display import Markdown
    from pandas.io.formats.style import Styler


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the tables that a run left, by name; seeds are texts."""
    return {path.stem: read_saved(path) for path in sorted(folder.glob("*.csv"))}


def answer(
    tables: Mapping[str, pd.DataFrame],
    name: str,
    query: str = "",
    *,
    show: "Callable[[pd.DataFrame], str | Styler | Markdown]" = told,
) -> "Styler | Markdown":
    """Return for display what `show` makes of a table's rows, or that the run did not measure it.

    `query` chooses rows, as in `DataFrame.query`; without one, all.
    """
    from IPython.display import Markdown

    rows = tables.get(name, pd.DataFrame())
    rows = rows.query(query) if query and len(rows) else rows
    shown = show(rows) if len(rows) else ""
    return Markdown(shown or NOT_MEASURED) if isinstance(shown, str) else shown
