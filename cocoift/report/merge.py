"""What the merge did to the turns and to their order: the tables of notebook 02."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from cocoift.core.schema import KEPT_SCHEMA, TURN_SCHEMA, Record, Turn
from cocoift.core.spread import spread
from cocoift.core.tables import RUN_SETUP, read_table, reading
from cocoift.evaluation.lengths import SHORT_WORDS, record_rounds
from cocoift.merge.formats import RECORD_SCHEMA
from cocoift.merge.rules import Rules
from cocoift.sources.scope import Scope


def busiest_image(tables: Sequence[Path], scope: Scope) -> tuple[int, list[Turn]]:
    """Return the image that most sources annotate, of those that may train, and all its turns.

    Raises `DataError` for a table that is missing or damaged.
    """
    ids = [read_table(path, TURN_SCHEMA, columns=["image_id"], fix=RUN_SETUP)["image_id"].unique()
           for path in tables]  # fmt: skip
    images, counts = np.unique(np.concatenate(ids), return_counts=True)
    ranked = images[np.argsort(-counts, kind="stable")].tolist()
    best = next(image_id for image_id in ranked if scope.refusal(image_id) is None)
    ours = [("image_id", "=", best)]
    found = (read_table(path, TURN_SCHEMA, filters=ours, fix=RUN_SETUP) for path in tables)
    return best, [Turn(**row) for table in found for row in table.to_pylist()]


def prompted_table(path: Path, *, words: int) -> pd.DataFrame:
    """Return how many turns of conversations the mixture `instructed` prompts, by source.

    Columns: source, turns (of conversations), prompted (answered in at most `words` words), share.
    """
    turns = read_table(path, KEPT_SCHEMA, columns=["source", "answer", "form"]).to_pandas()
    free = turns[turns.form == "free"]
    short = free.answer.str.split().str.len() <= words
    table = short.groupby(free.source).agg(turns="size", prompted="sum").reset_index()
    table = table.assign(share=table.prompted / table.turns)
    return table.sort_values("share", ascending=False, ignore_index=True)


def kept_table(path: Path, *, rules: Rules) -> pd.DataFrame:
    """Return one row per merged record: image, number, rounds, sources, tokens with image."""
    columns = ["image_id", "record", "source", "tokens"]
    turns = read_table(path, KEPT_SCHEMA, columns=columns)
    table = turns.group_by(["image_id", "record"]).aggregate(
        [("source", "count"), ("source", "count_distinct"), ("tokens", "sum")]
    )
    frame = table.to_pandas().rename(
        columns={
            "source_count": "rounds",
            "source_count_distinct": "sources",
            "tokens_sum": "tokens",
        }
    )
    frame["tokens"] += rules.image_tokens + rules.record_tokens
    return frame.sort_values(["image_id", "record"], ignore_index=True)


def example_records(path: Path, *, count: int, image_root: Path) -> list[Record]:
    """Return `count` records spread evenly over the quarter with the most sources and rounds.

    Of the records whose image is below `image_root`, if any are.
    """
    table = read_table(path, RECORD_SCHEMA, columns=["sources", "image"])
    with reading(path):
        sources = msgspec.convert(table["sources"].to_pylist(), list[list[str]])
        images = msgspec.convert(table["image"].to_pylist(), list[str])
    held = [(-len(set(names)), -len(names)) for names in sources]
    here = [n for n, name in enumerate(images)
            if (image_root / name).is_file()] or range(len(held))  # fmt: skip
    ranked = sorted(held[n] for n in here)
    least = ranked[min(max(count, len(ranked) // 4), len(ranked)) - 1]
    rich = [n for n in here if held[n] <= least]
    table = read_table(path, RECORD_SCHEMA).take(spread(rich, count))
    with reading(path):
        return msgspec.convert(table.to_pylist(), list[Record])


def mixtures_rounds(folder: Path, names: Iterable[str]) -> pd.DataFrame:
    """Return the rounds of several mixtures in one table, with a column `mixture`."""
    frames = [record_rounds(folder / f"{name}.parquet").assign(mixture=name) for name in names]
    return pd.concat(frames, ignore_index=True)


def after_short_table(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return, per mixture and context, how many answers are short and how many state a format.

    Contexts: all answers; and those after a short answer in the same record, if there are any.
    """
    after = rounds[rounds.previous_words.between(1, SHORT_WORDS)]
    rows = []
    for mixture in rounds.mixture.unique():
        for context, frame in (("all answers", rounds), ("after a short answer", after)):
            found = frame[frame.mixture == mixture]
            if found.empty:
                continue
            short, prompt = (found.words <= SHORT_WORDS).mean(), found.has_prompt.mean()
            rows.append((mixture, context, len(found), short, prompt))
    columns = ["mixture", "context", "answers", "short_share", "prompt_share"]
    return pd.DataFrame(rows, columns=columns)


def sequence_sentence(after: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Say what follows a short answer in each mixture, by `after_short_table`."""
    then = after[after.context == "after a short answer"]
    if then.empty:
        return "No conversation goes on after a short answer, so nothing can be learnt from it."
    parts = "; ".join(
        f"{labels[row.mixture]} {row.short_share:.0%}, and {row.prompt_share:.0%} of these turns "
        "state a format"
        for row in then.itertuples()
    )
    without = [labels[name] for name in after.mixture.unique() if name not in set(then.mixture)]
    if without:
        parts += f"; in {', '.join(without)} no answer follows a short one"
    return (
        f"What a layout changes is the sequence: after a short answer, the next one is short in "
        f"{parts}. The smaller the first share and the larger the second, the less a model can "
        "learn that one short answer calls for another."
    )
