"""What is in the sources and in a LLaVA-format mixture: the tables of notebooks 00 and 01."""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from cocoift.core.text import has_format_prompt
from cocoift.evaluation.lengths import SHORT_WORDS, answer_words
from cocoift.sources import Entry, Reading
from cocoift.sources.dialogs import ASKERS, LlavaRecord, left_out, llava_records, rounds

# What the reasons in drop tables mean, in words.
REASONS = {
    "kept": "kept",
    "no_coco_id": "no COCO image",
    "repeated_id": "repeated id",
    "question_without_annotation": "no annotation",
    "annotation_without_question": "no question",
    "explanation_without_question": "no question to explain",
    "hidden_answer": "answer not published",
    "other_split": "other split",
    "region_without_box": "region without box",
    "odd_conversation": "rounds do not alternate",
    "several_images": "about several images",
    "not_in_train2017": "not in train2017",
    "evaluation_image": "evaluation image",
    "licence": "licence not asked for",
    "curated": "removed in curation",
    "empty_question": "empty question",
    "empty_answer": "empty answer",
    "stray_image_marker": "stray image marker",
    "duplicate": "same question and answer",
    "conflict": "contradicting answer",
    "alternative": "other wording of an answer",
    "longer_than_context": "longer than the context",
}
PLACEMENTS = ("every turn", "first turn only", "no prompt", "some turns")
# Which collection a record of LLaVA-mix-665k comes from, by the folder of its image.
_FOLDERS = {"gqa": "GQA", "ocr_vqa": "OCR-VQA", "textvqa": "TextCaps", "vg": "Visual Genome"}


