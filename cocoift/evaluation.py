"""Evaluation: models x protocols x benchmarks to rollouts, and rollouts to one verdict table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import pandas as pd

from cocoift import judge_api
from cocoift.benchmarks import Question, read_benchmark
from cocoift.endpoint import Endpoint
from cocoift.files import DataError, digest, sha256
from cocoift.judge import Claims, Verdict, reference_verdict
from cocoift.judge_api import JudgeSettings
from cocoift.model import Device, load_adapters, load_model, load_processor, using
from cocoift.protocols import Answerer, Ask, Protocol
from cocoift.rollout import Rollout, endpoint_answers, local_answers, local_margins, roll_out
from cocoift.train import training_log
from cocoift.tuning import weights_digest

P = ParamSpec("P")
T = TypeVar("T")

# Rollouts of code that answers differently are not reused; raise it with such a change.
_VERSION = 1


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk: its questions, the format they came in, and its image folder."""

    name: str
    kind: str
    questions: list[Question]
    images: Path
    digest: str


# Questions and two answers for each to how much likelier the first one begins, in nats.
Margins = Callable[[Sequence[Ask], Sequence[tuple[str, str]]], list[float]]


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate: how to ask it, and a digest of what its answers depend on.

    `margins` compares how two answers to each question begin (`generation.margins`); a model
    behind an endpoint has none.
    """

    name: str
    seed: int
    answer: Answerer
    key: str
    margins: Margins | None = None


@dataclass(frozen=True)
class Run:
    """All dialogs of one model under one protocol on one benchmark."""

    benchmark: Benchmark
    model: str
    seed: int
    protocol: str
    rollouts: list[Rollout]

    def answered(self) -> tuple[list[Question], list[str]]:
        """Return the questions that got an answer, and the answers, in the rollouts' order."""
        by_id = {question.id: question for question in self.benchmark.questions}
        told = [(by_id[r.question_id], r.answer) for r in self.rollouts if r.answer is not None]
        return [question for question, _ in told], [answer for _, answer in told]


Judge = Callable[[Benchmark, Sequence[Question], Sequence[str]], list[list[Verdict]]]


def read_benchmarks(settings: Mapping[str, Mapping[str, str]], root: Path) -> list[Benchmark]:
    """Return the benchmarks a preset names: `{name: {format, questions, images}}`, below `root`.

    Those whose question file is not there are left out; raises `DataError` for a damaged one.
    """
    found = []
    for name, entry in settings.items():
        path = root / entry["questions"]
        if path.is_file():
            questions = read_benchmark(path, entry["format"])
            images = root / entry["images"]
            found.append(Benchmark(name, entry["format"], questions, images, sha256(path)))
    return found


def endpoint_candidates(
    settings: Sequence[Mapping[str, Any]], *, system: str, new_tokens: int
) -> Iterator[Candidate]:
    """Yield the models behind endpoints that a preset names: `{name, base_url, model, ...}`."""
    for entry in settings:
        values = dict(entry)
        name = values.pop("name")
        endpoint = Endpoint(**values)
        key = digest([endpoint.base_url, endpoint.model, system, new_tokens])
        answer = endpoint_answers(endpoint, system=system, new_tokens=new_tokens)
        yield Candidate(name, 0, answer, key)


def local_candidates(
    base: str,
    adapters: Mapping[str, Path],
    *,
    models: Sequence[str],
    seed: int,
    device: Device,
    system: str,
    new_tokens: int,
    batch: int = 64,
) -> Iterator[Candidate]:
    """Yield the models of one seed: `base` untuned, the others by adapter, on one loaded base.

    The base is loaded as it was when the adapters were trained, in four bits without any.
    Raises `DataError` when an adapter is not there.
    """
    wanted = {name: folder for name, folder in adapters.items() if name in models}
    recipes = [training_log(folder)["recipe"] for folder in wanted.values()]
    four_bit = all(recipe["four_bit"] for recipe in recipes)
    processor = load_processor(base)
    loaded = load_model(base, four_bit=four_bit, device=device)
    tuned = load_adapters(loaded, wanted) if wanted else None
    weights = weights_digest(base)
    for name in models:
        shared = tuned if tuned is not None else loaded
        ask = local_answers(shared, processor, system=system, new_tokens=new_tokens, batch=batch)
        compare = local_margins(shared, processor, system=system, batch=batch)
        own = None if name == "base" else sha256(wanted[name] / "adapter_model.safetensors")
        key = digest([_VERSION, weights, own, four_bit, device, system, new_tokens])
        if tuned is not None:
            adapter = None if name == "base" else name
            ask, compare = _switched(tuned, adapter, ask), _switched(tuned, adapter, compare)
        yield Candidate(name, seed, ask, key, compare)


