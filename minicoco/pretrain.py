"""Pretraining of the tiny LLaVA on a CPU: first its tower with dense labels, then the rest.

Settings come from a trial on two cores: Muon on hidden matrices and AdamW on the others (with AdamW
alone it learns to speak in the same time, but not to see), float32 throughout, weights drawn at
fan_in^-0.5 (with the usual 0.02 it learns too slowly).
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlavaForConditionalGeneration

from cocoift.core.bars import tqdm
from cocoift.tuning.chat import IGNORED, Sample
from minicoco.scenes import BACKGROUNDS, CATEGORIES, COLOURS, GRID, LETTERS, PLACES, Scene

# The quintic Newton-Schulz iteration of Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon).
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
_TOWER_BATCH = 128


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices with their singular values pushed towards 1, shape (count, rows, columns)."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    found = matrices.mT if tall else matrices
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = found @ found.mT
        found = torch.baddbmm(
            found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a
        )
    return found.mT if tall else found


class StackedMuon(torch.optim.Optimizer):
    """Muon in float32, with matrices of the same shape stacked: a step is a few batched products.

    It has Nesterov momentum and steps of AdamW's size, as with `adjust_lr_fn="match_rms_adamw"`.
    `torch.optim.Muon` orthogonalises in bfloat16 whatever the weights are, which takes 24 times as
    long on a processor without bfloat16.  Parameters are two-dimensional; those without a gradient
    stay as they are.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], *, momentum: float = 0.95):
        super().__init__(list(parameters), {"lr": 1e-3, "momentum": momentum})
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in self.param_groups[0]["params"]:
            shapes.setdefault(parameter.shape, []).append(parameter)
        self.stacks = [(stack, torch.zeros(len(stack), *shape)) for shape, stack in shapes.items()]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix by its gradient."""
        group = self.param_groups[0]
        for stack, buffer in self.stacks:
            gradient = torch.stack([zero_if_none(parameter) for parameter in stack])
            buffer.lerp_(gradient, 1 - group["momentum"])
            update = orthogonalised(gradient.lerp(buffer, group["momentum"]))
            size = 0.2 * max(update.shape[1:]) ** 0.5
            torch._foreach_add_(stack, list(update.unbind()), alpha=-group["lr"] * size)


def zero_if_none(parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient, zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def initialise(model: nn.Module) -> None:
    """Draw every weight matrix but the token embeddings at fan_in^-0.5."""
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and "embed_tokens" not in name:
            fan_in = parameter[0].numel()
            nn.init.normal_(parameter, std=fan_in**-0.5)


def _optimisers(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    hidden = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
    }
    rest = [parameter for name, parameter in parameters.items() if name not in hidden]
    adamw = torch.optim.AdamW(rest, weight_decay=0.0, betas=(0.9, 0.95))
    return [StackedMuon(hidden.values()), adamw]


def _optimise(
    parameters: dict[str, nn.Parameter],
    loss: Callable[[], Tensor],
    *,
    steps: int,
    learning_rate: float,
    what: str,
) -> float:
    """Minimise `loss` with a warm-up of 20 steps and linear decay; return its running mean."""
    optimisers, mean = _optimisers(parameters), 0.0
    bar = tqdm(range(steps), desc=what, unit=" steps", leave=False)
    for step in bar:
        rate = learning_rate * min(1, (step + 1) / 20) * (1 - step / steps)
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
            optimiser.zero_grad()
        mean = value.item() if step == 0 else 0.95 * mean + 0.05 * value.item()
        bar.set_postfix(loss=f"{mean:.3f}")
    return mean


def cell_labels(scene: Scene) -> np.ndarray:
    """Return what each cell of the grid holds, shape (16, 5), 0 for nothing.

    Columns: category, colour, size, rank in descriptions, letter.
    """
    categories, colours = list(CATEGORIES.values()), list(COLOURS)
    labels = np.zeros((GRID * GRID, 5), np.int64)
    for rank, thing in enumerate(scene.by_quarter(), start=1):
        labels[thing.row * GRID + thing.column] = (
            1 + categories.index(thing.category),
            1 + colours.index(thing.colour),
            1 + thing.large,
            rank,
            1 + LETTERS.index(thing.letter) if thing.letter else 0,
        )
    return labels


def pretrain_tower(
    model: LlavaForConditionalGeneration,
    pixels: Tensor,
    scenes: Sequence[Scene],
    *,
    steps: int,
    learning_rate: float = 3e-3,
) -> float:
    """Teach the tower to classify, patch by patch, what the scenes show; return the final loss.

    `pixels` has shape (scenes, 3, side, side).  The heads, which read the labels from LLaVA's
    feature layer, are discarded.
    """
    labels = torch.from_numpy(np.stack([cell_labels(scene) for scene in scenes]))
    grounds = torch.tensor([list(BACKGROUNDS).index(scene.background) for scene in scenes])
    cells = torch.arange(GRID * GRID)
    quarters = cells // (GRID * GRID // 2) * 2 + cells % GRID // (GRID // 2)
    width = model.config.vision_config.hidden_size
    sizes = (len(CATEGORIES) + 1, len(COLOURS) + 1, 3, GRID + 1, len(LETTERS) + 1)
    heads = nn.ModuleList(nn.Linear(width, n) for n in (*sizes, len(cells), len(PLACES)))
    ground_head = nn.Linear(width, len(BACKGROUNDS))
    tower = model.model.vision_tower

    def loss() -> Tensor:
        batch = torch.randint(0, len(scenes), (_TOWER_BATCH,))
        patches = _patches(model, pixels[batch])
        targets = [*labels[batch].unbind(-1)]
        targets += [fixed.expand(len(batch), -1) for fixed in (cells, quarters)]
        total = functional.cross_entropy(ground_head(patches.mean(1)), grounds[batch])
        for head, target in zip(heads, targets, strict=True):
            total = total + functional.cross_entropy(head(patches).flatten(0, 1), target.flatten())
        return total

    parts = nn.ModuleDict({"tower": tower, "heads": heads, "ground": ground_head})
    parameters = dict(parts.named_parameters())
    return _optimise(parameters, loss, steps=steps, learning_rate=learning_rate, what="tower")


def _patches(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Return LLaVA's image features: those of its feature layer without the class token."""
    states = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return states[model.config.vision_feature_layer][:, 1:]


