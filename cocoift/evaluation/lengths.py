"""Answers and how long they are: counts, shares, and distances between distributions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cocoift.core.files import DataError
from cocoift.core.frames import trainings
from cocoift.core.resampling import image_draws, over_trainings, ratio
from cocoift.core.tables import RUN_MERGE, read_table
from cocoift.core.text import PROMPT_PATTERN
from cocoift.merge.formats import RECORD_SCHEMA
from cocoift.sources.dialogs import llava_records, rounds

# An answer of at most this many words is short; to a free question it counts as collapsed.
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
    """Return one row per round of a mixture (`<mixture>.parquet`) or another LLaVA-format dataset.

    Columns: `record` (number of the conversation), `round` (0-based), `rounds` (of the record),
    `source` (empty in another dataset), `has_prompt` (the instruction states an answer format),
    `words` of the answer, `previous_words` of the answer before (0 in the first round).
    Conversations that cannot be read are passed over.  Raises `DataError` for a file that is
    missing or damaged.
    """
    if path.suffix == ".parquet":
        table = read_table(path, RECORD_SCHEMA, columns=["conversations", "sources"])
        values = pc.struct_field(pc.list_flatten(table["conversations"]), "value").combine_chunks()
        instructions, answers = values[::2], values[1::2]
        messages, sizes = (
            pc.list_value_length(table[name]).fill_null(0).to_numpy() for name in table.column_names
        )
        if values.null_count or (messages != 2 * sizes).any():
            raise DataError(f"{path}: a record's rounds and sources do not match; {RUN_MERGE}")
        sources = pc.list_flatten(table["sources"]).to_pandas()
    else:
        dialogs = [
            pairs for record in llava_records(path) if (pairs := rounds(record.conversations))
        ]
        sizes = np.array([len(pairs) for pairs in dialogs], np.int64)
        instructions, answers = (
            pa.array([pair[place] or "" for pairs in dialogs for pair in pairs], pa.string())
            for place in (0, 1)
        )
        sources = pd.Series("", index=range(len(answers)))
    starts = np.cumsum(sizes) - sizes
    record = np.repeat(np.arange(len(sizes)), sizes)
    position = np.arange(len(record)) - starts[record]
    words = np.asarray(count_words(answers))
    previous = np.where(position == 0, 0, np.roll(words, 1)) if len(words) else words
    prompts = pc.match_substring_regex(instructions, PROMPT_PATTERN, ignore_case=True)
    return pd.DataFrame(
        {
            "record": record,
            "round": position,
            "rounds": sizes[record],
            "source": sources,
            "has_prompt": prompts.to_pandas(),
            "words": words,
            "previous_words": previous,
        }
    )


def collapse_intervals(
    answers: pd.DataFrame, by: list[str], *, resamples: int = 2_000
) -> pd.DataFrame:
    """Return how long answers are per group, with the interval of the collapse rate.

    Columns: those of `by`, n, median_words, collapse_rate, low, high (percent of the answers to
    questions that state no format; missing where there are none), one_word (share), distinct_1,
    distinct_2.  `answers` is a table of `cocoift.evaluation.answers`, with `frames.trainings` as
    `training`: the rate is a mean over trainings, its interval over trainings and images.
    """
    rows = []
    for key, group in answers.groupby(by, sort=False):
        free = group[group.free]
        short, every = 100.0 * (free.words <= SHORT_WORDS), free.words.notna()
        rate, *ends = ratio(free.image, short, every, resamples=resamples, trainings=free.training)
        spread = [distinct_n(group.answer, n) for n in (1, 2)]
        rows.append((*key, len(group), group.words.median(), rate, *np.clip(ends, 0, 100),
                     (group.words == 1).mean(), *spread))  # fmt: skip
    columns = [*by, "n", "median_words", "collapse_rate", "low", "high", "one_word"]
    return pd.DataFrame(rows, columns=[*columns, "distinct_1", "distinct_2"])


def distinct_n(answers: Iterable[str], n: int) -> float:
    """Return the share of distinct n-grams of words among all n-grams of the answers.

    Source: Li et al. 2016 (arXiv 1510.03055); case does not count.  Falls with the number of
    answers, so compare it between equally many only.  Not a number without any n-gram.
    """
    grams: list[tuple[str, ...]] = []
    for answer in answers:
        words = answer.lower().split()
        grams += zip(*(words[start:] for start in range(n)), strict=False)
    return len(set(grams)) / len(grams) if grams else float("nan")


def wasserstein(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Wasserstein-1 distance in words between histograms over 0, 1, 2, ... words.

    Histograms have the shape (..., words) and need not be normalised; the distance is the area
    between their cumulative shares.
    """
    gap = np.cumsum(_shares(first), -1) - np.cumsum(_shares(second), -1)
    return np.abs(gap).sum(-1)


def jensen_shannon(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence in bits (0: alike, 1: no length in common).

    Histograms as for `wasserstein`.
    """
    p, q = _shares(first), _shares(second)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(x > 0, x * np.log2(x / middle), 0.0).sum(-1) for x in (p, q)]
    return (terms[0] + terms[1]) / 2


def _shares(histogram: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return histogram / histogram.sum(-1, keepdims=True)


def distance_table(
    answers: pd.DataFrame, *, before: str, after: str, resamples: int = 2_000
) -> pd.DataFrame:
    """Return how far answer lengths under two protocols are apart, per model, over all seeds.

    Columns: model, distance (`wasserstein` in words, `jensen_shannon` in bits), value, low, high.
    Only answers to questions without a stated format count.  The value is the mean over trainings,
    the interval over trainings and images, the same for both protocols.  Distances are never
    negative, so an interval above 0 alone says nothing.
    """
    rows = []
    free = answers.assign(training=trainings(answers))[answers.free]
    for model, group in free.groupby("model", sort=False):
        parts = [group[group.protocol == name] for name in (before, after)]
        if not all(map(len, parts)):
            continue
        names, draws = image_draws(group.image, resamples=resamples)
        shape = (group.training.unique(), names, int(group.words.max()) + 1)
        counts = [_histograms(part, *shape) for part in parts]
        for name, distance in (("wasserstein", wasserstein), ("jensen_shannon", jensen_shannon)):
            values = distance(*(count.sum(1) for count in counts))
            drawn = np.stack([distance(*(draws @ count for count in pair))
                              for pair in zip(*counts, strict=True)], 1)  # fmt: skip
            mean = over_trainings(values[:, None], drawn[:, :, None])
            rows.append((model, name, mean.value, max(mean.low, 0.0), mean.high))
    return pd.DataFrame(rows, columns=["model", "distance", "value", "low", "high"])


def _histograms(
    answers: pd.DataFrame, trained: Sequence[str], images: Sequence[str], size: int
) -> np.ndarray:
    """Return how many answers have how many words: shape (trainings, images, size)."""
    counts = np.zeros((len(trained), len(images), size))
    places = (
        pd.Index(trained).get_indexer(answers.training),
        pd.Index(images).get_indexer(answers.image),
        answers.words.to_numpy(int),
    )
    np.add.at(counts, places, 1)
    return counts