def drop_summary(drops: Mapping[str, int]) -> str:
    """Return drop counts in words, the largest first: `no COCO image 31, repeated id 2`."""
    ordered = sorted(drops.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{REASONS.get(reason, reason)} {turns:,}" for reason, turns in ordered)


def source_table(readings: Mapping[str, Reading], catalogue: Mapping[str, Entry]) -> pd.DataFrame:
    """Return one row per source read: images, dialogs, turns, published counts, median words."""
    rows = []
    for name, reading in readings.items():
        published = catalogue[name].published
        unit = published.unit if published else ""
        rows.append(
            {
                "source": name,
                "images": pc.count_distinct(reading.turns["image_id"]).as_py(),
                "dialogs": pc.count_distinct(reading.turns["dialog_id"]).as_py(),
                "turns": reading.turns.num_rows,
                "unreadable_turns": sum(reading.drops.values()),
                "published_turns": published.count if published and unit == "turns" else None,
                "published_dialogs": published.count if published and unit == "dialogs" else None,
                "median_answer_words": answer_words(reading.turns).words.median(),
            }
        )
    table = pd.DataFrame(rows)
    whole = ["published_turns", "published_dialogs"]
    return table.astype(dict.fromkeys(whole, "Int64"))


def published_sentence(table: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Say which sources hold less than 95 % or more than 105 % of their published count.

    `table` is `source_table`.  Turns that could not enter the turn table count as read.
    """
    read = (table.turns + table.unreadable_turns).where(table.published_turns.notna(),
                                                        table.dialogs)  # fmt: skip
    shares = read / table.published_turns.fillna(table.published_dialogs).astype(float)
    stated = shares.set_axis(table.source).dropna()
    if stated.empty:
        return "Upstream states no count for any of these sources."
    off = stated[(stated < 0.95) | (stated > 1.05)].sort_values()
    whole = f"{len(stated) - len(off)} of {len(stated)} sources hold the count that upstream states"
    named = ", ".join(f"{titles[name]} {share:.0%}" for name, share in off.items())
    return f"{whole}." if off.empty else f"{whole}; of that count, the others hold: {named}."


def overlap(readings: Mapping[str, Reading]) -> pd.DataFrame:
    """Return, for every pair of sources with turns, the number of images both annotate."""
    images = {name: set(r.turns["image_id"].unique().to_pylist()) for name, r in readings.items()
              if r.turns.num_rows}  # fmt: skip
    names = sorted(images, key=lambda name: -len(images[name]))
    counts = [[len(images[row] & images[column]) for column in names] for row in names]
    return pd.DataFrame(counts, index=names, columns=names)


def overlap_sentence(shared: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """Say which share of a source's images another one annotates, from `overlap`'s table."""
    images = pd.Series(np.diag(shared), index=shared.index)
    others = (shared.sum(axis=1) - images) / (images * (len(images) - 1))
    found = others[images > 0].dropna()
    if found.empty:
        return "There are no two sources to compare."
    return (
        f"Of a source's images, another source annotates {found.mean():.0%} on average: between "
        f"{found.min():.0%} ({titles[found.idxmin()]}) and {found.max():.0%} "
        f"({titles[found.idxmax()]})."
    )


def mix_group(record: LlavaRecord) -> str:
    """Return which set a record of LLaVA-mix-665k comes from.

    The file does not say, so image folder and prompt tell: VQAv2 and OK-VQA share both and stay
    together.  Names follow the table of the LLaVA-1.5 paper (arXiv 2310.03744).
    """
    if not record.images:
        return "ShareGPT"
    folder = record.images[0].split("/", 1)[0]
    if folder in _FOLDERS:
        return _FOLDERS[folder]
    asked = " ".join(m.value for m in record.conversations if m.speaker in ASKERS)
    if "option's letter" in asked:
        return "A-OKVQA"
    if "bounding box" in asked or "this region" in asked:
        return "RefCOCO"
    return "VQAv2 and OK-VQA" if "single word or phrase" in asked else "LLaVA-Instruct"


def image_folder(record: LlavaRecord) -> str:
    """Return the first folder of a record's image, which a file of any make has."""
    if not record.images:
        return "without an image"
    folder, below, _ = record.images[0].partition("/")
    return folder if below else "no folder"


def prompt_placement(instructions: Iterable[str]) -> str:
    """Return where format prompts stand in one conversation, one of `PLACEMENTS`.

    A conversation of one round counts as `every turn` when it has a prompt.
    """
    stated = [has_format_prompt(instruction) for instruction in instructions]
    every, first, none, some = PLACEMENTS
    if not any(stated):
        return none
    if all(stated):
        return every
    return first if stated[0] and sum(stated) == 1 else some


def mixture_turns(path: Path) -> tuple[pd.DataFrame, str]:
    """Return one row per round of a LLaVA-format mixture, and which conversations are left out.

    Columns: `group` (the set that LLaVA-mix-665k took it from; of another file, the folder of its
    image), `record` (number of the conversation), `round`, `rounds` (of its conversation),
    `placement` of format prompts, and `words` of the answer.  Raises `DataError` for a file that is
    damaged or of whose conversations none can be read.
    """
    groups, placements, words = [], [], []
    odd, first = 0, None
    part = mix_group if "mix665k" in path.name else image_folder
    for record in llava_records(path):
        pairs = rounds(record.conversations)
        if pairs is None:
            odd, first = odd + 1, first or record
            continue
        groups.append(part(record))
        placements.append(prompt_placement(qa.question or "" for qa in pairs))
        words.append([len((qa.answer or "").split()) for qa in pairs])
    sizes = np.array([len(answers) for answers in words], np.int32)
    numbers = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    starts = np.cumsum(sizes) - sizes
    table = pd.DataFrame(
        {
            "group": pd.Categorical(groups)[numbers],
            "record": numbers,
            "round": np.arange(len(numbers), dtype=np.int32) - starts[numbers],
            "rounds": sizes[numbers],
            "placement": pd.Categorical(placements)[numbers],
            "words": np.fromiter(chain.from_iterable(words), np.int32, len(numbers)),
        }
    )
    return table, left_out(path, first, odd=odd, total=len(sizes) + odd)


def placement_table(turns: pd.DataFrame) -> pd.DataFrame:
    """Return the share of multi-round conversations per `PLACEMENTS` (columns) by group (rows)."""
    several = turns[(turns["round"] == 0) & (turns.rounds > 1)]
    shares = pd.crosstab(several.group, several.placement, normalize="index")
    return shares.reindex(columns=list(PLACEMENTS), fill_value=0.0)


def placement_sentence(turns: pd.DataFrame, name: str) -> str:
    """Say in how many multi-round conversations of a file only the first turn states a format.

    And in how many of those every answer has three words or fewer.
    """
    several = turns[turns.rounds > 1].groupby("record")
    records = several.agg(placement=("placement", "first"), longest=("words", "max"))
    if records.empty:
        return (
            f"Every conversation of {name} has one round: it cannot teach what follows a short "
            "answer."
        )
    first_only = records[records.placement == "first turn only"]
    found = (
        f"In {name}, {len(first_only) / len(records):.0%} of the multi-round conversations state "
        "the format in the **first turn only**"
    )
    if first_only.empty:
        return f"{found}: it does not teach the bias in that way."
    return (
        f"{found}, and in {(first_only.longest <= SHORT_WORDS).mean():.0%} of those every answer "
        "is short: such a conversation cannot teach that a later question may call for more."
    )


def mixture_table(turns: pd.DataFrame) -> pd.DataFrame:
    """Return per group: records, rounds per record, median answer words in first and later rounds.

    `all_answers_short` is the share of multi-round records whose answers all have three words or
    fewer: the homogeneity that teaches a model to stay short.
    """
    groups = turns.groupby("group")
    several = turns[turns.rounds > 1]
    longest = several.groupby(["group", "record"]).words.max()
    return pd.DataFrame(
        {
            "records": groups.record.nunique(),
            "rounds_per_record": groups.size() / groups.record.nunique(),
            "first_round_median_words": turns[turns["round"] == 0].groupby("group").words.median(),
            "later_rounds_median_words": turns[turns["round"] > 0].groupby("group").words.median(),
            "all_answers_short": (longest <= SHORT_WORDS).groupby("group").mean(),
        }
    ).reset_index()
