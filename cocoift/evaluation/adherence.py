"""Instruction adherence: short answers where the question asks for them, full ones elsewhere.

Questions are rounds of images that no model trained on, put alone, after a short round and after a
long one.  No judge is needed: words are counted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cocoift.core.files import digest
from cocoift.core.spread import spread
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.protocols import AFTER, AFTER_LONG, ALONE, Protocol
from cocoift.evaluation.sanity import HeldOutRound
from cocoift.evaluation.score import COLLAPSE, Metric

NAME, ADHERENCE = "held_out", "obedience"
CLOSED, OPEN = "asks for a short answer", "asks for no form"


def held_out_benchmark(
    rounds: Sequence[HeldOutRound], *, image_root: Path, count: int = 150
) -> Benchmark:
    """Return up to `count` closed and `count` open questions as a benchmark, spread over images.

    Closed questions ask for a short answer in a format prompt; open ones ask for no form and have
    a longer reference answer.
    """
    chosen = [(CLOSED, spread([held for held in rounds if held.is_closed], count))]
    chosen.append((OPEN, spread([held for held in rounds if held.is_open], count)))
    questions = [
        Question(
            id=f"{kind}/{number}",
            images=(held.image,),
            text=held.instruction,
            answer=held.answer,
            wording=kind,
        )
        for kind, some in chosen
        for number, held in enumerate(some)
    ]
    listed = [(question.images, question.text) for question in questions]
    return Benchmark(NAME, NAME, questions, image_root, digest(listed))


def adherence_metrics(questions: Sequence[Question]) -> list[Metric]:
    """Return the share of closed questions answered briefly, and that of open ones."""
    closed, open_ = ({q.id: 1.0 for q in questions if q.wording == kind} for kind in (CLOSED, OPEN))
    return [Metric(ADHERENCE, closed, of="collapsed"), Metric(COLLAPSE, open_, of="collapsed")]


def adherence_protocols(protocols: Mapping[str, Protocol]) -> list[Protocol]:
    """Return those of a preset's protocols under which adherence is measured."""
    return [protocols[name] for name in (ALONE, AFTER, AFTER_LONG) if name in protocols]
