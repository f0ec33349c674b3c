"""Prompts that begin alike, in groups: what they share is computed once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from PIL import Image
from torch import Tensor

from cocoift.evaluation.protocols import Prompt


@dataclass(frozen=True)
class Alike:
    """Prompts about the same images: the prefix they share, and what follows it in each.

    `numbers` are the prompts' places among those asked, `prefix` and `suffixes` token ids.
    """

    pictures: tuple[Image.Image, ...]
    prefix: list[int]
    numbers: list[int]
    suffixes: list[list[int]]


def group_alike(asked: Sequence[Prompt], prompts: Sequence[list[int]]) -> list[Alike]:
    """Group prompts by their images, shortest prompts first."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for number, prompt in enumerate(asked):
        by_key[prompt.key].append(number)
    groups = []
    for numbers in by_key.values():
        alike = [prompts[n] for n in numbers]
        # At least one token is left to every prompt: its logits are needed.
        columns = zip(*(prompt[:-1] for prompt in alike), strict=False)
        common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
        suffixes = [prompt[common:] for prompt in alike]
        groups.append(Alike(asked[numbers[0]].pictures, alike[0][:common], numbers, suffixes))
    return sorted(groups, key=lambda group: len(group.prefix) + max(map(len, group.suffixes)))


def in_batches(groups: Sequence[Alike], batch: int) -> Iterator[list[Alike]]:
    """Yield groups of at most `batch` prompts together; a larger group is cut."""
    waiting: list[Alike] = []
    for group in groups:
        for start in range(0, len(group.numbers), batch):
            part = slice(start, start + batch)
            piece = Alike(group.pictures, group.prefix, group.numbers[part], group.suffixes[part])
            if waiting and sum(len(g.numbers) for g in waiting) + len(piece.numbers) > batch:
                yield waiting
                waiting = []
            waiting.append(piece)
    if waiting:
        yield waiting


def left_padded(prompts: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, shape (prompts, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
