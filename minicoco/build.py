"""Build the tiny LLaVA's checkpoint, or copy the one that ships in `data/mini_llava`.

`python -m minicoco.build data/mini_llava` builds the shipped one again: the default recipe's.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from msgspec import structs

from cocoift.core.files import finish_replacing, replacing_folder, write_text
from minicoco.llava import pretrained
from minicoco.recipe import VERSION, Recipe

_BUILT = "built.json"


def build_tiny_llava(
    folder: Path, recipe: Recipe, *, shipped: Path | None = None
) -> dict[str, float]:
    """Build the checkpoint in `folder` unless it is there already; return its final losses.

    It counts as there when the recipe and its version are the same; the one in `shipped` is then
    copied instead of built.  The folder appears only when whole.
    """
    finish_replacing(folder)
    wanted = {"recipe": structs.asdict(recipe), "version": VERSION}
    for present in (folder, shipped or folder):
        losses = _losses(present, wanted)
        if losses is None:
            continue
        if present != folder:
            with replacing_folder(folder) as unfinished:
                shutil.copytree(present, unfinished)
        return losses
    model, processor, losses = pretrained(recipe)
    with replacing_folder(folder) as unfinished:
        model.half().save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        built = json.dumps({**wanted, "losses": losses}, indent=1) + "\n"
        write_text(unfinished / _BUILT, built)
    return losses


def _losses(folder: Path, wanted: dict[str, Any]) -> dict[str, float] | None:
    """Return the losses of a checkpoint if it was built from what is wanted."""
    if not (folder / _BUILT).is_file():
        return None
    present = json.loads((folder / _BUILT).read_text(encoding="utf-8"))
    same = {name: present.get(name) for name in wanted} == wanted
    return dict(present["losses"]) if same else None


if __name__ == "__main__":
    try:
        print(build_tiny_llava(Path(sys.argv[1]), Recipe()))
    except IndexError:
        sys.exit("name the folder, e.g. python -m minicoco.build data/mini_llava")
