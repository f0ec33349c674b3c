"""Does the untuned model know the language of every question that will be asked?"""

import random
from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.benchmarks import Question
from cocoift.evaluation.gates import COLUMNS, gate
from cocoift.evaluation.judges import reference_verdict
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from minicoco.benchmark import CONVERSATIONS, UNTUNED, mm_vet
from minicoco.claims import claims
from minicoco.draw import draw
from minicoco.scenes import sample_scenes

# A base answers open questions in full, and questions that nothing is tuned on nearly as well as
# those that the conversational sources ask; it does not yet follow format prompts.
FULL, NEAR, OBEYS = 0.9, 0.8, 0.5


def base_gates(
    answer: Answerer, closed: Sequence[Prompt], *, seed: int, pixels: int, count: int = 60
) -> pd.DataFrame:
    """Return the gates of an untuned model: gate, value, bound, n, passed.

    It is asked the benchmark's questions about `count` scenes that are drawn for this alone, and
    the `closed` questions, which ask for a short answer.
    """
    scenes = sample_scenes(count, seed=7_000_003 + seed, pixels=pixels)
    rng = random.Random(f"language/{seed}")
    rows = [(scene, row) for scene in scenes for row in mm_vet("", scene, rng)]
    asked = [
        Prompt(
            str(number), (draw(scene),), [Message("human", f"{IMAGE_MARKER}\n{row['question']}")]
        )
        for number, (scene, row) in enumerate(rows)
    ]
    full: dict[str, list[bool]] = defaultdict(list)
    scores: dict[str, list[float]] = defaultdict(list)
    for number, reply in answer(asked):
        scene, row = rows[number]
        if isinstance(reply, Failure):
            continue
        full[row["wording"]].append(len(reply.split()) > SHORT_WORDS)
        question = Question(id="", images=("",), text="", answer=row["answer"])
        found = reference_verdict(question, reply, claims=claims(scene, reply)).score
        if found is not None:
            scores[row["wording"]].append(found)
    known, unknown = scores[CONVERSATIONS], scores[UNTUNED]
    mean = sum(known) / len(known)
    short = [len(reply.split()) <= SHORT_WORDS
             for _, reply in answer(closed) if not isinstance(reply, Failure)]  # fmt: skip
    return pd.DataFrame(
        [
            gate("full answers to conversations' wordings", full[CONVERSATIONS], FULL),
            gate("full answers to wordings never tuned on", full[UNTUNED], FULL),
            gate("score on wordings never tuned on, relative to conversations'",
                 [one / mean for one in unknown] if mean else [], NEAR),
            gate("does not obey yet", short, OBEYS, at_most=True),
        ],
        columns=COLUMNS,
    )  # fmt: skip
