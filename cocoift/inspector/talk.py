"""A talk with several models side by side: the same questions, to each its own history."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from PIL import Image

from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.protocols import Failure, Prompt
from cocoift.evaluation.rollout import Round, as_prompt


@dataclass(eq=False)
class Exchange:
    """One question of a talk, and by model what it answers, why it failed, and its margin.

    `finished` when every model was heard to the end.  `margins` are in nats, between the two
    answers `compared`: above 0 the first,
    shorter one is the likelier beginning.
    """

    question: str
    answers: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    compared: tuple[str, str] | None = None
    margins: dict[str, float] = field(default_factory=dict)


class Talk:
    """One dialog about one picture with several models, which do not hear one another."""

    def __init__(self, candidates: Sequence[Candidate], name: str, picture: Image.Image) -> None:
        self.candidates = list(candidates)
        self.start(name, picture)

    def start(self, name: str, picture: Image.Image) -> None:
        """Begin anew, about this picture."""
        self.name, self.picture = name, picture
        self.exchanges: list[Exchange] = []

    def ask(self, question: str) -> Generator[str, None, None]:
        """Put a question to one model after another; yield a model's name as its answer grows.

        To interrupt the models, stop iterating.  A question that not all models were asked is in
        no history from then on, and one that failed is not in the history of the model it failed
        for.
        """
        exchange = Exchange(question)
        self.exchanges.append(exchange)
        for candidate in self.candidates:
            with closing(_growing(candidate, self._prompt(candidate, exchange))) as growing:
                for said in growing:
                    if isinstance(said, Failure):
                        exchange.failures[candidate.name] = said.reason
                    else:
                        exchange.answers[candidate.name] = said
                    yield candidate.name
        exchange.finished = True

    def compare(self) -> Exchange | None:
        """Measure for the last question how much likelier each model begins short than long.

        Compared are the shortest and the longest of the models' own answers.  Returns `None` when
        nothing was asked, or all said the same.  A model behind an endpoint has no margin.
        """
        if not self.exchanges:
            return None
        exchange = self.exchanges[-1]
        texts = sorted({t for t in exchange.answers.values() if t}, key=lambda t: len(t.split()))
        if len(texts) < 2:
            return None
        exchange.compared = pair = texts[0], texts[-1]
        for candidate in self.candidates:
            if candidate.margins is not None:
                prompt = self._prompt(candidate, exchange)
                (exchange.margins[candidate.name],) = candidate.margins([prompt], [pair])
        return exchange

    def _prompt(self, candidate: Candidate, exchange: Exchange) -> Prompt:
        earlier = self.exchanges[: self.exchanges.index(exchange)]
        rounds = [
            Round(one.question, one.answers[candidate.name])
            for one in earlier
            if one.finished and candidate.name not in one.failures
        ]
        return as_prompt((self.name,), (self.picture,), [*rounds, Round(exchange.question, "")])


def _growing(candidate: Candidate, prompt: Prompt) -> Generator[str | Failure, None, None]:
    """Yield a model's answer as it grows; at once, from a model that does not stream."""
    if candidate.stream is not None:
        yield from candidate.stream(prompt)
    else:
        yield from (reply for _, reply in candidate.answer([prompt]))
