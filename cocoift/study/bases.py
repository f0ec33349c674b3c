"""The bases that notebook 00 makes of parts: assembled and aligned."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from msgspec import structs

from cocoift.core.files import DataError, digest, holds, replacing_folder, sha256, write_text
from cocoift.sources.base import Drop
from cocoift.sources.dialogs import whole_records
from cocoift.study.study import Study
from cocoift.tuning.recipe import Assembly, Training

# Modules that load torch are imported by the functions that need them.
if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from cocoift.tuning.assembly import Parts

_STAGE_ONE = "stage_one"
# Raise it when stage one's code changes its results: what was shipped before is then not used.
_VERSION = 1
# What is noted beside a shipped stage one.
_BUILT = "built.json"


@dataclass(frozen=True)
class StageOne:
    """What stage one trained on, or would have: its base was `shipped` if that was at hand.

    `dropped` counts conversations of the preset's file that cannot train, by reason.
    """

    training: Training
    shipped: bool
    dropped: Mapping[str, int]


def align_base(study: Study) -> StageOne | None:
    """Assemble the preset's base and teach it to see, or merge what a shipped stage one learnt.

    The log of a training is in `training.adapter`.  `None` where the preset assembles none.  Raises
    `DataError` when a part or the data of stage one is absent.
    """
    assembly = study.preset.assembly
    if assembly is None:
        return None
    from cocoift.tuning.train import align

    training, dropped = _stage_one(study, assembly)
    shipped = study.root / assembly.shipped if assembly.shipped else None
    if shipped and not holds(shipped / _BUILT, _built(study, assembly, training)):
        shipped = None
    align(training, Path(study.base(training.seed)), shipped=shipped)
    return StageOne(training, shipped is not None, dropped)


def ship(study: Study, folder: Path) -> Path:
    """Train the preset's stage one and write what it learnt to `folder`, for `Assembly.shipped`.

    Adapter and projector in float16, with what they depend on beside them.  Raises `DataError` as
    `align_base` does, and where the preset assembles no base.
    """
    assembly = study.preset.assembly
    if assembly is None:
        raise DataError(f"preset {study.preset.name} assembles no base, so it has no stage one")
    from safetensors.torch import load_file, save_file

    from cocoift.tuning.checkpoints import WEIGHTS
    from cocoift.tuning.train import train

    training, _ = _stage_one(study, assembly)
    adapter = train(training)
    halved = {name: tensor.half() for name, tensor in load_file(adapter / WEIGHTS).items()}
    with replacing_folder(folder) as unfinished:
        unfinished.mkdir()
        save_file(halved, unfinished / WEIGHTS, metadata={"format": "pt"})
        shutil.copy(adapter / "adapter_config.json", unfinished)
        write_text(unfinished / _BUILT, _built(study, assembly, training))
    return folder


def _built(study: Study, assembly: Assembly, training: Training) -> str:
    """Return what stage one's result depends on, as the text beside a shipped one.

    Not on the initial projector, which is fitted on each machine anew: it is trained further.
    """
    values = structs.asdict(assembly)
    del values["shipped"], values["language_package"]
    values |= {"steps": training.steps, "seed": training.seed, "chat": asdict(study.chat)}
    values |= {"data": sha256(training.mixture), "images": digest(training.images)}
    values |= {"tower": sha256(study.root / "data/mini_llava/model.safetensors")}
    return json.dumps(values | {"version": _VERSION}, default=structs.asdict, indent=1) + "\n"


def loaded(study: Study) -> "list[tuple[LlavaForConditionalGeneration, LlavaProcessor]]":
    """Return the bases that notebook 00 made, loaded, one for all seeds or one per seed."""
    if study.preset.tiny_llava is None and study.preset.assembly is None:
        return []
    from cocoift.tuning.model import load_model, load_processor

    names = dict.fromkeys(study.base(seed) for seed in study.preset.seeds)
    return [
        (load_model(name, four_bit=False, device=study.device), load_processor(name))
        for name in names
    ]


def alignment_losses(
    study: Study,
    training: Training,
    model: "LlavaForConditionalGeneration",
    processor: "LlavaProcessor",
) -> pd.DataFrame:
    """Return the aligned base's loss on held-out captions, shown their own image and another.

    One row per held-out image: image, shown, other; in nats per token.
    """
    from cocoift.tuning.data import split_images
    from cocoift.tuning.loss import picture_losses
    from cocoift.tuning.train import training_set

    held_out = split_images(training.mixture, held_out=study.preset.held_out_images).held_out
    data = training_set(replace(training, images=held_out), processor)
    return picture_losses(model, processor, data, training=training)


def _parts(assembly: Assembly, folder: Path, root: Path) -> "Parts":
    """Return the parts of a base, fetched or written below `folder`."""
    from cocoift.tuning.assembly import Parts
    from cocoift.tuning.fetch import fetch_language_model

    saved = folder / "language" / assembly.language.replace("/", "--")
    language = fetch_language_model(assembly.language, saved, package=assembly.language_package)
    if assembly.vision is not None:
        return Parts(language=language, vision=assembly.vision)
    from minicoco.eyes import write_tower, write_word_projector

    tiny, projector = root / "data/mini_llava", folder / "word_projector.safetensors"
    write_word_projector(tiny, projector, language=language)
    tower = write_tower(tiny, folder / "tower")
    return Parts(language=language, vision=tower, projector=projector)


def _stage_one(study: Study, assembly: Assembly) -> tuple[Training, dict[str, int]]:
    """Return the training of stage one, its base assembled, and the conversations it drops."""
    from cocoift.tuning.data import count_records, split_images

    preset, fresh = study.preset, _assembled(study, assembly)
    mixture, dropped = _data(study, assembly, fresh)
    split = split_images(mixture, held_out=preset.held_out_images, train=assembly.images)
    recipe = assembly.recipe.tuning()
    images = study.images
    if assembly.conversations:
        images = (study.raw / assembly.conversations).parent / "images"
    training = Training(
        mixture=mixture,
        images=split.train,
        image_root=images,
        checkpoint=str(fresh),
        adapter=study.work / _STAGE_ONE / "adapter",
        steps=recipe.steps(count_records(mixture, split.train)),
        seed=preset.seeds[0],
        recipe=recipe,
        image_tokens=preset.merge.image_tokens,
        context_tokens=preset.merge.context_tokens,
        chat=study.chat,
        device=study.device,
        forms=study.forms(),
    )
    return training, dropped


def _assembled(study: Study, assembly: Assembly) -> Path:
    """Return the base as its parts come, put together unless that was done before."""
    import torch

    from cocoift.tuning.assembly import assemble

    folder = study.work / _STAGE_ONE
    fresh = folder / "base"
    stamp = fresh / "parts.txt"
    made = digest([assembly.language, assembly.vision, asdict(study.chat)])
    if not holds(stamp, made):
        parts = _parts(assembly, folder, study.root)
        assemble(fresh, parts, chat=study.chat, dtype=torch.float32)
        write_text(stamp, made)
    return fresh


def _data(study: Study, assembly: Assembly, fresh: Path) -> tuple[Path, dict[str, int]]:
    """Return the mixture that stage one trains on, and what was dropped of it, by reason."""
    from cocoift.merge.export import export_mixture, write_mixture
    from cocoift.merge.layouts import MERGED
    from cocoift.merge.partitioned import merge_tables
    from cocoift.study.steps import merge_inputs

    folder, dropped = study.work / _STAGE_ONE, Counter[str]()
    if assembly.conversations:
        records = []
        for found in whole_records(study.raw / assembly.conversations, source=_STAGE_ONE):
            if isinstance(found, Drop):
                dropped[found.reason] += found.turns
            else:
                records.append(found)
        write_mixture(records, folder, name="conversations")
        return folder / "conversations.json", dict(dropped)
    tables = [study.turn_tables / f"{name}.parquet" for name in assembly.sources]
    absent = [table.stem for table in tables if not table.is_file()]
    if absent:
        raise DataError(
            f"stage one trains on {', '.join(absent)}, which is not on disk; fetch it "
            "(`cocoift download`) or name other sources in assembly.sources"
        )
    inputs = replace(merge_inputs(study), tokenizer_file=str(fresh / "tokenizer.json"))
    turns, mixture = folder / "turns.parquet", folder / "captions.json"
    merge_tables(tables, out=turns, inputs=inputs, runner=study.preset.runner)
    budget = study.preset.merge.budget
    export_mixture(turns, folder, name=mixture.stem, layout=MERGED, budget=budget)
    return mixture, {}


if __name__ == "__main__":
    from cocoift.study import open_study
    from cocoift.study.steps import draw_world

    try:
        opened = open_study(sys.argv[1])
        draw_world(opened)
        print(ship(opened, Path(sys.argv[2])))
    except IndexError:
        sys.exit("name preset and folder, e.g. python -m cocoift.study.bases smol data/smol_sees")
    except DataError as error:
        sys.exit(f"error: {error}")
