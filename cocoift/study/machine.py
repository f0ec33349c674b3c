"""What this machine is, how fast it is, and so how long a run will take on it."""

import os
import platform
import subprocess
from pathlib import Path
from time import perf_counter

import msgspec

from cocoift.core.files import read_json
from cocoift.core.progress import duration

_NO_GPU = "no GPU"
_SIDE = 1024


def device() -> str:
    """Name the processor, its cores and the GPU, if `nvidia-smi` finds one."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
        gpu = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        gpu = _NO_GPU
    return f"{platform.machine()}, {os.cpu_count()} cores, {gpu}"


def speed(seconds: float = 1.0) -> float:
    """Return how fast this machine multiplies matrices, in float32 GFLOP/s.

    Measured on all cores for about `seconds`.  Training times scale with it.
    """
    import numpy as np

    square = np.ones((_SIDE, _SIDE), np.float32)
    _ = square @ square  # starts the threads
    begun, products = perf_counter(), 0
    while (taken := perf_counter() - begun) < seconds:
        _ = square @ square
        products += 1
    return 2 * _SIDE**3 * products / taken / 1e9


class _Facts(msgspec.Struct):
    """What a forecast reads of `run.json`; an earlier version's may lack some of it."""

    speed: float | None = None
    device: str = ""
    seconds: dict[str, float] = {}


def forecast(reports: Path) -> str:
    """Say how long a whole run into a report folder will take here; nothing where it is unknown.

    It scales the run whose `run.json` is in the folder, committed or this machine's own.
    """
    path = reports / "run.json"
    fix = "delete it and run the study again"
    facts = read_json(path, _Facts, fix=fix) if path.is_file() else _Facts()
    there, seconds = facts.speed, sum(facts.seconds.values())
    here, known = device(), facts.device
    alike = here == known or (here.endswith(_NO_GPU) and known.endswith(_NO_GPU))
    if not (there and seconds and alike):
        return ""
    ratio = there / speed()
    return (
        f"about {duration(seconds * ratio)} if every notebook has to run (an earlier run took "
        f"{duration(seconds)} on a machine {ratio:.1f} times as fast; "
        "if it resumed another, expect more)"
    )
