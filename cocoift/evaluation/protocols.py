"""Protocols: how a question is put to a model, alone or after opening rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Settings

if TYPE_CHECKING:
    from cocoift.evaluation.benchmarks import Benchmark

# The two protocols of the headline: single-round, and after one short-answer round.
ALONE, AFTER = "single_round", "multi_round"
# The question alone, with the image of another question: what is right then is guessed.
OTHER_PICTURE = "other_picture"
# Adherence is measured after a long round too.
AFTER_LONG = "after_long"
# The dialog that the paper's project page shows, and an opening round that was answered wrongly,
# beside the same round answered rightly.
FIGURE_1, WRONG_REPLY, TRUE_REPLY = "figure_1", "wrong_reply", "reference_history"


@dataclass(frozen=True)
class Prompt:
    """Images and the conversation so far, ending in a human message.

    `key` names the images: prompts of one key share them.
    """

    key: str
    pictures: tuple[Image.Image, ...]
    messages: Sequence[Message]


@dataclass(frozen=True)
class Failure:
    """An answer that did not come, and why; `status` is the server's, if it gave one."""

    reason: str
    status: int | None = None


# Sends conversations to a model and yields (number, reply) in any order.
Answerer = Callable[[Sequence[Prompt]], Iterable[tuple[int, str | Failure]]]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What comes before a question, and which image is shown.

    `opening` are the questions of the rounds before.  Their answers are the model's own, or, with
    `replies`, those of a reference: one per opening round, a text or a text by image name.
    `picture` shows the question's own image, that of another question, or a blank one: what a
    model says about those, it says without looking.  `appended` follows the question's own text.
    """

    name: str
    opening: tuple[str, ...] = ()
    replies: tuple[str | Mapping[str, str], ...] = ()
    picture: Literal["own", "other", "blank"] = "own"
    appended: str = ""

    @property
    def rounds(self) -> int:
        """How many rounds a dialog has."""
        return len(self.opening) + 1

    def fits(self, benchmark: "Benchmark") -> bool:
        """Tell whether replies by image name, where it has any, are about a benchmark's images."""
        images = {image for question in benchmark.questions for image in question.images}
        files = (reply for reply in self.replies if isinstance(reply, Mapping))
        return all(images & reply.keys() for reply in files)

    def given(self, image: str) -> list[str]:
        """Return a reference's replies about an image; none where the model replies itself.

        Raises `DataError` for an image that a file of replies leaves out.
        """
        found = []
        for reply in self.replies:
            if isinstance(reply, Mapping):
                if image not in reply:
                    raise DataError(f"protocol {self.name}: no reference reply for image {image}")
                reply = reply[image]
            found.append(reply)
        return found

    def asks(self, text: str) -> str:
        """Return a question as this protocol words it."""
        return f"{text} {self.appended}" if self.appended else text


class ProtocolSettings(Settings, frozen=True):
    """A protocol as a preset states it.

    `replies` are those of a reference, one per opening round: a text, or a JSON file
    `{image name: reply}`.  See `Protocol`.
    """

    opening: list[str] = []
    replies: list[str] = []
    picture: Literal["own", "other", "blank"] = "own"

    def __post_init__(self) -> None:
        """Refuse replies that do not match the opening rounds."""
        if self.replies and len(self.replies) != len(self.opening):
            rounds = f"{len(self.opening)} opening rounds"
            raise ValueError(f"{len(self.replies)} replies for {rounds}")


def read_protocols(settings: Mapping[str, ProtocolSettings], root: Path) -> dict[str, Protocol]:
    """Return a preset's protocols by name; files of replies are below `root`.

    Raises `DataError` for a file of replies that cannot be read.
    """
    return {
        name: Protocol(
            name=name,
            opening=tuple(given.opening),
            replies=tuple(_reply(reply, root) for reply in given.replies),
            picture=given.picture,
        )
        for name, given in settings.items()
    }


def _reply(reply: str, root: Path) -> str | dict[str, str]:
    if not reply.endswith(".json"):
        return reply
    try:
        return msgspec.json.decode((root / reply).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{root / reply}: {error}; it holds a reply by image name") from error
