"""One question about one image, before a thousand: does this server answer, and if not, why?"""

from typing import TYPE_CHECKING

from msgspec import structs
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.endpoint import Endpoint, complete, to_openai
from cocoift.evaluation.protocols import Failure

if TYPE_CHECKING:
    from openai import OpenAI

_QUESTION = "What do you see in the picture?"
_PIXELS = 448
# Answered so where the model cannot be shown an image, or lacks the memory for one.
_REFUSED = (400, 415, 422, 500, 501, 503)


def check_server(endpoint: Endpoint, *, new_tokens: int = 256) -> str:
    """Ask one question about one image and return the reply.

    Raises `DataError` that names the cause where there is none: no key, no server, no such
    address or model, a key that is refused, a model that takes no images.
    """
    client = structs.replace(endpoint, retries=1).client()

    def ask(pictures: list[Image.Image]) -> str | Failure:
        chat = to_openai([Message("human", f"{IMAGE_MARKER}\n{_QUESTION}")], pictures, system="")
        return complete(client, endpoint, chat, new_tokens=new_tokens, temperature=0.0)[0]

    reply = ask([Image.new("RGB", (_PIXELS, _PIXELS), (200, 30, 30))])
    if isinstance(reply, str):
        return reply
    cause = reply.reason
    if reply.status in _REFUSED and isinstance(ask([]), str):
        cause = (
            "it answers without an image, with one it does not: serve a model that takes images "
            f"(llama.cpp: with --mmproj); {reply.reason}"
        )
    elif reply.status in (*_REFUSED, 404):
        cause = _missing(client, endpoint, reply) or cause
    elif not reply.status and reply.reason.startswith("empty"):
        cause = (
            f"{reply.reason} to a question about an image: look at the server's log, its chat "
            "template, and whether the model thinks until its tokens are used up"
        )
    raise DataError(f"{endpoint.base_url}: {cause}")


def _missing(client: "OpenAI", endpoint: Endpoint, refusal: Failure) -> str:
    """Say that a server lacks the model, or is no API; nothing where neither is known."""
    from openai import OpenAIError

    try:
        names = [model.id for model in client.models.list()]
    except (OpenAIError, ValueError, AttributeError, TypeError):  # no list, or no such API
        names = []
    if names and endpoint.model not in names:
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        return f"it has no model {endpoint.model!r}; it has: {shown}"
    base = endpoint.base_url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    if names or refusal.status != 404 or endpoint.base_url.rstrip("/") == f"{base}/v1":
        return ""
    return f"{refusal.reason}; the address of a chat API mostly ends in /v1: {base}/v1"
