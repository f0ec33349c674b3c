"""The Trainer behind `train`: loss on supervised positions and by format, whole checkpoints."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn import functional
from transformers import LlavaProcessor, Trainer
from transformers.trainer_callback import ProgressCallback

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError
from cocoift.tuning.batches import LOSS_FORMS, Collator, plan_batches
from cocoift.tuning.chat import IGNORED
from cocoift.tuning.checkpoints import parameter_groups
from cocoift.tuning.data import TrainingSet
from cocoift.tuning.recipe import Training


def last_whole(run: Path) -> str | None:
    """Return the newest complete checkpoint below `run`."""
    whole = [path.parent for path in run.glob("checkpoint-*/whole")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return what the model receives of a batch without labels and forms.

    Where a batch numbers its turns, the attention mask becomes one of shape (samples, 1, longest,
    longest) that is added to the scores: a token sees what is before its first turn, and its own.
    """
    inputs = dict(batch)
    turns = inputs.pop("turns", None)
    if turns is None:
        return inputs
    seen = (turns[:, None] == 0) | (turns[:, None] == turns[:, :, None])
    # A padding token sees at least itself: a row without any would be no number.
    own = torch.eye(turns.shape[1], dtype=torch.bool, device=turns.device)
    seen = seen.tril() & (inputs["attention_mask"][:, None] > 0) | own
    added = torch.zeros(seen.shape, dtype=inputs["pixel_values"].dtype, device=turns.device)
    inputs["attention_mask"] = added.masked_fill(~seen, torch.finfo(added.dtype).min)[:, None]
    return inputs


def token_losses(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], labels: torch.Tensor
) -> tuple[torch.Tensor, Any]:
    """Return the loss of every supervised token of a batch, and the model's outputs.

    The output layer works on supervised positions only; `labels` has shape (samples, longest).
    """
    supervised = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
    outputs = model(**model_inputs(inputs), logits_to_keep=supervised, use_cache=False)
    targets = labels[:, 1:][supervised[:, :-1]]
    return functional.cross_entropy(outputs.logits.float(), targets, reduction="none"), outputs


class LossByForm(Trainer):
    """transformers' Trainer, with the output layer on supervised positions only.

    The loss is the mean over the supervised tokens of an optimiser step, across all devices;
    every step logs it by answer format too, with the tokens and seconds so far.
    """

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *args: Any, projector_learning_rate: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.projector_learning_rate = projector_learning_rate
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        self.tally = torch.zeros(2, len(LOSS_FORMS), device=self.args.device)
        self.tokens = torch.zeros(1, device=self.args.device, dtype=torch.float64)
        self.earlier = {"tokens": 0, "seconds": 0.0}
        self.started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included."""
        return self.earlier["seconds"] + time.perf_counter() - self.started

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        result = super()._init_training_state(*args, **kwargs)
        logged = [row for row in self.state.log_history if "tokens" in row]
        if logged:
            self.earlier = {name: logged[-1][name] for name in self.earlier}
        self.started = time.perf_counter()
        return result

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the summed loss of a batch over the supervised tokens of its whole step."""
        labels, forms = inputs.pop("labels"), inputs.pop("forms")
        losses, outputs = token_losses(model, inputs, labels)
        kinds = forms[:, 1:][labels[:, 1:] != IGNORED]
        with torch.no_grad():
            self.tally[0].index_add_(0, kinds, losses.detach())
            self.tally[1].index_add_(0, kinds, torch.ones_like(losses))
            self.tokens += inputs["attention_mask"].sum()
        whole = num_items_in_batch if num_items_in_batch is not None else len(losses)
        loss = losses.sum() / whole * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's loss by answer format, and the tokens and seconds of training so far."""
        if "loss" in logs:
            sums, counts = self.accelerator.reduce(self.tally.clone(), "sum").tolist()
            for form, total, count in zip(LOSS_FORMS, sums, counts, strict=True):
                if count:
                    logs[f"loss_{form}"], logs[f"tokens_{form}"] = total / count, int(count)
            self.tally.zero_()
            tokens = int(self.accelerator.reduce(self.tokens.clone(), "sum").item())
            logs["tokens"] = self.earlier["tokens"] + tokens
            logs["seconds"] = round(self.seconds, 2)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, torch.Tensor]) -> int:
        """Return 0: counting by walking all modules takes a visible share of a small step."""
        return 0

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Save a checkpoint and mark it complete; if that fails, the older ones stay."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.is_world_process_zero():
                (folder / "whole").touch()
        except Exception as error:  # each of torch, safetensors and json has an error of its own
            shutil.rmtree(folder, ignore_errors=True)
            raise DataError(
                f"cannot save {folder}: {error}; free space and run again: training resumes from "
                f"{last_whole(folder.parent) or 'the start'}"
            ) from error

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimiser, with a learning rate of its own for the projector."""
        if self.optimizer is None:
            chosen = model or self.model
            optimiser, options = self.get_optimizer_cls_and_kwargs(self.args, chosen)
            groups = parameter_groups(chosen, projector_learning_rate=self.projector_learning_rate)
            self.optimizer = optimiser(groups, weight_decay=self.args.weight_decay, **options)
        return self.optimizer


class Progress(ProgressCallback):
    """transformers' progress bar under a training's name, the loss beside it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar at the step from which the training resumes."""
        self.current_step = state.global_step
        if state.is_world_process_zero:
            begun = {"total": state.max_steps, "initial": state.global_step}
            self.training_bar = tqdm(**begun, desc=self.name, unit=" steps", leave=False)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Show the loss of the step just logged."""
        if self.training_bar is not None and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}")


