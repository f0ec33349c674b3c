"""Evaluation: models x protocols x benchmarks to rollouts."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from cocoift.core.bars import tqdm
from cocoift.core.files import digest
from cocoift.core.parallel import ordered
from cocoift.evaluation.benchmarks import Benchmark
from cocoift.evaluation.candidates import Candidate, LocalModels, local_candidates
from cocoift.evaluation.protocols import Protocol
from cocoift.evaluation.rollout import Head, Run, roll_out
from cocoift.tuning.model import release, use_threads


@dataclass(frozen=True)
class LocalRun:
    """One local model and the protocols under which it is asked."""

    local: LocalModels
    name: str
    protocols: Sequence[Protocol]


def evaluate(
    candidate: Candidate,
    benchmarks: Sequence[Benchmark],
    protocols: Sequence[Protocol],
    *,
    folder: Path,
) -> list[Run]:
    """Roll a model out on every benchmark under every protocol; files go below `folder`.

    A protocol whose replies are about another benchmark's images is left out.  A model that is
    the same for several seeds, a base model, is asked once.
    """
    runs = []
    for benchmark in benchmarks:
        for protocol in (each for each in protocols if each.fits(benchmark)):
            file, head = rollout_place(candidate, benchmark, protocol, folder=folder)
            rollouts = roll_out(
                benchmark.questions,
                protocol,
                candidate.answer,
                file=file,
                head=head,
                image_root=benchmark.images,
            )
            names = candidate.name, candidate.seed, protocol.name
            runs.append(Run(benchmark, *names, rollouts, file))
    return runs


def rollout_place(
    candidate: Candidate, benchmark: Benchmark, protocol: Protocol, *, folder: Path
) -> tuple[Path, Head]:
    """Return where a model's dialogs on a benchmark are kept, and the head of that file."""
    name = f"{candidate.name}-{candidate.seed}"
    key = digest([candidate.key, benchmark.digest, asdict(protocol)])
    file = folder / benchmark.name / f"{name}-{protocol.name}.jsonl"
    return file, Head(key, name, protocol.name)


def evaluate_local(
    asked: Sequence[LocalRun], benchmarks: Sequence[Benchmark], *, folder: Path, processes: int = 1
) -> list[Run]:
    """Roll local models out on every benchmark, in the order given; files go below `folder`.

    With several `processes` each asks one model with one thread: that is faster for small models,
    and answers do not depend on the number of cores.  A GPU holds one base, so take one there.
    """
    if processes == 1:
        # The models of one seed share a base; one base is in memory at a time.
        by_seed = groupby(asked, key=lambda run: (run.local.base, run.local.seed))
        groups = [list(group) for _, group in by_seed]
    else:
        groups = [[run] for run in asked]
    tasks = [_Task(group, benchmarks, folder, processes > 1) for group in groups]
    # Bases after the first come last: the answers of a base that seeds share are on disk by then.
    bases = [n for n, group in enumerate(groups) if [run.name for run in group] == ["base"]]
    order = sorted(range(len(tasks)), key=lambda number: number in bases[1:])
    made = ordered(_evaluate_together, [tasks[number] for number in order], processes=processes)
    bar = tqdm(made, total=len(tasks), desc="models", leave=False, disable=processes == 1)
    found = dict(zip(order, bar, strict=True))
    return [run for number in range(len(tasks)) for run in found[number]]


@dataclass(frozen=True)
class _Task:
    """Models of one base to be asked by one process."""

    asked: Sequence[LocalRun]
    benchmarks: Sequence[Benchmark]
    folder: Path
    one_thread: bool


def _evaluate_together(task: _Task) -> list[Run]:
    if task.one_thread:
        use_threads(1)
    protocols = {run.name: run.protocols for run in task.asked}
    runs = []
    for candidate in local_candidates(task.asked[0].local, list(protocols)):
        put = protocols[candidate.name]
        runs += evaluate(candidate, task.benchmarks, put, folder=task.folder)
    del candidate  # the next base is loaded when this one is gone
    release()
    return runs
