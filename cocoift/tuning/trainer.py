"""The Trainer behind `train`: planned batches, loss on supervised positions, loss by form."""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from tqdm.auto import tqdm
from transformers import LlavaProcessor, Trainer, TrainerCallback

from cocoift.core.files import DataError, inside
from cocoift.core.images import open_image, pixel_values
from cocoift.core.schema import FORMS
from cocoift.tuning.chat import IGNORED, Sample
from cocoift.tuning.model import parameter_groups

# Supervised tokens of sources that are in no catalogue count as `other`.
_FORMS = (*FORMS, "other")


def last_whole(run: Path) -> str | None:
    """Return the newest checkpoint below `run` that was written to its end."""
    whole = [path.parent for path in run.glob("checkpoint-*/whole")]
    newest = max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


class PlannedBatches(torch.utils.data.Dataset):
    """The planned batches; item `i` is a list of samples."""

    def __init__(self, batches: list[list[int]], samples: list[Sample]):
        self.batches, self.samples = batches, samples

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Sample]:
        return [self.samples[number] for number in self.batches[index]]


class Collator:
    """Tensors of one planned batch: right-padded ids, labels, forms, and pictures.

    `input_ids`, `attention_mask`, `labels` and `forms` have shape (samples, longest), `forms`
    holds the number of each token's form; `pixel_values` (samples, 3, side, side).
    """

    def __init__(self, processor: LlavaProcessor, image_root: Path, forms: Mapping[str, str]):
        self.root, self.processor = image_root, processor.image_processor
        self.forms = {name: _FORMS.index(form) for name, form in forms.items()}
        self.pad = processor.tokenizer.pad_token_id or 0

    def __call__(self, items: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
        """Return the tensors of `items`, a list that holds one planned batch."""
        (samples,) = items
        longest = max(len(sample.input_ids) for sample in samples)
        ids = torch.full((len(samples), longest), self.pad)
        labels, forms = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        mask = torch.zeros_like(ids)
        for row, sample in enumerate(samples):
            tokens = torch.as_tensor(sample.input_ids, dtype=torch.long)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            for (start, end), source in zip(sample.spans, sample.sources, strict=True):
                labels[row, start:end] = tokens[start:end]
                forms[row, start:end] = self.forms.get(source, len(FORMS))
        pictures = [open_image(inside(self.root, sample.image)) for sample in samples]
        pixels = torch.from_numpy(pixel_values(pictures, self.processor))
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels, "forms": forms}
        return tensors | {"pixel_values": pixels}


class LossByForm(Trainer):
    """transformers' Trainer, with the output layer on supervised positions only.

    The loss is the mean over the supervised tokens of an optimiser step, on whatever devices;
    every step logs it by form too, with the tokens and seconds so far.
    """

    def __init__(self, *args: Any, projector_learning_rate: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.projector_learning_rate = projector_learning_rate
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True
        self.tally = torch.zeros(2, len(_FORMS), device=self.args.device)
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
        supervised = functional.pad(labels[:, 1:] != IGNORED, (0, 1))
        outputs = model(**inputs, logits_to_keep=supervised, use_cache=False)
        targets = labels[:, 1:][supervised[:, :-1]]
        losses = functional.cross_entropy(outputs.logits.float(), targets, reduction="none")
        kinds = forms[:, 1:][supervised[:, :-1]]
        with torch.no_grad():
            self.tally[0].index_add_(0, kinds, losses.detach())
            self.tally[1].index_add_(0, kinds, torch.ones_like(losses))
            self.tokens += inputs["attention_mask"].sum()
        whole = num_items_in_batch if num_items_in_batch is not None else len(losses)
        loss = losses.sum() / whole * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log a step's loss by form, and the tokens and seconds of training so far."""
        if "loss" in logs:
            sums, counts = self.accelerator.reduce(self.tally.clone(), "sum").tolist()
            for form, total, count in zip(_FORMS, sums, counts, strict=True):
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
        """Save a checkpoint and mark it whole; a failure leaves the older ones."""
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            if self.is_world_process_zero():
                (folder / "whole").touch()
        except Exception as error:  # each of torch, safetensors and json has an error of its own
            shutil.rmtree(folder, ignore_errors=True)
            raise DataError(
                f"cannot save {folder}: {error}; free space and run again: training goes on from "
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


class Progress(TrainerCallback):
    """A progress bar with loss and tokens per second; the bar tells the time left."""

    def __init__(self, name: str):
        self.name, self.bar = name, None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, where an interrupted training left it."""
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc=self.name, unit=" steps"
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Move the bar to the step just logged."""
        if self.bar is not None and "loss" in logs:
            speed = logs["tokens"] / max(logs["seconds"], 1e-9)
            self.bar.set_postfix(loss=f"{logs['loss']:.3f}", tokens_per_s=f"{speed:,.0f}")
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
