"""Models behind an OpenAI-compatible endpoint: OpenAI itself, vLLM, llama.cpp and their like."""

import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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

    def __post_init__(self) -> None:
        """Refuse an address that is no URL or would carry a key into reports, and zeros."""
        if fault := _address_fault(self.base_url):
            raise ValueError(f"base_url {fault}")
        for name in ("concurrency", "timeout"):
            if not (value := getattr(self, name)) > 0:  # nor is NaN
                raise ValueError(f"{name} is {value:g}; it must be above 0")

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


def _address_fault(address: str) -> str:
    """Say what is wrong with a base URL; nothing where it can be used.  Never quotes a key."""
    if "@" in address:
        return "holds a user name or password; the key is read from an environment variable alone"
    if "?" in address or "#" in address:
        return "holds a query; end it with the path, e.g. http://localhost:8000/v1"
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 host
        usable = False
    if usable:
        return ""
    return f"is {address!r}; write scheme, host and path, e.g. http://localhost:8000/v1"


class NamedEndpoint(Endpoint, frozen=True, kw_only=True):
    """A model behind an endpoint that a preset evaluates, under this name."""

    name: str


def to_openai(
    messages: Sequence[Message], pictures: Sequence[Image.Image], *, system: str
) -> list[dict[str, Any]]:
    """Return a conversation as chat messages, its images as data addresses in the first turn."""
    chat: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for position, message in enumerate(messages):
        text = message.value.removeprefix(f"{IMAGE_MARKER}\n")
        if position == 0:
            urls = [image_address(picture, "png") for picture in pictures]
            content: Any = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
            content.append({"type": "text", "text": text})
        else:
            content = text
        chat.append({"role": "assistant" if position % 2 else "user", "content": content})
    return chat


class Streak:
    """Counts requests that fail one after another for one reason; threads may share it."""

    def __init__(self, endpoint: Endpoint, longest: int = 10):
        self.endpoint, self.longest = endpoint, longest
        self._reason, self._length, self._lock = "", 0, threading.Lock()

    def add(self, reply: str | Failure) -> None:
        """Count a reply; raises `DataError` at the tenth equal failure in a row."""
        # Numbers, of requests or seconds, differ where the reason is the same.
        reason = re.sub(r"\S*\d\S*", "#", reply.reason) if isinstance(reply, Failure) else ""
        with self._lock:
            self._length = self._length + 1 if reason == self._reason else 1
            self._reason = reason
            enough = bool(reason) and self._length >= self.longest
        if enough and isinstance(reply, Failure):
            raise DataError(
                f"{self.endpoint.base_url}: stopped after {self.longest} equal failures in a row: "
                f"{reply.reason}; run again to continue; answers so far are kept"
            )


def ask_endpoint(
    endpoint: Endpoint,
    conversations: Sequence[Callable[[], list[dict[str, Any]]]],
    *,
    new_tokens: int = 512,
    temperature: float = 0.0,
    streak: Streak | None = None,
) -> Iterator[tuple[int, str | Failure]]:
    """Yield (number, reply) as replies come in, `concurrency` requests at a time.

    Conversations are made when their turn comes, so that few images are in memory.  A request
    that fails after the client's retries, or an empty reply, is a `Failure`; raises `DataError`
    as `Streak.add` does (`streak` counts over several calls).  A caller that stops reading does
    not wait for replies under way.
    """
    client, streak = endpoint.client(), streak or Streak(endpoint)
    waiting = iter(enumerate(conversations))
    replies: queue.SimpleQueue[tuple[int, str | Failure | BaseException]] = queue.SimpleQueue()
    lock, over = threading.Lock(), threading.Event()

    def work() -> None:
        while not over.is_set():
            with lock:
                number, make = next(waiting, (-1, None))
            if make is None:
                return
            try:
                reply, *_ = complete(
                    client, endpoint, make(), new_tokens=new_tokens, temperature=temperature
                )
                replies.put((number, reply))
            except BaseException as error:  # raised again in the caller's thread
                replies.put((number, error))

    for _ in range(min(endpoint.concurrency, len(conversations))):
        # A pool would wait for its threads, as long as a time-out and its retries.
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in conversations:
            number, reply = replies.get()
            if isinstance(reply, BaseException):
                raise reply
            yield number, reply
            streak.add(reply)
    finally:
        over.set()


def complete(
    client: "OpenAI",
    endpoint: Endpoint,
    conversation: list[dict[str, Any]],
    *,
    new_tokens: int,
    temperature: float,
) -> tuple[str | Failure, int, int]:
    """Ask once; return the reply and its tokens, in and out (0 if the server reports none)."""
    try:
        reply = client.chat.completions.create(
            model=endpoint.model,
            messages=conversation,
            max_tokens=new_tokens,
            temperature=temperature,
        )
    except Exception as error:  # the client's own, and those of malformed JSON
        return failure(error, endpoint, key=client.api_key), 0, 0
    try:
        choice, usage = reply.choices[0], reply.usage
        text = (choice.message.content or "").strip()
    except (AttributeError, TypeError, IndexError):  # HTML, or JSON of another kind
        begins = reply if isinstance(reply, str) else reply.model_dump_json(exclude_none=True)
        return _no_completion(begins, key=client.api_key), 0, 0
    paid = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    if text:
        return (text, *paid)
    ended = "" if choice.finish_reason in ("stop", None) else f" (ended by: {choice.finish_reason})"
    return (Failure(f"empty reply{ended}"), *paid)


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
    except Exception as error:  # the client's own, and those of a malformed stream
        yield failure(error, endpoint, key=client.api_key)
        return
    if not reply.strip():
        yield Failure("empty reply")


def failure(error: Exception, endpoint: Endpoint, *, key: str) -> Failure:
    """Return why a request failed: the cause, what the server said, and what to do about it.

    The key is left out: servers quote what they were sent.
    """
    import openai

    status = None
    if isinstance(error, openai.APITimeoutError):
        reason = f"no reply within {endpoint.timeout:g} s: allow a longer timeout or a lower "
        reason += f"concurrency (now {endpoint.concurrency})"
    elif isinstance(error, openai.APIConnectionError):
        reason = f"cannot connect ({error.__cause__ or error}): is the server running, and are "
        reason += "host and port right?"
    elif isinstance(error, openai.APIStatusError):
        status = error.status_code
        hint = _HINTS.get(status, "").format(variable=endpoint.key_variable)
        reason = f"HTTP {status}{hint}: {_server_text(error)}"
    elif isinstance(error, openai.OpenAIError):
        reason = f"{type(error).__name__}: {error}"
    else:
        return _no_completion(f"{type(error).__name__}: {error}", key=key)
    return Failure(_without(key, reason), status)


_HINTS = {
    401: ", the key in {variable} is refused",
    403: ", the key in {variable} is refused",
    404: ", no such address or model",
    429: ", too many requests (lower the concurrency, or wait) or a quota that is used up",
}


def _server_text(error: Any) -> str:
    """Return what a server said about an error, on one line and without HTML's tags."""
    body = error.body
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or body
    plain = re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", str(body or error), flags=re.S)
    return " ".join(plain.split())[:200]


def _no_completion(what: str, *, key: str) -> Failure:
    begins = _without(key, " ".join(what.split()))[:80]
    return Failure(
        f"not a chat completion ({begins}): is this the address of the API? It mostly ends in /v1"
    )


def _without(key: str, text: str) -> str:
    """Return a text with the key blacked out; a short one, such as `x`, where it stands alone."""
    alone = re.escape(key) if len(key) > 7 else rf"(?<!\w){re.escape(key)}(?!\w)"
    return re.sub(alone, "***", text)
