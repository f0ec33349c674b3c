"""Data frames put together."""

from collections.abc import Iterable, Sequence

import pandas as pd


def stacked(tables: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return these columns of tables with the same columns, one below the other.

    Without any table, or where none has rows, an empty one: it has the columns too.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(filled, ignore_index=True)[list(columns)]