def picture_losses(
    model: torch.nn.Module, processor: LlavaProcessor, data: TrainingSet, *, training: Training
) -> pd.DataFrame:
    """Return the loss on each image's first sample, shown that image and the next one.

    One row per image: image, shown, other, in nats per supervised token.
    """
    samples = list({sample.image: sample for sample in reversed(data.samples)}.values())
    rows = []
    for sample, following in zip(samples, [*samples[1:], samples[0]], strict=True):
        both = (sample, replace(sample, image=following.image))
        losses = (
            mean_loss(model, processor, TrainingSet(1, [asked], []), training=training)
            for asked in both
        )
        rows.append((sample.image, *losses))
    return pd.DataFrame(rows, columns=["image", "shown", "other"])


def mean_loss(
    model: torch.nn.Module, processor: LlavaProcessor, data: TrainingSet, *, training: Training
) -> float:
    """Return a model's loss on samples, in nats per supervised token.

    Images and the largest batch are those of `training`.
    """
    losses = sample_losses(model, processor, data, training=training)
    return float(losses.loss.sum() / losses.tokens.sum())


@torch.inference_mode()
def sample_losses(
    model: torch.nn.Module, processor: LlavaProcessor, data: TrainingSet, *, training: Training
) -> pd.DataFrame:
    """Return a model's loss on each sample, in no order: image, loss (nats), tokens (supervised).

    Images and the largest batch are those of `training`.
    """
    room = max(training.recipe.batch_tokens, max(data.lengths))
    steps = max(1, 2 * sum(data.lengths) // room)
    batches = plan_batches(
        data.lengths, steps=min(steps, len(data.samples)), batch_tokens=room, seed=0
    )
    collate, rows = Collator(processor, training.image_root, training.forms), []
    for numbers in batches.batches:
        batch = collate([[data.samples[number] for number in numbers]])
        inputs = {name: tensor.to(training.device) for name, tensor in batch.items()}
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(next(model.parameters()).dtype)
        labels, _ = inputs.pop("labels"), inputs.pop("forms")
        losses = token_losses(model, inputs, labels)[0].cpu()
        counts = (labels[:, 1:] != IGNORED).sum(1).tolist()
        for number, count, of_sample in zip(numbers, counts, losses.split(counts), strict=True):
            rows.append((data.samples[number].image, of_sample.sum().item(), count))
    return pd.DataFrame(rows, columns=["image", "loss", "tokens"])
