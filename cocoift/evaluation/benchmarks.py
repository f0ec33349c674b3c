"""Benchmarks: questions about held-out images, read from their upstream formats.

MM-Vet (`mm-vet.json`, yuweihao/MM-Vet), InfiMM-Eval (`core-mm-wo-answer.json`, Infi-MM/InfiMM-Eval
on the model hub) and LLaVA-Bench (COCO) (`qa90_questions.jsonl`, haotian-liu/LLaVA).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from cocoift.core.files import DataError, sha256
from cocoift.core.schema import Settings
from cocoift.evaluation.lengths import SHORT_WORDS
from cocoift.sources.base import is_blank

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
Format = Literal["mm_vet", "infimm_eval", "llava_bench"]
CATEGORIES = ("deductive", "abductive", "analogical")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question: its images (names below the benchmark's image folder) and its reference answer.

    `answer` is in MM-Vet's syntax: all parts between `<AND>` are wanted, one of those between
    `<OR>` each; empty where upstream withholds it.  `capabilities` is MM-Vet's, `category`,
    `complexity` and `steps` InfiMM-Eval's; `wording` tells in mini's questions whether the
    training sources ask so, `before` are questions that come before it in the same dialog and
    that it refers to.
    """

    id: str
    images: tuple[str, ...]
    text: str
    answer: str = ""
    capabilities: tuple[str, ...] = ()
    category: str = ""
    complexity: str = ""
    steps: tuple[str, ...] = ()
    wording: str = ""
    before: tuple[str, ...] = ()

    @property
    def is_closed(self) -> bool:
        """Whether a short answer is a right one: the shortest reference has `SHORT_WORDS` words.

        All `<AND>` parts together count.  A question whose reasoning is scored is open, and so is
        one without a reference answer: nothing says that a short answer would do.
        """
        if not self.answer.strip() or self.steps:
            return False
        parts = [[len(form.split()) for form in forms] for forms in wanted_parts(self.answer)]
        return sum(min(part, default=0) for part in parts) <= SHORT_WORDS


def wanted_parts(answer: str) -> list[list[str]]:
    """Return the parts of an answer in MM-Vet's syntax, each with its alternatives.

    `"-1<AND>-5"` wants two parts, `"12<OR>=12"` one part in either form.
    """
    return [
        [option.strip() for option in part.split("<OR>") if option.strip()]
        for part in answer.split("<AND>")
    ]


class BenchmarkFiles(Settings, frozen=True):
    """A benchmark as a preset states it: its format, its file and image folder in `raw_dir`."""

    format: Format
    questions: str
    images: str


