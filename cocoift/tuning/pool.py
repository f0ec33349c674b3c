"""Several trainings side by side on the cores of one machine."""

import multiprocessing
from collections.abc import Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from cocoift.core.parallel import stop
from cocoift.tuning.model import use_threads
from cocoift.tuning.recipe import Training
from cocoift.tuning.train import is_trained, train

Key = TypeVar("Key", bound=Hashable)


def train_all(trainings: Mapping[Key, Training], *, processes: int = 1) -> dict[Key, Path]:
    """Train adapters and return their folders, under the same keys and in the same order.

    With several `processes` each computes with one thread, with more only if there are fewer
    trainings than processes: small models gain more from two trainings at once than from two
    threads, and results do not depend on the number of cores.  A GPU holds one training, so take
    one process there.  What is finished is kept; an interrupted run goes on.  Raises what
    `cocoift.tuning.train.train` raises, for the first training that fails.
    """
    if processes == 1:
        return {key: train(training) for key, training in trainings.items()}
    found = {key: training.adapter for key, training in trainings.items() if is_trained(training)}
    todo = {key: training for key, training in trainings.items() if key not in found}
    if not todo:
        return found
    spawn = multiprocessing.get_context("spawn")
    threads = max(1, processes // len(trainings))
    with ProcessPoolExecutor(
        min(processes, len(todo)), mp_context=spawn, initializer=use_threads, initargs=(threads,)
    ) as pool:
        try:
            waiting = {pool.submit(train, one, show_progress=False): k for k, one in todo.items()}
            for done in tqdm(
                as_completed(waiting), total=len(waiting), unit=" trainings", leave=False
            ):
                found[waiting[done]] = done.result()
        except BaseException:
            stop(pool)
            raise
    return {key: found[key] for key in trainings}
