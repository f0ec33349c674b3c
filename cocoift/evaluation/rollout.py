"""Rollouts: every question of a benchmark put to a model under a protocol, every round saved.

A rollout file is JSON Lines, one line per dialog, and only ever grows: a killed run resumes and
asks nothing twice.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from PIL import Image

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, append_lines, inside, whole_lines, write_bytes
from cocoift.core.images import open_image
from cocoift.core.schema import IMAGE_MARKER, Message
from cocoift.evaluation.benchmarks import Benchmark, Question
from cocoift.evaluation.protocols import Answerer, Failure, Prompt, Protocol

_GREY = (122, 116, 104)


class Round(msgspec.Struct, frozen=True):
    """One question and its answer; `by` tells whether the `model` or a `reference` gave it."""

    question: str
    answer: str
    by: str = "model"


class Rollout(msgspec.Struct, frozen=True):
    """The dialog that ends in one question of a benchmark; `failure` tells why it broke off."""

    question_id: str
    images: list[str]
    rounds: list[Round]
    failure: str = ""

    @property
    def answer(self) -> str | None:
        """The answer to the benchmark's question; `None` where the dialog broke off."""
        return None if self.failure else self.rounds[-1].answer


@dataclass(frozen=True)
class Run:
    """All dialogs of one model under one protocol on one benchmark."""

    benchmark: Benchmark
    model: str
    seed: int
    protocol: str
    rollouts: list[Rollout]
    file: Path | None = None

    def answered(self) -> tuple[list[Question], list[str]]:
        """Return the questions that got an answer, and the answers, in the rollouts' order."""
        by_id = {question.id: question for question in self.benchmark.questions}
        pairs = [(by_id[r.question_id], r.answer) for r in self.rollouts if r.answer is not None]
        return [question for question, _ in pairs], [answer for _, answer in pairs]


# Opening rounds are saved as they are played, as dialogs of no question.
_OPENING = ""

Images = tuple[str, ...]
# What a round before a question follows from: the images, and the questions up to its own.
History = tuple[Images, tuple[str, ...]]


class Head(msgspec.Struct, frozen=True):
    """The first line of a rollout file: `model` is `<name>-<seed>`, `key` digests all else.

    All else is what the answers depend on: weights, questions, images, the protocol's rounds.
    """

    key: str
    model: str
    protocol: str


def roll_out(
    questions: Sequence[Question],
    protocol: Protocol,
    answer: Answerer,
    *,
    file: Path,
    head: Head,
    image_root: Path,
    chunk: int = 256,
) -> list[Rollout]:
    """Put every question under a protocol and return the dialogs, in the questions' order.

    A file with another head is overwritten; a new one begins with what the same model was asked
    under another seed.  A dialog that failed is asked again by the next run, and the failed round
    never enters a history.  Raises `DataError` for a damaged file or an image that cannot be
    opened.
    """
    done, opened = _resume(file, head)
    todo = [q for q in questions if q.id not in done or done[q.id].failure]
    # Questions on one image stay together: they share its cache and its opening rounds.
    todo.sort(key=lambda question: question.images)
    bar = tqdm(total=len(todo), desc=f"{head.model}, {protocol.name}", unit=" dialogs", leave=False)
    with bar:

        def save(rollout: Rollout) -> None:
            lost = "free space and run again, what was answered is kept"
            append_lines(file, [msgspec.json.encode(rollout)], lost=lost)

        for part in (todo[at : at + chunk] for at in range(0, len(todo), chunk)):
            shown = _pictures(part, questions, protocol, image_root)
            for rollout in _dialogs(part, protocol, answer, shown, opened, save):
                save(rollout)
                done[rollout.question_id] = rollout
                bar.update()
    return [done[question.id] for question in questions]


def _resume(file: Path, head: Head) -> tuple[dict[str, Rollout], dict[History, list[Round]]]:
    """Return a file's dialogs and opening rounds; start it over if its head differs."""
    if not _begins_with(file, head):
        first = msgspec.json.encode(head)
        write_bytes(file, b"\n".join([first, *_same_dialogs(file, head), b""]))
    return _read(file)[1:]


def _begins_with(file: Path, head: Head) -> bool:
    return file.is_file() and whole_lines(file)[:1] == [msgspec.json.encode(head)]


def kept_answers(file: Path, head: Head) -> tuple[list[Rollout], int]:
    """Return what a run with this head would not ask again: dialogs, number of opening rounds.

    Raises `DataError` when the file is damaged.
    """
    if not _begins_with(file, head):
        return [], 0
    _, dialogs, opened = _read(file)
    played = sum(rounds[-1].by == "model" for rounds in opened.values())
    return [dialog for dialog in dialogs.values() if not dialog.failure], played


def _same_dialogs(file: Path, head: Head) -> list[bytes]:
    """Return the lines after the head of a file beside this one whose head has the same key."""
    for other in sorted(file.parent.glob(f"*-{head.protocol}.jsonl")):
        first, *dialogs = whole_lines(other) or [b""]
        if other != file and head.key.encode() in first:
            return dialogs
    return []


def read_log(file: Path) -> tuple[Head, list[Rollout]]:
    """Return a rollout file's head and its dialogs; raises `DataError` when it is damaged."""
    head, dialogs, _ = _read(file)
    return head, list(dialogs.values())