class GradedAnswers(Settings, frozen=True):
    """Answers to MM-Vet and GPT-4's grades of them, as MM-Vet's evaluator writes both.

    `answers` is `{question id: answer}`, `grades` `<model>_gpt-4-grade-1runs.json`, in `raw_dir`.
    """

    answers: str
    grades: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk: its questions, the format they came in, and its image folder."""

    name: str
    kind: str
    questions: list[Question]
    images: Path
    digest: str

    @property
    def of_dialogs(self) -> bool:
        """Whether its questions need rounds before them (`Question.before`)."""
        return any(question.before for question in self.questions)


class _MmVet(msgspec.Struct):
    imagename: str
    question: str
    answer: str
    capability: list[str]
    wording: str = ""
    before: list[str] = []


class _InfiMm(msgspec.Struct, rename={"images": "Image path", "text": "Question",
                                      "category": "Category", "complexity": "Complexity",
                                      "answer": "Answer", "steps": "Steps"}):  # fmt: skip
    images: list[str]
    text: str
    category: str
    complexity: str
    answer: str = ""
    steps: list[str] = []


class _LlavaBench(msgspec.Struct):
    question_id: int
    image: str
    text: str
    category: str


class _LlavaAnswer(msgspec.Struct):
    question_id: int
    text: str


class _Grades(msgspec.Struct):
    score: list[float]


def read_mm_vet(path: Path) -> list[Question]:
    """Read `mm-vet.json`: question id to image, question, answer and capabilities."""
    rows = _decoded(path, dict[str, _MmVet])
    return [
        Question(
            id=name,
            images=(row.imagename,),
            text=row.question,
            answer=row.answer,
            capabilities=_known(path, name, row.capability, CAPABILITIES),
            wording=row.wording,
            before=tuple(row.before),
        )
        for name, row in rows.items()
    ]


def read_infimm_eval(path: Path) -> list[Question]:
    """Read InfiMM-Eval: question id to image paths, question, category and complexity.

    The published file withholds the answers; a file with them has `Answer` and, as a list of
    sentences, `Steps` in each question.
    """
    rows = _decoded(path, dict[str, _InfiMm])
    return [
        Question(
            id=name,
            images=tuple(row.images),
            text=row.text,
            answer=row.answer,
            category=_known(path, name, [row.category.lower()], CATEGORIES)[0],
            complexity=_known(path, name, [row.complexity.lower()], ("moderate", "high"))[0],
            steps=tuple(row.steps),
        )
        for name, row in rows.items()
    ]


def read_llava_bench(path: Path) -> list[Question]:
    """Read LLaVA-Bench (COCO): `*_questions.jsonl`, with `*_gpt4_answer.jsonl` beside it if there.

    GPT-4's answers serve as reference; they were written from captions and boxes.
    """
    answers = {}
    beside = path.with_name(path.name.replace("_questions", "_gpt4_answer"))
    if beside != path and beside.is_file():
        answers = {row.question_id: row.text for row in _decoded_lines(beside, _LlavaAnswer)}
    return [
        Question(
            id=str(row.question_id),
            images=(row.image,),
            text=row.text,
            answer=answers.get(row.question_id, ""),
            category=row.category,
        )
        for row in _decoded_lines(path, _LlavaBench)
    ]


def read_mm_vet_grades(path: Path) -> dict[str, list[float]]:
    """Read a grade file of MM-Vet's evaluator (`*-grade-*.json`): each question's scores, by run.

    A score outside 0 to 1 stands for a reply without a grade, and is left out.
    """
    rows = _decoded(path, dict[str, _Grades]).items()
    return {name: [score for score in row.score if 0.0 <= score <= 1.0] for name, row in rows}


FORMATS: Mapping[str, Callable[[Path], list[Question]]] = {
    "mm_vet": read_mm_vet,
    "infimm_eval": read_infimm_eval,
    "llava_bench": read_llava_bench,
}


def read_benchmark(path: Path, kind: str) -> list[Question]:
    """Read a benchmark in one of `FORMATS`, and check that it can be asked.

    Raises `DataError` naming the file and the question for damage, an unknown capability or
    category, no image, an empty question, or the same id twice.
    """
    if kind not in FORMATS:
        raise DataError(f"{path}: format {kind!r} is not known; it may be {', '.join(FORMATS)}")
    questions = FORMATS[kind](path)
    seen: set[str] = set()
    for question in questions:
        if not question.text.strip() or not question.images:
            raise DataError(f"{path}: question {question.id} has no text or no image")
        if question.id in seen:
            raise DataError(f"{path}: question {question.id} occurs twice")
        seen.add(question.id)
    if not questions:
        raise DataError(f"{path}: no questions")
    return questions


def read_benchmarks(settings: Mapping[str, BenchmarkFiles], root: Path) -> list[Benchmark]:
    """Return a preset's benchmarks; those whose file of questions is not below `root` are left out.

    Raises what `read_benchmark` raises.
    """
    found = []
    for name, files in settings.items():
        path = root / files.questions
        if path.is_file():
            questions = read_benchmark(path, files.format)
            images = root / files.images
            found.append(Benchmark(name, files.format, questions, images, sha256(path)))
    return found


def benchmarks_for(
    models: Sequence[str], settings: Mapping[str, BenchmarkFiles], root: Path
) -> list[Benchmark]:
    """Return the benchmarks on disk; raises `DataError` if there is none to ask the models."""
    found = read_benchmarks(settings, root)
    if models and not found:
        places = ", ".join(str(root / files.questions) for files in settings.values())
        raise DataError(
            f"no benchmark for {', '.join(models)}: there is no {places or 'benchmark named'}; "
            "fetch one (docs/evaluation.md), or set models and endpoints to []"
        )
    return found


def _known(path: Path, name: str, found: list[str], known: tuple[str, ...]) -> tuple[str, ...]:
    strange = sorted(set(found) - set(known))
    if strange or not found:
        raise DataError(
            f"{path}: question {name}: {', '.join(strange) or 'nothing'} is not one of "
            f"{', '.join(known)}"
        )
    return tuple(found)


def _decoded(path: Path, kind: type) -> dict:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error


def _decoded_lines(path: Path, kind: type) -> list:
    try:
        found: list = msgspec.json.Decoder(kind).decode_lines(path.read_bytes())
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _damaged(path, error) from error
    if not found:
        raise _damaged(path, "no question in it")
    return found


def _damaged(path: Path, error: Exception | str) -> DataError:
    reason = "the file is empty" if is_blank(path) else error
    return DataError(f"{path}: {reason}; fetch the benchmark again (docs/evaluation.md)")
