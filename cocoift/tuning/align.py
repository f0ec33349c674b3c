"""Stage one: a base's projector learns to map image features into the language model's embeddings.

As in LLaVA's first stage, on captions and short questions: the projector trains alone, language
model and tower stay as they are.
"""

from pathlib import Path

import torch

from cocoift.core.files import holds, write_text
from cocoift.tuning.checkpoints import export
from cocoift.tuning.recipe import Training
from cocoift.tuning.train import train

# The training that a base's projector comes from, in the base's folder.
_STAMP = "aligned.txt"


def align(training: Training, out: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Train the projector of `training.checkpoint`, and write the base with it to `out`.

    The recipe is an `AlignmentRecipe.tuning()`.  A base left by the same training is kept, an
    interrupted one resumes, and its log stays in `training.adapter`.  In float32 the base holds the
    projector bit for bit.  Raises what `train` raises.
    """
    made = f"{training.key()} {dtype}"
    stamp = out / _STAMP
    if holds(stamp, made):
        return out
    train(training)
    export(training.adapter, out, checkpoint=training.checkpoint, chat=training.chat, dtype=dtype)
    write_text(stamp, made)
    return out
