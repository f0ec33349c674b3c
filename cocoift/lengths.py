"""Answers and how long they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cocoift.prompts import PROMPT_PATTERN

# An answer of so many words or fewer is short; to a free question it counts as collapsed.
SHORT_WORDS = 3


def count_words(answers: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return the number of white-space separated words of each answer; 0 for null or blank."""
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(answers)))
    blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(answers)), 0)
    return pc.fill_null(pc.if_else(blank, 0, words), 0)


def answer_words(turns: pa.Table) -> pd.DataFrame:
    """Return one row per turn with `source`, `form`, `round` and `words` of its answer."""
    table = turns.select(["source", "form", "round"])
    return table.append_column("words", count_words(turns["answer"])).to_pandas()


def length_table(words: pd.DataFrame, *, by: str) -> pd.DataFrame:
    """Return turns, median words and the shares of one-word and of up-to-three-word answers.

    `words` has a column `words` and the column `by`.
    """
    groups = words.groupby(by).words
    return pd.DataFrame(
        {
            "turns": groups.size(),
            "median_words": groups.median(),
            "one_word": groups.agg(lambda column: (column == 1).mean()),
            "up_to_three_words": groups.agg(lambda column: (column <= SHORT_WORDS).mean()),
        }
    ).reset_index()


def record_rounds(path: Path) -> pd.DataFrame:
    """Return one row per round of a mixture in Parquet (`<mixture>.parquet`).

    Columns: `record` (row in the file), `round` (0-based), `rounds` (of the record), `source`,
    `has_prompt` (the instruction states a form), `words` of the answer, `previous_words` of the
    answer before (0 in the first round).
    """
    table = pq.read_table(path, columns=["conversations", "sources"])
    values = pc.struct_field(pc.list_flatten(table["conversations"]), "value").combine_chunks()
    instructions, answers = values[::2], values[1::2]
    sizes = pc.list_value_length(table["sources"]).to_numpy()
    starts = np.cumsum(sizes) - sizes
    record = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(record)) - starts[record]
    words = np.asarray(count_words(answers))
    previous = np.where(position == 0, 0, np.roll(words, 1)) if len(words) else words
    return pd.DataFrame(
        {
            "record": record,
            "round": position,
            "rounds": sizes[record],
            "source": pc.list_flatten(table["sources"]).to_pandas(),
            "has_prompt": pc.match_substring_regex(
                instructions, PROMPT_PATTERN, ignore_case=True
            ).to_pandas(),
            "words": words,
            "previous_words": previous,
        }
    )
