"""Evaluation: models x protocols x benchmarks to rollouts, and rollouts to one verdict table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any
from typing import Protocol as Typing

import pandas as pd
from tqdm.auto import tqdm

from cocoift.core.files import DataError, digest, sha256
from cocoift.core.parallel import ordered
from cocoift.evaluation import judge_api
from cocoift.evaluation.benchmarks import Question, read_benchmark
from cocoift.evaluation.candidates import Candidate, LocalModels, local_candidates
from cocoift.evaluation.endpoint import Endpoint
from cocoift.evaluation.judge_api import JudgeSettings
from cocoift.evaluation.judges import Claims, Verdict, reference_verdict
from cocoift.evaluation.protocols import AFTER, ALONE, Protocol
from cocoift.evaluation.rollout import Rollout, roll_out
from cocoift.tuning.model import release, use_threads


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk: its questions, the format they came in, and its image folder."""

    name: str
    kind: str
    questions: list[Question]
    images: Path
    digest: str


@dataclass(frozen=True)
class Asked:
    """One local model and the protocols under which it is asked."""

    local: LocalModels
    name: str
    protocols: Sequence[Protocol]


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
        told = [(by_id[r.question_id], r.answer) for r in self.rollouts if r.answer is not None]
        return [question for question, _ in told], [answer for _, answer in told]


class Judge(Typing):
    """Gives each answer its verdicts; `repeated` ones where the judge is asked several times."""

    def __call__(
        self,
        benchmark: Benchmark,
        questions: Sequence[Question],
        answers: Sequence[str],
        *,
        repeated: bool = True,
    ) -> list[list[Verdict]]:
        """Return the verdicts of every answer, in order."""


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


def benchmarks_to_ask(
    settings: Mapping[str, Mapping[str, str]], root: Path, models: Sequence[str]
) -> list[Benchmark]:
    """Return the benchmarks on disk; raises `DataError` where models are to be asked none."""
    found = read_benchmarks(settings, root)
    if models and not found:
        places = ", ".join(str(root / entry["questions"]) for entry in settings.values())
        raise DataError(
            f"no benchmark to ask {', '.join(models)}: there is no {places or 'benchmark named'}; "
            "fetch one (README, Evaluation), or set models and endpoints to []"
        )
    return found


def whole_bill(
    judges: Mapping[str, JudgeSettings],
    benchmarks: Sequence[Benchmark],
    protocols: Sequence[str],
    *,
    models: int,
) -> float:
    """Estimate what judging a whole run costs, before anything is trained or asked.

    `models` counts models and seeds.  Answers are taken to be as long as the right ones, at least
    100 tokens.  Raises `DataError` when that exceeds what one of the judges may cost.
    """
    cost = 0.0
    for benchmark in (one for one in benchmarks if one.kind in judges):
        judge = judges[benchmark.kind]
        rounds = sum(judge.under(name).repeats for name in protocols)
        cost += models * rounds * judge_api.cost_of_a_run(judge, benchmark.questions)
    limit = min((judge.max_cost for judge in judges.values()), default=cost)
    if cost > limit:
        raise DataError(
            f"judging the whole run costs about {cost:.0f}, max_cost is {limit:.0f}; raise it, or "
            "lower judge.repeats, or ask fewer models or protocols"
        )
    return cost


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
            file = folder / benchmark.name / name
            rollouts = roll_out(
                benchmark.questions,
                protocol,
                candidate.answer,
                file=file,
                key=digest([candidate.key, benchmark.digest, asdict(protocol)]),
                model=f"{candidate.name}-{candidate.seed}",
                image_root=benchmark.images,
            )
            names = candidate.name, candidate.seed, protocol.name
            runs.append(Run(benchmark, *names, rollouts, file))
    return runs


def evaluate_local(
    asked: Sequence[Asked], benchmarks: Sequence[Benchmark], *, folder: Path, processes: int = 1
) -> list[Run]:
    """Roll local models out on every benchmark, in the order given; files go below `folder`.

    With several `processes` each asks one model with one thread: that is faster for small models,
    and answers do not depend on the number of cores.  A GPU holds one base, so take one there.
    """
    if processes == 1:
        # The models of one seed share a base; one base is in memory at a time.
        by_seed = groupby(asked, key=lambda one: (one.local.base, one.local.seed))
        groups = [list(group) for _, group in by_seed]
    else:
        groups = [[one] for one in asked]
    tasks = [_Task(group, benchmarks, folder, processes > 1) for group in groups]
    made = ordered(_evaluate_together, tasks, processes=processes)
    bar = tqdm(made, total=len(tasks), desc="models", leave=False, disable=processes == 1)
    return [run for runs in bar for run in runs]


@dataclass(frozen=True)
class _Task:
    """Models of one base to be asked by one process."""

    asked: Sequence[Asked]
    benchmarks: Sequence[Benchmark]
    folder: Path
    one_thread: bool


def _evaluate_together(task: _Task) -> list[Run]:
    if task.one_thread:
        use_threads(1)
    protocols = {one.name: one.protocols for one in task.asked}
    runs = []
    for candidate in local_candidates(task.asked[0].local, list(protocols)):
        own = protocols[candidate.name]
        runs += evaluate(candidate, task.benchmarks, own, folder=task.folder)
    del candidate  # the next base is loaded when this one is gone
    release()
    return runs


def reference_judge(
    claims: Callable[[str, str], Claims | None] | None = None,
) -> Judge:
    """Return the offline judge; `claims(image, answer)` counts right and wrong statements."""

    def judge(
        benchmark: Benchmark,
        questions: Sequence[Question],
        answers: Sequence[str],
        *,
        repeated: bool = True,
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
        benchmark: Benchmark,
        questions: Sequence[Question],
        answers: Sequence[str],
        *,
        repeated: bool = True,
    ) -> list[list[Verdict]]:
        if benchmark.kind not in per_kind:
            raise DataError(f"judge: no prompt for benchmarks of format {benchmark.kind}")
        own = per_kind[benchmark.kind]
        own = own if repeated else replace(own, repeats=1)
        return judge_api.judge(own, questions, answers, cache=cache)

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
        verdicts = judge(run.benchmark, questions, answers, repeated=run.protocol in (ALONE, AFTER))
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
