"""What notebook 05 says of longer openings: the paper's own dialog, and a wrong opening reply."""

from collections.abc import Mapping, Sequence

import pandas as pd

from cocoift.evaluation.effects import PAPERS_DIALOG, change, describe, misled, rows_of, sign
from cocoift.evaluation.evaluate import Run
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import FIGURE_1
from cocoift.evaluation.score import COLLAPSE


def rounds_table(runs: Sequence[Run], protocol: str) -> pd.DataFrame:
    """Return how long each model's replies are round by round under a protocol, all seeds together.

    Columns: model, round (from 1), question (the last round: that of the benchmark), median_words,
    short (share of replies of three words or fewer).  An opening round counts once per image.
    """
    rows: list[tuple[str, int, str, int]] = []
    for run in (one for one in runs if one.protocol == protocol):
        played = {}
        for dialog in (one for one in run.rollouts if not one.failure):
            last = len(dialog.rounds)
            for number, one in enumerate(dialog.rounds, 1):
                key = dialog.question_id if number == last else dialog.images[0]
                asked = "the benchmark's" if number == last else one.question
                played[number, key] = (run.model, number, asked, len(one.answer.split()))
        rows += played.values()
    table = pd.DataFrame(rows, columns=["model", "round", "question", "words"])
    groups = table.groupby(["model", "round", "question"], sort=False).words
    found = groups.agg(median_words="median", short=lambda words: (words <= SHORT_WORDS).mean())
    return found.reset_index()


def dialog_sentence(effects: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Say what the paper's own dialog does to collapse, and whether the mixtures differ in it.

    `effects` is `effect_table` of one benchmark.  Empty where the protocol was not played.
    """
    parts = []
    for name in labels:
        rows = rows_of(effects, change(name, FIGURE_1).name, COLLAPSE)
        if len(rows):
            parts.append(f"{labels[name]} {describe(rows)}")
    if not parts:
        return ""
    text = f"Collapse after the paper's own dialog, against single-round: {'; '.join(parts)}."
    rows = rows_of(effects, PAPERS_DIALOG.name, COLLAPSE)
    if rows.empty:
        return text
    verdict = {
        1: "A short round that comes second shortens the later answers of the LLaVA-style mixture "
        "more than the merged one's",
        -1: "A short round that comes second shortens the later answers of the merged mixture more "
        "than the LLaVA-style one's",
        0: "Where the short round comes second, there is no clear difference between the two "
        "mixtures",
    }[sign(rows)]
    return f"{text} {verdict} ({describe(rows)})."


def wrong_reply_sentence(effects: pd.DataFrame, metric: str, labels: Mapping[str, str]) -> str:
    """Say whether a wrong opening reply lowers later scores, against a right one.

    `effects` is `effect_table` of one benchmark, `metric` its headline.  Empty where the protocol
    was not played.
    """
    parts = []
    for name in labels:
        rows = rows_of(effects, misled(name).name, metric)
        if len(rows):
            verdict = {-1: "spreads", 0: "does not clearly spread", 1: "does not spread"}[
                sign(rows)
            ]
            parts.append(f"{labels[name]} {describe(rows)}, the error {verdict}")
    return f"Score with a wrong reply against a right one: {'; '.join(parts)}." if parts else ""