@torch.no_grad()
def features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Return the tower's features of all images, shape (scenes, patches, width).

    They are computed once, since the tower is then frozen.
    """
    return torch.cat([_patches(model, chunk) for chunk in pixels.split(512)])


@torch.no_grad()
def fold(projector: nn.Module, *, mean: Tensor, deviation: Tensor) -> None:
    """Fold `(x - mean) / deviation`, per channel, into the projector's first layer."""
    first = projector.linear_1
    first.weight.div_(deviation)
    first.bias.sub_(first.weight @ mean)


def pretrain_language(
    model: LlavaForConditionalGeneration,
    features: Tensor,
    batches: Iterator[tuple[list[int], list[Sample]]],
    *,
    steps: int,
    learning_rate: float = 2e-3,
) -> float:
    """Teach projector and language model to answer about frozen features; return the final loss.

    `features` has shape (scenes, patches, width); `batches` yields scene numbers and samples.
    """
    inner, image_id = model.model, model.config.image_token_index
    parameters = {
        name: parameter
        for name, parameter in model.named_parameters()
        if "vision_tower" not in name
    }

    def loss() -> Tensor:
        numbers, chosen = next(batches)
        ids, labels = collate(chosen)
        embedded = inner.language_model.embed_tokens(ids)
        seen = inner.multi_modal_projector(features[numbers])
        where = (ids == image_id).unsqueeze(-1).expand_as(embedded)
        states = inner.language_model(
            inputs_embeds=embedded.masked_scatter(where, seen), attention_mask=(ids != 0).long()
        ).last_hidden_state
        kept = labels[:, 1:] != IGNORED
        logits = model.lm_head(states[:, :-1][kept])
        return functional.cross_entropy(logits, labels[:, 1:][kept])

    return _optimise(parameters, loss, steps=steps, learning_rate=learning_rate, what="language")


def collate(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Return ids and labels of samples, padded on the right with 0 and `IGNORED`."""
    longest = max(len(sample.input_ids) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.input_ids)] = torch.tensor(sample.input_ids)
        labels[row, : len(sample.input_ids)] = torch.tensor(sample.labels)
    return ids, labels


def batches_by_length(
    make: Callable[[int, random.Random], Sample], *, count: int, tokens: int, seed: int
) -> Iterator[tuple[list[int], list[Sample]]]:
    """Yield batches of about `tokens` padded tokens without end, each of samples of similar length.

    `make(number, rng)` makes a sample about scene `number`, a new one at every visit.
    """
    rng = random.Random(f"batches/{seed}")
    waiting: list[tuple[list[int], list[Sample]]] = []
    while True:
        if len(waiting) < 64:
            numbers = rng.sample(range(count), min(256, count))
            pool = sorted(
                ((number, make(number, rng)) for number in numbers),
                key=lambda item: (len(item[1].input_ids), item[0]),
            )
            waiting += _batches(pool, tokens)
        yield waiting.pop(rng.randrange(len(waiting)))


def _batches(
    pool: Sequence[tuple[int, Sample]], tokens: int
) -> Iterator[tuple[list[int], list[Sample]]]:
    batch: list[tuple[int, Sample]] = []
    for number, sample in pool:
        if batch and (len(batch) + 1) * len(sample.input_ids) > tokens:
            yield [n for n, _ in batch], [s for _, s in batch]
            batch = []
        batch.append((number, sample))
    if batch:
        yield [n for n, _ in batch], [s for _, s in batch]
