"""How long replies are, round by round, in the paper's own dialog."""

from collections.abc import Sequence

import pandas as pd

from cocoift.evaluation.evaluate import Run
from cocoift.evaluation.lengths import SHORT_WORDS


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
