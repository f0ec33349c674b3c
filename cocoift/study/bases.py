"""The bases that notebook 00 makes of parts: assembled and aligned."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from msgspec import structs

from cocoift.core.files import DataError, digest, holds, write_text
from cocoift.study.study import Study
from cocoift.tuning.recipe import Assembly, Training

# Modules that load torch are imported by the functions that need them.
if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

    from cocoift.tuning.assembly import Parts

_STAGE_ONE = "stage_one"


def align_base(study: Study) -> Training | None:
    """Assemble the preset's base and train its projector; return that training.

    Its log is in `training.adapter`.  `None` where the preset assembles none.  Raises `DataError`
    when a part or a source of stage one is absent.
    """
    if study.preset.assembly is None:
        return None
    import torch

    from cocoift.tuning.assembly import assemble
    from cocoift.tuning.train import align

    folder = study.work / _STAGE_ONE
    fresh = folder / "base"
    made = digest([structs.asdict(study.preset.assembly), asdict(study.chat)])
    stamp = fresh / "parts.txt"
    if not holds(stamp, made):
        parts = _parts(study.preset.assembly, folder, study.root)
        assemble(fresh, parts, chat=study.chat, dtype=torch.float32)
        write_text(stamp, made)
    training = _stage_one(study, study.preset.assembly, fresh)
    align(training, Path(study.base(training.seed)))
    return training


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


def _stage_one(study: Study, assembly: Assembly, fresh: Path) -> Training:
    """Return the training of the projector, on a mixture of its sources written for it."""
    from cocoift.merge.export import export_mixture
    from cocoift.merge.layouts import MERGED
    from cocoift.merge.partitioned import merge_tables
    from cocoift.study.steps import merge_inputs
    from cocoift.tuning.data import count_records, split_images

    folder, preset = study.work / _STAGE_ONE, study.preset
    tables = [study.turn_tables / f"{name}.parquet" for name in assembly.sources]
    absent = [table.stem for table in tables if not table.is_file()]
    if absent:
        raise DataError(
            f"stage one trains on {', '.join(absent)}, which is not on disk; fetch it "
            "(`cocoift download`) or name other sources in assembly.sources"
        )
    inputs = replace(merge_inputs(study), tokenizer_file=str(fresh / "tokenizer.json"))
    turns, mixture = folder / "turns.parquet", folder / "captions.json"
    merge_tables(tables, out=turns, inputs=inputs, runner=preset.runner)
    export_mixture(turns, folder, name=mixture.stem, layout=MERGED, budget=preset.merge.budget)
    split = split_images(mixture, held_out=preset.held_out_images, train=assembly.images)
    recipe = assembly.recipe.tuning()
    return Training(
        mixture=mixture,
        images=split.train,
        image_root=study.images,
        checkpoint=str(fresh),
        adapter=folder / "projector",
        steps=recipe.steps(count_records(mixture, split.train)),
        seed=preset.seeds[0],
        recipe=recipe,
        image_tokens=preset.merge.image_tokens,
        context_tokens=preset.merge.context_tokens,
        chat=study.chat,
        device=study.device,
        forms=study.forms(),
    )
