"""Training: a base checkpoint and a mixture become an adapter, by transformers' Trainer.

On several devices: `accelerate launch -m cocoift train PRESET --mixture merged`, in the project's
folder.
"""

import json
import multiprocessing
import shutil
from collections.abc import Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from msgspec import structs
from transformers import (
    LlavaProcessor,
    PrinterCallback,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback

from cocoift.core.bars import is_reported, tqdm
from cocoift.core.files import DataError, digest, finish_replacing, holds, sha256, write_text
from cocoift.core.parallel import cores, stop
from cocoift.tuning.batches import Collator, Plan, PlannedBatches, plan_batches
from cocoift.tuning.checkpoints import (
    NOTES,
    WEIGHTS,
    add_adapter,
    export,
    notes_of,
    save_adapter,
)
from cocoift.tuning.data import TrainingSet, check_pictures, only_last, read_training_set
from cocoift.tuning.loss import LossByForm, Progress, last_whole
from cocoift.tuning.memory import Memory, available, check_fits, estimate
from cocoift.tuning.model import (
    check_image_tokens,
    dense,
    load_config,
    load_model,
    load_processor,
    pick_device,
    release,
    use_threads,
)
from cocoift.tuning.recipe import Training, weights_digest

Key = TypeVar("Key", bound=Hashable)
# The training that an aligned base comes from, in its folder.
_ALIGNED = "aligned.txt"


def training_set(training: Training, processor: LlavaProcessor) -> TrainingSet:
    """Return the samples of a training; raises `DataError` when the mixture is absent."""
    encoding = training.encoding(processor.tokenizer)
    data = read_training_set(training.mixture, training.images, encoding)
    if training.recipe.loss_on == "all":
        return data
    return replace(data, samples=[only_last(sample) for sample in data.samples])


def planned(data: TrainingSet, training: Training, *, processes: int = 1) -> Plan:
    """Return the batches of a training on `processes` devices."""
    return plan_batches(
        data.lengths,
        steps=training.steps,
        batch_tokens=training.recipe.batch_tokens,
        seed=training.seed,
        processes=processes,
        epochs=training.recipe.epochs,
    )


def needed_memory(training: Training, data: TrainingSet, plan: Plan) -> Memory:
    """Return the estimate of what a training needs on each device, in bytes."""
    supervised = [sum(end - start for start, end in sample.spans) for sample in data.samples]
    recipe = training.recipe
    return estimate(
        load_config(training.checkpoint),
        rank=recipe.rank,
        batch_tokens=plan.largest,
        supervised_tokens=max(sum(supervised[n] for n in batch) for batch in plan.batches),
        four_bit=recipe.four_bit and training.device == "cuda",
        gradient_checkpointing=recipe.gradient_checkpointing,
        device=training.device,
    )


def train(training: Training, *, show_progress: bool = True) -> Path:
    """Train one adapter and return its folder; resume from the last checkpoint if there is one.

    An adapter that the same training left is kept.  `training.json` in its folder holds the log.
    Raises `DataError` for input that cannot train, a GPU that is not there, too little memory,
    and a full disk; the last whole checkpoint then stays, and a rerun resumes from it.
    """
    key = training.key()
    finish_replacing(training.adapter)
    if notes_of(training.adapter).get("key") == key:
        return training.adapter
    set_seed(training.seed)
    pick_device(training.device)
    check_image_tokens(load_config(training.checkpoint), training.image_tokens)
    processor = load_processor(training.checkpoint)
    data = training_set(training, processor)
    check_pictures((sample.image for sample in data.samples), training.image_root)
    run = training.adapter.with_name(f".{training.adapter.name}.run-{key[:12]}")
    trainer, plan = _trainer(training, processor, data, run, show_progress)
    counts = {"records": data.records, "supervised_tokens": data.supervised_tokens}
    del data  # the trainer holds what this process trains on
    trainer.train(resume_from_checkpoint=last_whole(run))
    weights = None
    if trainer.is_fsdp_enabled:  # every device holds a share of them, so all are asked
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.is_world_process_zero():
        notes = {"key": key, "seconds": trainer.seconds, "log": trainer.state.log_history}
        notes |= {"padding_waste": plan.waste, "steps": training.steps, **counts}
        notes |= {"recipe": structs.asdict(training.recipe)}
        notes |= {"processes": trainer.args.world_size, "accumulation": plan.accumulation}
        notes |= {"sharding": trainer.accelerator.distributed_type.value}
        texts = {NOTES: json.dumps(notes, indent=1)}
        save_adapter(trainer.model, training.adapter, notes=texts, weights=weights)
        for stale in training.adapter.parent.glob(f".{training.adapter.name}.run-*"):
            shutil.rmtree(stale, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.accelerator.free_memory()
    # Trainer, optimiser and model refer to each other: only the collector lets go of them, and the
    # next training needs their memory.
    del trainer, weights
    release()
    return training.adapter


def is_trained(training: Training) -> bool:
    """Tell whether the adapter is there and is what this training would give."""
    return notes_of(training.adapter).get("key") == training.key()


def train_all(trainings: Mapping[Key, Training], *, processes: int = 1) -> dict[Key, Path]:
    """Train adapters and return their folders, under the same keys and in the same order.

    With several `processes` each computes with one thread, with more only if there are fewer
    trainings than processes: small models gain more from two trainings at once than from two
    threads, and results do not depend on the number of cores.  A GPU holds one training, so take
    one process there.  What is finished is kept; an interrupted run resumes.  Raises what
    `train` raises, for the first training that fails.
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
            waiting = {
                pool.submit(train, training, show_progress=False): key
                for key, training in todo.items()
            }
            for done in tqdm(
                as_completed(waiting),
                total=len(waiting),
                desc="all",
                unit=" trainings",
                leave=False,
            ):
                found[waiting[done]] = done.result()
        except BaseException:
            stop(pool)
            raise
    return {key: found[key] for key in trainings}


def align(
    training: Training,
    out: Path,
    *,
    shipped: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Teach the base `training.checkpoint` to see, and write what comes of it to `out`.

    The recipe is an `AlignmentRecipe.tuning()`.  A base left by the same training is kept, an
    interrupted one resumes, and its log stays in `training.adapter`.  `shipped` is an adapter that
    an equal training left, merged in place of it.  In float32 the base holds the projector bit for
    bit.  Raises what `train` raises.
    """
    adapter, made = training.adapter, f"{training.key()} {dtype}"
    if shipped:
        adapter, weights = shipped, weights_digest(training.checkpoint)
        made = digest([sha256(shipped / WEIGHTS), weights, asdict(training.chat), str(dtype)])
    stamp = out / _ALIGNED
    if holds(stamp, made):
        return out
    if not shipped:
        train(training)
    export(adapter, out, checkpoint=training.checkpoint, chat=training.chat, dtype=dtype)
    write_text(stamp, made)
    return out


def _trainer(
    training: Training, processor: LlavaProcessor, data: TrainingSet, run: Path, progress: bool
) -> tuple[LossByForm, Plan]:
    recipe = training.recipe
    arguments = _arguments(training, run)
    plan = planned(data, training, processes=arguments.world_size)
    arguments.gradient_accumulation_steps = plan.accumulation
    check_fits(needed_memory(training, data, plan), available(training.device))
    model = load_model(training.checkpoint, four_bit=recipe.four_bit, device=training.device)
    if training.device == "cpu":  # no processor computes in four bits
        model = dense(model)
    adapted = add_adapter(
        model,
        rank=recipe.rank,
        alpha=recipe.alpha,
        dropout=recipe.dropout,
    )
    trainer = LossByForm(
        model=adapted,
        args=arguments,
        train_dataset=PlannedBatches(
            plan.batches,
            data.samples,
            rank=arguments.process_index,
            processes=arguments.world_size,
        ),
        data_collator=Collator(processor, training.image_root, training.forms),
        callbacks=_callbacks(training, progress),
        projector_learning_rate=recipe.projector_learning_rate,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, plan


def _arguments(training: Training, run: Path) -> TrainingArguments:
    recipe = training.recipe
    return TrainingArguments(
        output_dir=str(run),
        max_steps=training.steps,
        per_device_train_batch_size=1,  # of planned batches
        train_sampling_strategy="sequential",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        optim=recipe.optimiser,
        bf16=training.device == "cuda",
        use_cpu=training.device == "cpu",
        activation_checkpointing=recipe.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        seed=training.seed,
        data_seed=training.seed,
        dataloader_num_workers=min(recipe.workers, cores()),
        dataloader_pin_memory=training.device == "cuda",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


def _callbacks(training: Training, show_progress: bool) -> list[TrainerCallback]:
    from torch.utils.tensorboard import SummaryWriter

    folder = training.adapter.parent / "tensorboard" / training.adapter.name
    try:
        board = TensorBoardCallback(SummaryWriter(log_dir=str(folder)))
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror}; free space") from error
    shown = show_progress or is_reported()
    return [board, *([Progress(training.adapter.name)] if shown else [])]
