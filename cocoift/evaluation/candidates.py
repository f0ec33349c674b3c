"""Models to evaluate: a base and adapters on it, or a model behind an endpoint."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cocoift.core.files import digest, sha256
from cocoift.evaluation.endpoint import (
    Endpoint,
    NamedEndpoint,
    Streak,
    ask_endpoint,
    stream_reply,
    to_openai,
)
from cocoift.evaluation.generation import generate, log_probabilities, margins, stream
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from cocoift.tuning.chat import ChatFormat
from cocoift.tuning.checkpoints import WEIGHTS, load_adapters, training_log, using
from cocoift.tuning.memory import available, dense_fits, prompts_at_once
from cocoift.tuning.model import Device, computes_in_float32, dense, load_model, load_processor
from cocoift.tuning.recipe import weights_digest

if TYPE_CHECKING:
    from transformers import LlavaProcessor

# Raise it when the answering code changes its results: older rollouts are then not reused.
_VERSION = 2
# Dense weights must leave room for a batch of this many questions.
_FEWEST = 8

# Questions and two answers for each to how much likelier the first one begins, in nats.
Margins = Callable[[Sequence[Prompt], Sequence[tuple[str, str]]], list[float]]
# Questions and any number of answers for each to how likely each answer is, in nats.
LogProbabilities = Callable[[Sequence[Prompt], Sequence[Sequence[str]]], list[list[float]]]
# A question to its answer as it grows, or to why it broke off.
Streamer = Callable[[Prompt], Iterator[str | Failure]]


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate: how to ask it, and a digest of what its answers depend on.

    `margins` compares how two answers to each question begin (`generation.margins`),
    `log_probabilities` says how likely whole ones are; a model behind an endpoint has neither.
    `stream` answers one question token by token.
    """

    name: str
    seed: int
    answer: Answerer
    key: str
    margins: Margins | None = None
    stream: Streamer | None = None
    log_probabilities: LogProbabilities | None = None


@dataclass(frozen=True, kw_only=True)
class LocalModels:
    """The local models of one seed: a base, adapters on it by name, and how they are asked.

    `new_tokens` is the longest answer, `batch` how many questions are answered at once; none: as
    many as the free memory holds.
    """

    base: str
    adapters: Mapping[str, Path]
    seed: int
    device: Device
    chat: ChatFormat
    new_tokens: int
    batch: int | None = None


@dataclass(frozen=True, kw_only=True)
class LocalModel:
    """A loaded model and how it is asked; one with adapters answers with `adapter`, if named."""

    model: Any
    processor: "LlavaProcessor"
    chat: ChatFormat
    new_tokens: int
    batch: int = 64
    adapter: str | None = None

    def answer(self, asked: Sequence[Prompt]) -> list[tuple[int, str]]:
        """Answer questions; see `generation.generate`."""
        with using(self.model, self.adapter) as model:
            options = {"chat": self.chat, "new_tokens": self.new_tokens, "batch": self.batch}
            return list(enumerate(generate(model, self.processor, asked, **options)))

    def margins(self, asked: Sequence[Prompt], answers: Sequence[tuple[str, str]]) -> list[float]:
        """Compare how two answers to each question begin, in nats; see `generation.margins`."""
        with using(self.model, self.adapter) as model:
            options = {"chat": self.chat, "batch": self.batch}
            return margins(model, self.processor, asked, answers, **options)

    def log_probabilities(
        self, asked: Sequence[Prompt], answers: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Say how likely given answers are, in nats; see `generation.log_probabilities`."""
        with using(self.model, self.adapter) as model:
            options = {"chat": self.chat, "batch": self.batch}
            return log_probabilities(model, self.processor, asked, answers, **options)

    def stream(self, prompt: Prompt) -> Iterator[str | Failure]:
        """Answer one question token by token; its adapter is in use until the answer ends."""
        with using(self.model, self.adapter) as model:
            options = {"chat": self.chat, "new_tokens": self.new_tokens}
            yield from stream(model, self.processor, prompt, **options)


@dataclass(frozen=True, kw_only=True)
class EndpointModel:
    """A model behind an OpenAI-compatible endpoint and how it is asked.

    Raises `DataError` at ten equal failures in a row, over all that it is asked.
    """

    endpoint: Endpoint
    system: str
    new_tokens: int

    @cached_property
    def _streak(self) -> Streak:
        return Streak(self.endpoint)

    def _chat(self, prompt: Prompt) -> list[dict[str, Any]]:
        return to_openai(prompt.messages, prompt.pictures, system=self.system)

    def answer(self, asked: Sequence[Prompt]) -> Iterator[tuple[int, str | Failure]]:
        """Answer questions, in the order in which replies come in."""
        chats = [partial(self._chat, prompt) for prompt in asked]
        return ask_endpoint(self.endpoint, chats, new_tokens=self.new_tokens, streak=self._streak)

    def stream(self, prompt: Prompt) -> Iterator[str | Failure]:
        """Answer one question token by token."""
        return stream_reply(self.endpoint, self._chat(prompt), new_tokens=self.new_tokens)


def endpoint_candidates(
    endpoints: Sequence[NamedEndpoint], *, system: str, new_tokens: int
) -> Iterator[Candidate]:
    """Yield the models behind endpoints."""
    for endpoint in endpoints:
        model = EndpointModel(endpoint=endpoint, system=system, new_tokens=new_tokens)
        key = digest([endpoint.base_url, endpoint.model, system, new_tokens])
        yield Candidate(endpoint.name, 0, model.answer, key, stream=model.stream)


def local_candidates(local: LocalModels, names: Sequence[str]) -> Iterator[Candidate]:
    """Yield the named models of one seed on one loaded base; `base` is that base, not tuned.

    Where the adapters were trained on four bits, so does the base answer, from dense weights of
    the same values if memory allows.  An adapter that is asked alone is merged into a float32
    base.  Raises `DataError` when an adapter is not there.
    """
    recipes = [training_log(folder)["recipe"] for folder in local.adapters.values()]
    four_bit = bool(recipes) and all(recipe["four_bit"] for recipe in recipes)
    model = _loaded(local, names, four_bit=four_bit)
    asked = LocalModel(
        model=model,
        processor=load_processor(local.base),
        chat=local.chat,
        new_tokens=local.new_tokens,
        batch=local.batch or prompts_at_once(model, free=available(local.device)),
    )
    same: list[Any] = [_VERSION, weights_digest(local.base), four_bit, local.device]
    same += [asdict(local.chat), local.new_tokens]
    for name in names:
        adapter = None if name == "base" else name
        weights = None if name == "base" else sha256(local.adapters[name] / WEIGHTS)
        tuned, key = replace(asked, adapter=adapter), digest([*same, weights])
        yield Candidate(
            name, local.seed, tuned.answer, key, tuned.margins, tuned.stream,
            tuned.log_probabilities,
        )  # fmt: skip


def _loaded(local: LocalModels, names: Sequence[str], *, four_bit: bool) -> Any:
    """Return the base with the adapters of these names, merged where it is one alone."""
    wanted = {name: local.adapters[name] for name in names if name != "base"}
    base = load_model(local.base, four_bit=four_bit, device=local.device)
    if local.device == "cpu" or dense_fits(
        base, prompts=local.batch or _FEWEST, free=available("cuda")
    ):
        base = dense(base)
    if not wanted:
        return base
    tuned = load_adapters(base, wanted)
    alone = len(names) == 1 and computes_in_float32(base)
    return tuned.merge_and_unload() if alone else tuned
