"""A chat with several models side by side: the same questions, separate histories."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from PIL import Image

from cocoift.evaluation.candidates import Candidate
from cocoift.evaluation.protocols import Failure, Prompt
from cocoift.evaluation.rollout import Round, as_prompt


@dataclass(eq=False)
class Exchange:
    """A question, with each model's answer, failure and margin by model name.

    It is `finished` once every model has answered.  `margins`, in nats, compare how the two answers
    in `compared` begin: above 0, the first and shorter answer is likelier.
    """

    question: str
    answers: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    finished: bool = False
    compared: tuple[str, str] | None = None
    margins: dict[str, float] = field(default_factory=dict)


class Chat:
    """A dialog about an image with several models, which do not see each other's answers."""

    def __init__(self, candidates: Sequence[Candidate], name: str, image: Image.Image) -> None:
        self.candidates = list(candidates)
        self.start(name, image)

    def start(self, name: str, image: Image.Image) -> None:
        """Start a new dialog about an image."""
        self.name, self.image = name, image
        self.exchanges: list[Exchange] = []

    def ask(self, question: str) -> Generator[str, None, None]:
        """Ask each model in turn; yield a model's name whenever its answer grows.

        Stop iterating to interrupt.  An interrupted question is left out of every model's history,
        a failed answer out of the history of the model that failed.
        """
        exchange = Exchange(question)
        self.exchanges.append(exchange)
        for candidate in self.candidates:
            with closing(_stream(candidate, self._prompt(candidate, exchange))) as growing:
                for reply in growing:
                    if isinstance(reply, Failure):
                        exchange.failures[candidate.name] = reply.reason
                    else:
                        exchange.answers[candidate.name] = reply
                    yield candidate.name
        exchange.finished = True

    def compare(self) -> Exchange | None:
        """Measure each model's margin between the shortest and the longest of the last answers.

        Returns the last exchange, or `None` if no two answers differ.  Models behind an endpoint
        have no margin.
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
            Round(past.question, past.answers[candidate.name])
            for past in earlier
            if past.finished and candidate.name in past.answers.keys() - past.failures.keys()
        ]
        return as_prompt((self.name,), (self.image,), [*rounds, Round(exchange.question, "")])


def _stream(candidate: Candidate, prompt: Prompt) -> Generator[str | Failure, None, None]:
    """Yield a model's answer as it grows, or as a whole if the model does not stream."""
    if candidate.stream is not None:
        yield from candidate.stream(prompt)
    else:
        yield from (reply for _, reply in candidate.answer([prompt]))
