"""Data frames put together."""

from collections.abc import Iterable, Sequence

import pandas as pd
from pandas.util import hash_pandas_object

SHARED = "shared"


def stacked(tables: Iterable[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """Return these columns of tables with the same columns, one below the other.

    Without any table, or where none has rows, an empty one: it has the columns too.
    """
    filled = [table for table in tables if len(table)]
    if not filled:
        return pd.DataFrame(columns=list(columns))
    return pd.concat(filled, ignore_index=True)[list(columns)]


def trainings(answers: pd.DataFrame) -> pd.Series:
    """Return which training of its model each answer is of: its seed, as text.

    A model that answers every question alike on every seed is one that seeds share, such as an
    untuned base: it counts once, as `SHARED`.  Without a column `seed`, all are of one.
    """
    if "seed" not in answers:
        return pd.Series(SHARED, index=answers.index)
    names = ["protocol", "question_id", "answer", "words", "score", "margin", "opening"]
    hashes = hash_pandas_object(answers[[name for name in names if name in answers]], index=False)
    by_seed = hashes.groupby([answers.model, answers.seed]).sum()  # whatever the rows' order
    counts = by_seed.groupby(level=0).agg(["size", "nunique"])
    shared = counts.index[(counts["size"] > 1) & (counts["nunique"] == 1)]
    return answers.seed.astype(str).mask(answers.model.isin(shared), SHARED)