def _read(file: Path) -> tuple[Head, dict[str, Rollout], dict[History, list[Round]]]:
    """Return a file's head, its dialogs by question, and the rounds played before questions."""
    try:
        first, *lines = whole_lines(file)
        head = msgspec.json.decode(first, type=Head)
        found = [msgspec.json.decode(line, type=Rollout) for line in lines]
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise DataError(f"{file}: {error}; delete it and run again") from error
    dialogs = {row.question_id: row for row in found if row.question_id != _OPENING}
    opened = {
        (tuple(row.images), tuple(turn.question for turn in row.rounds)): list(row.rounds)
        for row in found
        if row.question_id == _OPENING
    }
    return head, dialogs, opened


def opened_prompts(
    questions: Sequence[Question], protocol: Protocol, answer: Answerer, *, image_root: Path
) -> list[Prompt | None]:
    """Return each question with its opening rounds played, ready to be answered.

    `None` stands where an opening round failed.  Raises `DataError` as `roll_out` does.
    """
    shown = _pictures(questions, questions, protocol, image_root)
    rounds, failures = _open(questions, protocol, answer, shown, {}, lambda opening: None)
    return [
        None
        if q.id in failures
        else as_prompt(q.images, shown[q.images], [*rounds[q.id], Round(protocol.asks(q), "")])
        for q in questions
    ]


def _pictures(
    part: Sequence[Question], questions: Sequence[Question], protocol: Protocol, root: Path
) -> dict[Images, tuple[Image.Image, ...]]:
    """Return the images to show for each set of image names, each opened once."""
    sets = list(dict.fromkeys(question.images for question in questions))
    others = dict(zip(sets, [*sets[1:], sets[0]], strict=True))
    shown = {}
    for images in dict.fromkeys(question.images for question in part):
        named = others[images] if protocol.picture == "other" else images
        opened = tuple(open_image(inside(root, name)) for name in named)
        if protocol.picture == "blank":
            opened = tuple(Image.new("RGB", image.size, _GREY) for image in opened)
        shown[images] = opened
    return shown


def _dialogs(
    part: Sequence[Question],
    protocol: Protocol,
    answer: Answerer,
    shown: dict[Images, tuple[Image.Image, ...]],
    opened: dict[History, list[Round]],
    save: Callable[[Rollout], None],
) -> Iterator[Rollout]:
    """Yield the dialog of every question, those that fail in their opening rounds first."""
    rounds, failures = _open(part, protocol, answer, shown, opened, save)
    for question in (question for question in part if question.id in failures):
        before = rounds[question.id]
        reason = f"opening round {len(before) + 1}: {failures[question.id]}"
        yield Rollout(question.id, list(question.images), before, reason)
    ready = [question for question in part if question.id not in failures]
    asked = [
        as_prompt(q.images, shown[q.images], [*rounds[q.id], Round(protocol.asks(q), "")])
        for q in ready
    ]
    for number, reply in answer(asked):
        question = ready[number]
        before = rounds[question.id]
        if isinstance(reply, Failure):
            yield Rollout(question.id, list(question.images), before, reply.reason)
        else:
            dialog = [*before, Round(protocol.asks(question), reply)]
            yield Rollout(question.id, list(question.images), dialog, "")


def _open(
    part: Sequence[Question],
    protocol: Protocol,
    answer: Answerer,
    shown: dict[Images, tuple[Image.Image, ...]],
    opened: dict[History, list[Round]],
    save: Callable[[Rollout], None],
) -> tuple[dict[str, list[Round]], dict[str, str]]:
    """Play the rounds before questions, each history once; return them, and where they failed.

    Both are by question.  `opened` holds rounds that were played before and gains those played
    now: one image has one history, also at an endpoint that samples.
    """
    wanted = {question.id: (question.images, protocol.before(question)) for question in part}
    failed: dict[History, str] = {}
    for place in range(max((len(texts) for _, texts in wanted.values()), default=0)):
        histories = {
            (images, texts[: place + 1]) for images, texts in wanted.values() if len(texts) > place
        }
        asked = []
        for images, texts in sorted(histories - opened.keys()):
            so_far = opened.get((images, texts[:-1]), None if place else [])
            given = protocol.given(place, images[0])
            if so_far is not None and given is None:
                asked.append((images, texts))
            elif so_far is not None and given is not None:
                opened[images, texts] = [*so_far, Round(texts[-1], given, "reference")]
        prompts = [
            as_prompt(images, shown[images], [*opened.get((images, t[:-1]), []), Round(t[-1], "")])
            for images, t in asked
        ]
        for number, reply in answer(prompts) if prompts else ():
            images, texts = asked[number]
            if isinstance(reply, Failure):
                failed[images, texts] = reply.reason
                continue
            before = opened.get((images, texts[:-1]), [])
            opened[images, texts] = [*before, Round(texts[-1], reply)]
            save(Rollout(_OPENING, list(images), list(opened[images, texts])))
    rounds: dict[str, list[Round]] = {}
    failures: dict[str, str] = {}
    for name, (images, texts) in wanted.items():
        heads = [(images, texts[:size]) for size in range(1, len(texts) + 1)]
        played = [opened[head] for head in heads if head in opened]
        rounds[name] = played[-1] if played else []
        for head in failed.keys() & heads:
            failures[name] = failed[head]
    return rounds, failures


def as_prompt(images: Images, pictures: tuple[Image.Image, ...], rounds: Sequence[Round]) -> Prompt:
    """Return a dialog about images, ready to be answered; its last round has no answer yet.

    `images` are their names, `pictures` the images themselves.
    """
    messages = []
    for position, turn in enumerate(rounds):
        marker = f"{IMAGE_MARKER}\n" if position == 0 else ""
        messages += [Message("human", f"{marker}{turn.question}"), Message("gpt", turn.answer)]
    return Prompt("\n".join(images), pictures, messages[:-1])