def _switched(
    model: Any, adapter: str | None, work: Callable[P, Iterable[T]]
) -> Callable[P, list[T]]:
    """Return `work` as done with one of the model's adapters in use (`None`: without any)."""

    def switched(*args: P.args, **kwargs: P.kwargs) -> list[T]:
        with using(model, adapter):
            return list(work(*args, **kwargs))

    return switched


def evaluate(
    candidate: Candidate,
    benchmarks: Sequence[Benchmark],
    protocols: Sequence[Protocol],
    *,
    folder: Path,
) -> list[Run]:
    """Roll a model out on every benchmark under every protocol; files go below `folder`."""
    runs = []
    for benchmark in benchmarks:
        for protocol in protocols:
            name = f"{candidate.name}-{candidate.seed}-{protocol.name}.jsonl"
            rollouts = roll_out(
                benchmark.questions,
                protocol,
                candidate.answer,
                file=folder / benchmark.name / name,
                key=digest([candidate.key, benchmark.digest, asdict(protocol)]),
                model=f"{candidate.name}-{candidate.seed}",
                image_root=benchmark.images,
            )
            runs.append(Run(benchmark, candidate.name, candidate.seed, protocol.name, rollouts))
    return runs


def reference_judge(
    claims: Callable[[str, str], Claims | None] | None = None,
) -> Judge:
    """Return the offline judge; `claims(image, answer)` counts right and wrong statements."""

    def judge(
        benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[str]
    ) -> list[list[Verdict]]:
        verdicts = []
        for question, answer in zip(questions, answers, strict=True):
            # Statements about several pictures cannot be told apart.
            alone = claims is not None and len(question.images) == 1
            found = claims(question.images[0], answer) if alone else None
            verdicts.append([reference_verdict(question, answer, claims=found)])
        return verdicts

    return judge


def openai_judge(
    settings: Mapping[str, Any], *, root: Path, cache: Path
) -> tuple[dict[str, JudgeSettings], Judge]:
    """Return the judge behind an endpoint, and its settings per format of benchmark.

    `settings` holds `base_url` and `model` of the endpoint, `prompts` (a text file below `root`
    per format), and what `JudgeSettings` takes.
    Raises `DataError` when no prompt is named for a benchmark.
    """
    values = {name: value for name, value in settings.items() if name not in ("kind", "prompts")}
    ours = {name: values.pop(name) for name in ("temperature", "repeats", "attempts", "prices",
                                                "max_cost") if name in values}  # fmt: skip
    if "prices" in ours:
        ours["prices"] = tuple(ours["prices"])
    per_kind = {
        kind: JudgeSettings(endpoint=Endpoint(**values), prompt=read_prompt(root / path), **ours)
        for kind, path in settings["prompts"].items()
    }

    def judged(
        benchmark: Benchmark, questions: Sequence[Question], answers: Sequence[str]
    ) -> list[list[Verdict]]:
        if benchmark.kind not in per_kind:
            raise DataError(f"judge: no prompt for benchmarks of format {benchmark.kind}")
        return judge_api.judge(per_kind[benchmark.kind], questions, answers, cache=cache)

    return per_kind, judged


def read_prompt(path: Path) -> str:
    """Return a judge's prompt; raises `DataError` when the file is missing or empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"judge prompt {path}: {error}; name a text file") from error
    if not text.strip():
        raise DataError(f"judge prompt {path} is empty")
    return text


def verdict_table(runs: Sequence[Run], judge: Judge) -> pd.DataFrame:
    """Judge every answer; return one row per answer and judge repeat.

    Columns: benchmark, model, seed, protocol, question_id, image, question, opening_reply,
    answer, words, score, reason, repeat.  Dialogs that failed have no score and say why.
    """
    rows = []
    for run in runs:
        by_id = {question.id: question for question in run.benchmark.questions}
        questions, answers = run.answered()
        verdicts = judge(run.benchmark, questions, answers)
        judged = dict(zip((question.id for question in questions), verdicts, strict=True))
        for one in run.rollouts:
            for verdict in judged.get(one.question_id, [Verdict(None, one.failure)]):
                rows.append(_row(run, one, by_id[one.question_id], verdict))
    return pd.DataFrame(rows)


def _row(run: Run, one: Rollout, question: Question, verdict: Verdict) -> dict[str, Any]:
    opening = one.rounds[-2].answer if len(one.rounds) > 1 and not one.failure else ""
    return {
        "benchmark": run.benchmark.name,
        "model": run.model,
        "seed": run.seed,
        "protocol": run.protocol,
        "question_id": one.question_id,
        "image": question.images[0],
        "wording": question.wording,
        "question": question.text,
        "opening_reply": opening,
        "answer": one.answer,
        "words": None if one.answer is None else len(one.answer.split()),
        "score": verdict.score,
        "reason": verdict.reason,
        "repeat": verdict.repeat,
    }
