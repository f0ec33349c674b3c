"""Several trainings side by side on the cores of one machine."""

import multiprocessing
from collections.abc import Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

from cocoift.parallel import stop
from cocoift.train import train
from cocoift.tuning import Training

Key = TypeVar("Key", bound=Hashable)


def train_all(trainings: Mapping[Key, Training], *, processes: int = 1) -> dict[Key, Path]:
    """Train adapters and return their folders, under the same keys and in the same order.

    With several `processes` each computes with one thread: small models gain more from two
    trainings at once than from two threads, and results do not depend on the number of cores.  A
    GPU holds one training, so take one process there.  What is finished is kept; an interrupted
    run goes on.  Raises what `cocoift.train.train` raises, for the first training that fails.
    """
    if processes == 1:
        return {key: train(training) for key, training in trainings.items()}
    found: dict[Key, Path] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_one_thread) as pool:
        try:
            waiting = {
                pool.submit(train, one, show_progress=False): k for k, one in trainings.items()
            }
            for done in tqdm(
                as_completed(waiting), total=len(waiting), unit=" trainings", leave=False
            ):
                found[waiting[done]] = done.result()
        except BaseException:
            stop(pool)
            raise
    return {key: found[key] for key in trainings}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
