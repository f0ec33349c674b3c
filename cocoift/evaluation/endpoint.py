"""Models behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, llama.cpp and their like."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.images import image_address
from cocoift.core.schema import IMAGE_MARKER, Message, Settings
from cocoift.evaluation.protocols import Failure

if TYPE_CHECKING:
    from openai import OpenAI


class Endpoint(Settings, frozen=True):
    """Where to prompt: the address ends in `/v1`; the key is read from an environment variable.

    `retries` is the client's own, with its growing pauses, for time-outs, 429 and 5xx.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5

    def client(self) -> "OpenAI":
        """Return a client; raises `DataError` when the environment holds no key."""
        from openai import OpenAI

        key = os.environ.get(self.key_variable)
        if not key:
            raise DataError(
                f"no key for {self.base_url}: set the environment variable {self.key_variable} "
                "(to any word, where the server asks for none)"
            )
        return OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.retries
        )


class NamedEndpoint(Endpoint, frozen=True, kw_only=True):
    """A model behind an endpoint that a preset evaluates, under this name."""

    name: str


def to_openai(
    messages: Sequence[Message], pictures: Sequence[Image.Image], *, system: str
) -> list[dict[str, Any]]:
    """Return a conversation as chat messages, its pictures as data addresses in the first turn."""
    chat: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for position, message in enumerate(messages):
        text = message.value.removeprefix(f"{IMAGE_MARKER}\n")
        if position == 0:
            content: Any = [_picture_part(picture) for picture in pictures]
            content.append({"type": "text", "text": text})
        else:
            content = text
        chat.append({"role": "assistant" if position % 2 else "user", "content": content})
    return chat


def _picture_part(picture: Image.Image) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": image_address(picture, "png")}}


def ask_endpoint(
    endpoint: Endpoint,
    conversations: Sequence[Callable[[], list[dict[str, Any]]]],
    *,
    new_tokens: int = 512,
    temperature: float = 0.0,
) -> Iterator[tuple[int, str | Failure]]:
    """Yield (number, reply) as replies come in, `concurrency` requests at a time.

    Conversations are made when their turn comes, so that few pictures are in memory.  A request
    that fails after the client's retries, or an empty reply, is a `Failure`.
    """
    client = endpoint.client()

    def ask(make: Callable[[], list[dict[str, Any]]]) -> str | Failure:
        return complete(
            client, endpoint.model, make(), new_tokens=new_tokens, temperature=temperature
        )[0]

    with ThreadPoolExecutor(endpoint.concurrency) as threads:
        asked = {threads.submit(ask, one): number for number, one in enumerate(conversations)}
        try:
            for done in as_completed(asked):
                yield asked[done], done.result()
        finally:
            threads.shutdown(cancel_futures=True)


def complete(
    client: "OpenAI",
    model: str,
    conversation: list[dict[str, Any]],
    *,
    new_tokens: int,
    temperature: float,
) -> tuple[str | Failure, int, int]:
    """Ask once; return the reply and its tokens, in and out (0 if the server reports none)."""
    try:
        reply = client.chat.completions.create(
            model=model,
            messages=conversation,
            max_tokens=new_tokens,
            temperature=temperature,
        )
        text = reply.choices[0].message.content or ""
        usage = reply.usage
    except Exception as error:  # the client's, and those of a reply that is no completion
        return _failure(error, client), 0, 0
    paid = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return (text.strip() or Failure("empty reply"), *paid)


def stream_reply(
    endpoint: Endpoint, conversation: list[dict[str, Any]], *, new_tokens: int
) -> Iterator[str | Failure]:
    """Ask once; yield the reply as it grows, then a `Failure` if it broke off or is empty."""
    client, reply = endpoint.client(), ""
    try:
        with client.chat.completions.create(
            model=endpoint.model,
            messages=conversation,
            max_tokens=new_tokens,
            temperature=0.0,
            stream=True,
        ) as chunks:
            for chunk in chunks:
                if chunk.choices:
                    reply += chunk.choices[0].delta.content or ""
                    yield reply.strip()
    except Exception as error:  # the client's, and those of a stream that holds no chunks
        yield _failure(error, client)
        return
    if not reply.strip():
        yield Failure("empty reply")


def _failure(error: Exception, client: "OpenAI") -> Failure:
    """Return why a request failed, without the key: servers quote what they were sent."""
    from openai import OpenAIError

    text = str(error).replace(client.api_key, "***")[:200]
    what = "" if isinstance(error, OpenAIError) else "not a completion: "
    return Failure(f"{what}{type(error).__name__}: {text}")
