"""Models to evaluate: a base and adapters on it, or a model behind an endpoint."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from cocoift.core.files import digest, sha256
from cocoift.evaluation.endpoint import Endpoint, NamedEndpoint
from cocoift.evaluation.protocols import Answerer, Failure, Prompt
from cocoift.tuning.chat import ChatFormat
from cocoift.tuning.checkpoints import WEIGHTS, load_adapters, training_log, using
from cocoift.tuning.memory import available, dense_fits, prompts_at_once
from cocoift.tuning.model import Device, computes_in_float32, dense, load_model, load_processor
from cocoift.tuning.recipe import weights_digest

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

P = ParamSpec("P")
T = TypeVar("T")

# Raise it when the answering code changes its results: older rollouts are then not reused.
_VERSION = 2
# Dense weights must leave room for a batch of this many questions.
_FEWEST = 8


# Questions and two answers for each to how much likelier the first one begins, in nats.
Margins = Callable[[Sequence[Prompt], Sequence[tuple[str, str]]], list[float]]
# A question to its answer as it grows, or to why it broke off.
Streamer = Callable[[Prompt], Iterator[str | Failure]]


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate: how to ask it, and a digest of what its answers depend on.

    `margins` compares how two answers to each question begin (`generation.margins`); a model
    behind an endpoint has none.  `stream` answers one question token by token.
    """

    name: str
    seed: int
    answer: Answerer
    key: str
    margins: Margins | None = None
    stream: Streamer | None = None


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


def local_answers(
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
    *,
    chat: ChatFormat,
    new_tokens: int,
    batch: int = 64,
) -> Answerer:
    """Return an answerer that asks a loaded model."""
    from cocoift.evaluation.generation import generate

    def answer(asked: Sequence[Prompt]) -> Iterator[tuple[int, str]]:
        yield from enumerate(
            generate(model, processor, asked, chat=chat, new_tokens=new_tokens, batch=batch)
        )

    return answer


def local_margins(
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
    *,
    chat: ChatFormat,
    batch: int = 64,
) -> Callable[[Sequence[Prompt], Sequence[tuple[str, str]]], list[float]]:
    """Return a function that compares how two answers begin, by a loaded model, in nats."""
    from cocoift.evaluation.generation import margins

    return partial(margins, model, processor, chat=chat, batch=batch)


def local_stream(
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
    *,
    chat: ChatFormat,
    new_tokens: int,
) -> Streamer:
    """Return a function that answers one question token by token, by a loaded model."""
    from cocoift.evaluation.generation import stream

    return partial(stream, model, processor, chat=chat, new_tokens=new_tokens)


def endpoint_answers(endpoint: Endpoint, *, system: str, new_tokens: int) -> Answerer:
    """Return an answerer that asks a model behind an OpenAI-compatible endpoint.

    It raises `DataError` at ten equal failures in a row, over all that it is asked.
    """
    from cocoift.evaluation.endpoint import Streak, ask_endpoint, to_openai

    streak = Streak(endpoint)

    def answer(asked: Sequence[Prompt]) -> Iterator[tuple[int, str | Failure]]:
        chats = [
            partial(to_openai, prompt.messages, prompt.pictures, system=system) for prompt in asked
        ]
        yield from ask_endpoint(endpoint, chats, new_tokens=new_tokens, streak=streak)

    return answer


def endpoint_stream(endpoint: Endpoint, *, system: str, new_tokens: int) -> Streamer:
    """Return a function that answers one question token by token, by a model behind an endpoint."""
    from cocoift.evaluation.endpoint import stream_reply, to_openai

    def stream(prompt: Prompt) -> Iterator[str | Failure]:
        chat = to_openai(prompt.messages, prompt.pictures, system=system)
        yield from stream_reply(endpoint, chat, new_tokens=new_tokens)

    return stream


def endpoint_candidates(
    endpoints: Sequence[NamedEndpoint], *, system: str, new_tokens: int
) -> Iterator[Candidate]:
    """Yield the models behind endpoints."""
    for endpoint in endpoints:
        key = digest([endpoint.base_url, endpoint.model, system, new_tokens])
        answer = endpoint_answers(endpoint, system=system, new_tokens=new_tokens)
        stream = endpoint_stream(endpoint, system=system, new_tokens=new_tokens)
        yield Candidate(endpoint.name, 0, answer, key, stream=stream)


def local_candidates(local: LocalModels, names: Sequence[str]) -> Iterator[Candidate]:
    """Yield the named models of one seed, `base` being the one not tuned, on one loaded base.

    Where the adapters were trained on four bits, so does the base answer, from dense weights of
    the same values if memory allows.  An adapter that is asked alone is merged into a float32
    base.  Raises `DataError` when an adapter is not there.
    """
    four_bit = _in_four_bits(local)
    model, tuned = _loaded(local, names, four_bit=four_bit)
    processor = load_processor(local.base)
    asked, chat = tuned or model, local.chat
    batch = local.batch or prompts_at_once(model, free=available(local.device))
    answer = local_answers(asked, processor, chat=chat, new_tokens=local.new_tokens, batch=batch)
    compare = local_margins(asked, processor, chat=chat, batch=batch)
    stream = local_stream(asked, processor, chat=chat, new_tokens=local.new_tokens)
    same: list[Any] = [_VERSION, weights_digest(local.base), four_bit, local.device]
    same += [asdict(chat), local.new_tokens]
    for name in names:
        own = None if name == "base" else sha256(local.adapters[name] / WEIGHTS)
        key = digest([*same, own])
        if tuned is None:
            yield Candidate(name, local.seed, answer, key, compare, stream)
        else:
            adapter = None if name == "base" else name
            answers, margins = _switched(tuned, adapter, answer), _switched(tuned, adapter, compare)
            streamed = _switched_stream(tuned, adapter, stream)
            yield Candidate(name, local.seed, answers, key, margins, streamed)


def _in_four_bits(local: LocalModels) -> bool:
    recipes = [training_log(folder)["recipe"] for folder in local.adapters.values()]
    return bool(recipes) and all(recipe["four_bit"] for recipe in recipes)


def _loaded(
    local: LocalModels, names: Sequence[str], *, four_bit: bool
) -> tuple["LlavaForConditionalGeneration", "PeftModel | None"]:
    """Return the base, and the base with its adapters where they are not merged into it."""
    wanted = {name: local.adapters[name] for name in names if name != "base"}
    base = load_model(local.base, four_bit=four_bit, device=local.device)
    if local.device == "cpu" or dense_fits(
        base, prompts=local.batch or _FEWEST, free=available("cuda")
    ):
        base = dense(base)
    if not wanted:
        return base, None
    tuned = load_adapters(base, wanted)
    if len(names) == 1 and computes_in_float32(base):
        return tuned.merge_and_unload(), None
    return base, tuned


def _switched(
    model: Any, adapter: str | None, work: Callable[P, Iterable[T]]
) -> Callable[P, list[T]]:
    """Return `work` as done with one of the model's adapters in use (`None`: without any)."""

    def switched(*args: P.args, **kwargs: P.kwargs) -> list[T]:
        with using(model, adapter):
            return list(work(*args, **kwargs))

    return switched


def _switched_stream(model: Any, adapter: str | None, stream: Streamer) -> Streamer:
    """Return `stream` with one of the model's adapters in use until the answer ends."""

    def switched(prompt: Prompt) -> Iterator[str | Failure]:
        with using(model, adapter):
            yield from stream(prompt)

    return switched
