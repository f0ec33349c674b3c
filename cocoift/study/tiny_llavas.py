"""The tiny LLaVAs of mini: a base for every seed, built side by side."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import structs

from cocoift.core.files import DataError
from cocoift.core.parallel import ordered
from cocoift.study.study import Study

if TYPE_CHECKING:
    from minicoco import Recipe


def build_tiny_llavas(study: Study) -> dict[int, dict[str, float]]:
    """Build or copy each seed's tiny LLaVA; return their final losses by seed.

    Nothing where the preset tunes another base.
    """
    recipe = study.preset.tiny_llava
    if recipe is None:
        return {}
    return _built(study, recipe, {seed: Path(study.base(seed)) for seed in study.preset.seeds})


def build_several(study: Study, seeds: Iterable[int]) -> dict[int, Path]:
    """Build seeds' tiny LLaVAs whose pretraining conversations have several rounds.

    Returns their folders by seed; one that is there and was built by the same recipe is kept.
    Raises `DataError` where the preset tunes another base.
    """
    recipe = study.preset.tiny_llava
    if recipe is None:
        raise DataError(
            "the ablation `pretraining` builds mini's base; take it out of ablations.run"
        )
    folders = {seed: study.work / f"several-{seed}" for seed in seeds}
    _built(study, structs.replace(recipe, rounds="several"), folders)
    return folders


def _built(
    study: Study, recipe: "Recipe", folders: Mapping[int, Path]
) -> dict[int, dict[str, float]]:
    """Build a recipe with every seed, side by side; return final losses by seed."""
    tasks = [(folder, structs.replace(recipe, seed=seed)) for seed, folder in folders.items()]
    processes = study.preset.processes
    alone = min(processes, len(tasks)) == 1
    build = partial(_build, shipped=study.root / "data/mini_llava", alone=alone)
    return dict(zip(folders, ordered(build, tasks, processes=processes), strict=True))


def _build(task: "tuple[Path, Recipe]", *, shipped: Path, alone: bool) -> dict[str, float]:
    from cocoift.tuning.model import use_threads
    from minicoco.llava import build_tiny_llava

    if not alone:
        use_threads(1)
    folder, recipe = task
    return build_tiny_llava(folder, recipe, shipped=shipped)
