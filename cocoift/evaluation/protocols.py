"""Protocols: how a question is put to a model, alone or after opening rounds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Settings

if TYPE_CHECKING:
    from cocoift.evaluation.benchmarks import Benchmark, Question

# The two protocols of the headline: single-round, and after one short-answer round.
ALONE, AFTER = "single_round", "multi_round"
# The question alone, with the image of another question: what is right then is guessed.
OTHER_PICTURE = "other_picture"
# Adherence is measured after a long round too.
AFTER_LONG = "after_long"
# Opening and question in one turn (CONCAT of Lost in Conversation, arXiv 2505.06120), and a
# question that needs the rounds before it, without them.
CONCAT, DROPPED = "concat", "history_dropped"
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
    `replies`, those of a reference: one per opening round, a text or a text by image name, `None`
    for the model's own.  A question of a dialog benchmark brings rounds of its own
    (`Question.before`), put after the opening and answered by the model.  `joined` puts all of it
    and the question into one turn; `dropped` leaves the rounds of the question out.
    `picture` shows the question's own image, that of another question, or a blank one: what a
    model says about those, it says without looking.  `appended` follows the question's own text.
    Only the benchmark named `only`, if one is, is asked under the protocol.
    """

    name: str
    opening: tuple[str, ...] = ()
    replies: tuple[str | Mapping[str, str] | None, ...] = ()
    joined: bool = False
    dropped: bool = False
    picture: Literal["own", "other", "blank"] = "own"
    appended: str = ""
    only: str = ""

    def fits(self, benchmark: "Benchmark") -> bool:
        """Tell whether a benchmark is asked under this protocol.

        Replies by image name must be about its images.  A benchmark of dialogs is asked under the
        headline's two protocols, as they are or with something appended, and without its rounds,
        which no other benchmark has.
        """
        if self.only not in ("", benchmark.name):
            return False
        if benchmark.of_dialogs or self.dropped:
            asked = self.dropped or self.appended or self.name in (ALONE, AFTER)
            return benchmark.of_dialogs and bool(asked)
        images = {image for question in benchmark.questions for image in question.images}
        files = (reply for reply in self.replies if isinstance(reply, Mapping))
        return all(images & reply.keys() for reply in files)

    def before(self, question: "Question") -> tuple[str, ...]:
        """Return the questions of the rounds before a question, in order."""
        if self.joined:
            return ()
        return self.opening if self.dropped else (*self.opening, *question.before)

    def given(self, place: int, image: str) -> str | None:
        """Return a reference's reply in a round before the question; `None`: the model replies.

        `place` counts from 0.  Raises `DataError` for an image that a file of replies leaves out.
        """
        reply = self.replies[place] if place < len(self.replies) else None
        if isinstance(reply, Mapping):
            if image not in reply:
                raise DataError(f"protocol {self.name}: no reference reply for image {image}")
            return reply[image]
        return reply

    def asks(self, question: "Question") -> str:
        """Return the text of the last turn: the question as this protocol words it."""
        joined = (*self.opening, *question.before) if self.joined else ()
        return " ".join(filter(None, (*joined, question.text, self.appended)))


class ProtocolSettings(Settings, frozen=True):
    """A protocol as a preset states it.

    `replies` are those of a reference, one per opening round: a text, a JSON file
    `{image name: reply}`, or null for the model's own.  See `Protocol`.
    """

    opening: list[str] = []
    replies: list[str | None] = []
    joined: bool = False
    dropped: bool = False
    picture: Literal["own", "other", "blank"] = "own"

    def __post_init__(self) -> None:
        """Refuse replies that do not match the opening rounds."""
        if self.replies and len(self.replies) != len(self.opening):
            rounds = f"{len(self.opening)} opening rounds"
            raise ValueError(f"{len(self.replies)} replies for {rounds}")
        if self.joined and self.replies:
            raise ValueError("joined rounds have no replies")


class Factorial(Settings, frozen=True):
    """The rounds of `factorial_protocols` as a preset states them.

    `question` is asked with or without the format prompt `prompt`; its reply is forced to `short`
    or `long`.  `others` are two open questions, both with the reply `description`.  Replies are
    files as in `ProtocolSettings`, or texts.
    """

    question: str
    prompt: str
    short: str
    long: str
    others: Annotated[list[str], msgspec.Meta(min_length=2, max_length=2)]
    description: str


_OPENING = "opening_"
# The factors of what stands in the history, and their two levels.
FACTORS = {"prompt": ("bare", "prompt"), "reply": ("long", "short"), "position": ("first", "last")}


def factorial_protocols(rounds: Factorial, root: Path, *, only: str) -> dict[str, Protocol]:
    """Return the eight protocols of three opening rounds that cross `FACTORS`, by name.

    A closed question has its format prompt or not, gets a short or a long reply, and comes first
    or last; the other two rounds are open, and described rightly.  All replies are forced, so that
    nothing but the factors varies.  `only` names the benchmark to ask.
    """
    described, found = _reply(rounds.description, root), {}
    replies = {kind: _reply(getattr(rounds, kind), root) for kind in FACTORS["reply"]}
    asked = {"bare": rounds.question, "prompt": f"{rounds.question} {rounds.prompt}"}
    for prompt, reply, position in product(*FACTORS.values()):
        played = [(text, described) for text in rounds.others]
        played.insert(0 if position == "first" else 2, (asked[prompt], replies[reply]))
        opening, given = zip(*played, strict=True)
        name = f"factor_{prompt}_{reply}_{position}"
        found[name] = Protocol(name=name, opening=opening, replies=given, only=only)
    return found


def single_openings(texts: Sequence[str], *, headline: Sequence[str], only: str) -> list[Protocol]:
    """Return a protocol of one opening round for each text: `opening_1`, `opening_2`, ...

    The one that the headline's short round (`headline`) asks is left out: it is asked already.
    """
    return [
        Protocol(name=f"{_OPENING}{number}", opening=(text,), only=only)
        for number, text in enumerate(texts, 1)
        if [text] != list(headline)
    ]


def compared_openings(protocols: Mapping[str, Protocol]) -> dict[str, Protocol]:
    """Return the short rounds that are compared, the headline's first; none if it is alone."""
    others = {name: of for name, of in protocols.items() if name.startswith(_OPENING)}
    return {AFTER: protocols[AFTER], **others} if others else {}


def read_protocols(settings: Mapping[str, ProtocolSettings], root: Path) -> dict[str, Protocol]:
    """Return a preset's protocols by name; files of replies are below `root`.

    Raises `DataError` for a file of replies that cannot be read.
    """
    return {
        name: Protocol(
            name=name,
            opening=tuple(given.opening),
            replies=tuple(_reply(reply, root) for reply in given.replies),
            joined=given.joined,
            dropped=given.dropped,
            picture=given.picture,
        )
        for name, given in settings.items()
    }


def _reply(reply: str | None, root: Path) -> str | dict[str, str] | None:
    if reply is None or not reply.endswith(".json"):
        return reply
    try:
        return msgspec.json.decode((root / reply).read_bytes(), type=dict[str, str])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{root / reply}: {error}; it holds a reply by image name") from error
