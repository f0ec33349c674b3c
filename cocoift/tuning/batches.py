"""Batches of like length: which samples a device holds at once, planned before training starts.

A plan has exactly as many batches as the optimiser steps need, so that two mixtures of different
record counts train for the same number of steps, each on all of its tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlavaProcessor

from cocoift.core.files import DataError, inside
from cocoift.core.images import open_image, pixel_values
from cocoift.core.schema import FORMS, TEXT_ONLY
from cocoift.tuning.chat import IGNORED, Sample

# Supervised tokens of sources that are in no catalogue count as `other`.
LOSS_FORMS = (*FORMS, "other")

# Samples are sorted by length within groups of about this many batches: wide enough to waste little
# padding, narrow enough that an epoch does not run through the lengths in order.
_GROUP = 64


@dataclass(frozen=True)
class Plan:
    """Which samples train together.

    `batches` holds sample numbers, one list per micro-batch, in the order of training;
    `accumulation` consecutive ones of each process make one optimiser step.
    """

    batches: list[list[int]]
    accumulation: int
    real_tokens: int
    padded_tokens: int
    largest: int

    @property
    def waste(self) -> float:
        """Padding tokens per real token."""
        return self.padded_tokens / self.real_tokens - 1


def plan_batches(
    lengths: Sequence[int],
    *,
    steps: int,
    batch_tokens: int,
    seed: int,
    processes: int = 1,
    epochs: int = 1,
) -> Plan:
    """Divide `epochs` passes over the samples into `steps` optimiser steps.

    No batch holds more than `batch_tokens` tokens, padding included; gradients are accumulated
    over as many batches as that takes.  Raises `DataError` when one sample alone holds more, or
    when there are fewer samples than batches.
    """
    sizes = np.asarray(lengths)
    if not len(sizes):
        raise DataError("no samples to train on; run notebook 02_merge on more images")
    if sizes.max() > batch_tokens:
        raise DataError(
            f"a sample of {sizes.max():,} tokens exceeds batch_tokens {batch_tokens:,}; "
            "raise batch_tokens or lower context_tokens"
        )
    accumulation = max(1, -(-int(sizes.sum()) * epochs // (steps * processes * batch_tokens)))
    while True:
        count = steps * processes * accumulation
        if count > len(sizes) * epochs:
            raise DataError(
                f"{len(sizes) * epochs:,} samples cannot fill {count:,} batches; "
                "train for fewer steps (a larger records_per_step) or on more images"
            )
        batches = _divide(sizes, count=count, seed=seed, epochs=epochs)
        padded = [len(batch) * int(sizes[batch].max()) for batch in batches]
        if max(padded) <= batch_tokens:
            real = int(sizes.sum()) * epochs
            return Plan(batches, accumulation, real, sum(padded), max(padded))
        accumulation += 1


def _divide(sizes: np.ndarray, *, count: int, seed: int, epochs: int) -> list[list[int]]:
    """Shuffle the samples, divide them into groups, and each group into its share of batches."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(sizes)) for _ in range(epochs)])
    groups = max(1, count // _GROUP)
    batches: list[list[int]] = []
    for number, group in enumerate(np.array_split(order, groups)):
        share = count * (number + 1) // groups - count * number // groups
        ordered = group[np.argsort(sizes[group], kind="stable")]
        batches += [chunk.tolist() for chunk in _cut(ordered, sizes, count=min(share, len(group)))]
    while len(batches) < count:
        longest = max(range(len(batches)), key=lambda place: len(batches[place]))
        whole = batches.pop(longest)
        batches += [whole[: len(whole) // 2], whole[len(whole) // 2 :]]
    shuffled = [batches[place] for place in rng.permutation(count)]
    # The largest batch first: a device that is too small for it fails in the first step.
    padded = [len(batch) * sizes[batch].max() for batch in shuffled]
    shuffled.insert(0, shuffled.pop(int(np.argmax(padded))))
    return shuffled


def _cut(ordered: np.ndarray, sizes: np.ndarray, *, count: int) -> list[np.ndarray]:
    """Cut samples, sorted by length, into at most `count` runs of the least padded size."""
    lengths = sizes[ordered]
    low, high = int(lengths[-1]), int(lengths[-1]) * len(lengths)
    while low < high:
        middle = (low + high) // 2
        if len(_ends(lengths, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    return np.split(ordered, _ends(lengths, low)[:-1])


def _ends(lengths: np.ndarray, tokens: int) -> list[int]:
    """Return where runs end that each hold at most `tokens` padded tokens."""
    ends, start = [], 0
    while start < len(lengths):
        # The last length of a run is its longest; run length times it grows along the run.
        held = lengths[start:] * np.arange(1, len(lengths) - start + 1)
        start += max(1, int(np.searchsorted(held, tokens, side="right")))
        ends.append(start)
    return ends


class PlannedBatches(torch.utils.data.Dataset):
    """The planned batches; item `i` is a list of samples.

    Of several processes each holds the samples of its own batches alone: accelerate gives process
    `rank` every `processes`-th batch, from that number on.
    """

    def __init__(
        self,
        batches: list[list[int]],
        samples: Sequence[Sample],
        *,
        rank: int = 0,
        processes: int = 1,
    ):
        self.batches = batches
        self.samples = {n: samples[n] for batch in batches[rank::processes] for n in batch}

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Sample]:
        return [self.samples[number] for number in self.batches[index]]


class Collator:
    """Tensors of one planned batch: right-padded ids, labels, answer formats, and images.

    `input_ids`, `attention_mask`, `labels` and `forms` have shape (samples, longest), `forms`
    holds the number of each token's answer format; `pixel_values` (samples with an image, 3, side,
    side) is left out where no sample has one.  Where
    turns do not see each other, `turns` numbers each token's turn from 1, 0 before the first, and
    `position_ids` count from the image in every turn anew; both have the shape of `input_ids`.
    """

    def __init__(self, processor: LlavaProcessor, image_root: Path, forms: Mapping[str, str]):
        self.root, self.processor = image_root, processor.image_processor
        self.forms = {name: LOSS_FORMS.index(form) for name, form in forms.items()}
        self.pad = processor.tokenizer.pad_token_id or 0

    def __call__(self, items: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
        """Return the tensors of `items`, a list that holds one planned batch."""
        (samples,) = items
        longest = max(map(len, samples))
        ids = torch.full((len(samples), longest), self.pad)
        labels, forms = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        mask = torch.zeros_like(ids)
        for row, sample in enumerate(samples):
            tokens = torch.tensor(sample.input_ids)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            for (start, end), source in zip(sample.spans, sample.sources, strict=True):
                labels[row, start:end] = tokens[start:end]
                forms[row, start:end] = self.forms.get(source, len(FORMS))
        names = [sample.image for sample in samples if sample.image != TEXT_ONLY]
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels, "forms": forms}
        if names:
            pictures = [open_image(inside(self.root, name)) for name in names]
            tensors["pixel_values"] = torch.from_numpy(pixel_values(pictures, self.processor))
        return tensors | (_branched(samples, longest) if samples[0].branches else {})


def _branched(samples: Sequence[Sample], longest: int) -> dict[str, torch.Tensor]:
    """Return the turn of each token, and its position as if its turn were the only one."""
    place = np.arange(longest)
    turns = [np.searchsorted(sample.branches, place, side="right") for sample in samples]
    positions = [
        place - np.array([0, *sample.branches])[turn] + np.where(turn, sample.branches[0], 0)
        for sample, turn in zip(samples, turns, strict=True)
    ]
    tensors = {"turns": turns, "position_ids": positions}
    return {name: torch.from_numpy(np.stack(rows)) for name, rows in tensors.items()}
