"""One function over many tasks: on the cores of this machine or on a Ray cluster."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Literal, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = TypeVar("Work")
Runner = Literal["native", "ray"]


def ordered(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    runner: Runner = "native",
    processes: int | None = None,
) -> Iterator[Result]:
    """Yield `function(task)` for every task, in order, several at once.

    `native` runs in `processes` of this machine (default: `cores()`; a single task runs in this
    process), `ray` on the cluster that `RAY_ADDRESS` names, or on one started here.  Function,
    tasks and results travel by pickle; only a few results wait in memory at a time.  Raises what
    the function raises, for the first task in order that fails; the others are then given up.
    """
    if runner == "ray":
        return _on_ray(function, tasks)
    processes = min(len(tasks), processes or cores())
    return _on_cores(function, tasks, processes) if processes > 1 else map(function, tasks)


def cores() -> int:
    """Return how many cores this process may use, which can be fewer than the machine has."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _on_cores(
    function: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Iterator[Result]:
    with ProcessPoolExecutor(processes, mp_context=_context(function.__module__)) as pool:
        begun = (pool.submit(function, task) for task in tasks)
        try:
            for future in _ahead(begun, 2 * processes):
                yield future.result()
        except BaseException:
            stop(pool)
            raise


def _ahead(begun: Iterator[Work], count: int) -> Iterator[Work]:
    """Yield work in order, submitted up to `count` pieces ahead of the one awaited."""
    waiting: deque[Work] = deque()
    for work in begun:
        waiting.append(work)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _context(module: str) -> multiprocessing.context.BaseContext:
    """Return how processes start: from a server without threads that has imported the module.

    A plain fork would inherit the locks of Arrow's threads; a spawned process imports everything
    again.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def stop(pool: ProcessPoolExecutor) -> None:
    """End a pool at once, without waiting for what its processes are doing."""
    for worker in list((pool._processes or {}).values()):
        worker.terminate()
    pool.shutdown(cancel_futures=True)


def _on_ray(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    import ray

    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    remote = ray.remote(function)
    cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
    for reference in _ahead((remote.remote(task) for task in tasks), 2 * cores):
        yield ray.get(reference)
