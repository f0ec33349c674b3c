"""Run as IPython's start-up file: fail a kernel at the first bfloat16 tensor that torch makes.

At its end a kernel leaves a file that says how many operations were watched, in the folder that
WATCHED_OPERATIONS names.
"""

import atexit
import os
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoBfloat16(TorchDispatchMode):
    """Raise `AssertionError` for an operation that gives a bfloat16 tensor; count the others."""

    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bfloat16:
                raise AssertionError(f"{function} makes a bfloat16 tensor on a CPU")
        self.operations += 1
        return made


def watch(folder: Path) -> None:
    """Watch this process to its end, and then say in a file how many operations there were."""
    mode = NoBfloat16()
    mode.__enter__()
    atexit.register(lambda: (folder / str(os.getpid())).write_text(str(mode.operations)))


if "WATCHED_OPERATIONS" in os.environ:
    watch(Path(os.environ["WATCHED_OPERATIONS"]))
