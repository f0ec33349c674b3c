"""Greedy answers of a local model, in batches that compute what prompts share only once.

Questions about one image begin alike: with the image and, in several rounds, with the opening
rounds.  The key-value cache of that beginning is computed once and copied to every question.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from transformers import DynamicCache, LlavaForConditionalGeneration, LlavaProcessor

from cocoift.core.images import pixel_values, side_by_side
from cocoift.evaluation.alike import Alike, group_alike, in_batches, left_padded
from cocoift.evaluation.protocols import Prompt
from cocoift.tuning.chat import ChatFormat, Encoding, answered_ids, parted_ids, prompt_ids
from cocoift.tuning.model import image_tokens


@torch.inference_mode()
def generate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Prompt],
    *,
    chat: ChatFormat,
    new_tokens: int = 128,
    batch: int = 64,
) -> list[str]:
    """Return the model's greedy answers, in the order asked, at most `new_tokens` long each.

    An answer is the same as if it had been asked alone.  Several images of one question are
    shown side by side, since LLaVA-1.5 was trained on one image per conversation.
    """
    encoding = Encoding(processor.tokenizer, chat, image_tokens(model.config))
    prompts = [prompt_ids(prompt.messages, encoding) for prompt in asked]
    answers: list[list[int]] = [[] for _ in asked]
    for groups in in_batches(group_alike(asked, prompts), batch):
        numbers = [number for group in groups for number in group.numbers]
        for rows, tokens, _ in _decode(model, processor, groups, new_tokens):
            for row, token in zip(rows, tokens, strict=True):
                answers[numbers[row]].append(token)
    return [processor.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]


@torch.inference_mode()
def stream(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    prompt: Prompt,
    *,
    chat: ChatFormat,
    new_tokens: int = 128,
) -> Iterator[str]:
    """Yield the model's greedy answer as it grows by a token; the last one is `generate`'s."""
    encoding = Encoding(processor.tokenizer, chat, image_tokens(model.config))
    prompts = [prompt_ids(prompt.messages, encoding)]
    ids: list[int] = []
    for _, tokens, _ in _decode(model, processor, group_alike([prompt], prompts), new_tokens):
        ids += tokens
        yield processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@torch.inference_mode()
def margins(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Prompt],
    answers: Sequence[tuple[str, str]],
    *,
    chat: ChatFormat,
    batch: int = 64,
) -> list[float]:
    """Return how much likelier each first answer begins than the second, in nats.

    `answers` holds two answers for each question.  It compares the log-probabilities of the first
    token in which the two differ (their end included), given the prompt and their common beginning:
    above 0 the model is likelier to start the first one.  Raises `ValueError` where both are the
    same.
    """
    encoding = Encoding(processor.tokenizer, chat, image_tokens(model.config))
    prompts, pairs = [], []
    for prompt, texts in zip(asked, answers, strict=True):
        first, second = (answered_ids(prompt.messages, text, encoding) for text in texts)
        if first == second:
            raise ValueError(f"both answers are {texts[0]!r}")
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
        same = sum(1 for _ in alike)
        prompts.append(first[:same])
        pairs.append((first[same], second[same]))
    found = [0.0] * len(asked)
    for groups in in_batches(group_alike(asked, prompts), batch):
        numbers = [number for group in groups for number in group.numbers]
        _, _, logits = next(_decode(model, processor, groups, new_tokens=1))
        chosen = torch.tensor([pairs[number] for number in numbers], device=logits.device)
        ahead = logits.float().gather(1, chosen)
        for number, margin in zip(numbers, (ahead[:, 0] - ahead[:, 1]).tolist(), strict=True):
            found[number] = margin
    return found


@torch.inference_mode()
def log_probabilities(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    *,
    chat: ChatFormat,
    batch: int = 64,
) -> list[list[float]]:
    """Return how likely each of the given answers to each question is, in nats.

    `answers` holds any number of answers for each question.  A number is the sum of the
    log-probabilities of an answer's tokens, the one that ends it included, given the prompt: that
    of the model writing this answer and no other.  `batch` answers are read at once.
    """
    encoding = Encoding(processor.tokenizer, chat, image_tokens(model.config))
    every = [
        (prompt, *parted_ids(prompt.messages, text, encoding))
        for prompt, texts in zip(asked, answers, strict=True)
        for text in texts
    ]
    alike = group_alike([prompt for prompt, *_ in every], [ids for _, ids, _ in every])
    found = [0.0] * len(every)
    for groups in in_batches(alike, batch):
        numbers = [number for group in groups for number in group.numbers]
        ends = [every[number][2] for number in numbers]
        ids, mask, positions, cache = _begin(model, processor, groups, ends)
        keep = 1 + max(map(len, ends))
        logits = _logits(model, ids, mask, positions, cache, keep=keep)
        for row, (number, end) in enumerate(zip(numbers, ends, strict=True)):
            likely = logits[row, -len(end) - 1 : -1].float().log_softmax(-1)
            found[number] = float(likely.gather(1, ids[row, -len(end) :, None]).sum())
    each = iter(found)
    return [[next(each) for _ in texts] for texts in answers]


def _decode(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    groups: Sequence[Alike],
    new_tokens: int,
) -> Iterator[tuple[list[int], list[int], Tensor]]:
    """Yield rows, new token ids and logits of the answers that have not ended, token by token.

    Rows number the prompts of all groups; the logits have shape (rows, vocabulary).
    """
    end = processor.tokenizer.eos_token_id
    ids, mask, positions, cache = _begin(model, processor, groups)
    running = list(range(len(ids)))
    for _ in range(new_tokens):
        logits = _logits(model, ids, mask, positions, cache, keep=1)[:, -1]
        chosen = logits.argmax(-1)
        yield running, chosen.tolist(), logits
        going = (chosen != end).nonzero().flatten()
        if not len(going):
            break
        if len(going) < len(running):  # finished answers cost nothing more
            cache.batch_select_indices(going)
            chosen, mask, positions = chosen[going], mask[going], positions[going]
            running = [running[row] for row in going.tolist()]
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1


def _begin(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    groups: Sequence[Alike],
    ends: Sequence[list[int]] | None = None,
) -> tuple[Tensor, Tensor, Tensor, DynamicCache]:
    """Return the ids after what prompts share, the mask of all, the ids' positions, and the cache.

    A row per prompt, padded on the left; `ends` are ids that follow the prompts, in their order.
    """
    pad = processor.tokenizer.pad_token_id
    cache, mask = _prefill(model, processor, groups, pad)
    rest = [suffix for group in groups for suffix in group.suffixes]
    if ends is not None:
        rest = [suffix + end for suffix, end in zip(rest, ends, strict=True)]
    ids, fresh = left_padded(rest, pad=pad)
    ids, mask = ids.to(model.device), torch.cat([mask, fresh.to(model.device)], dim=1)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :], cache


def _logits(
    model: LlavaForConditionalGeneration,
    ids: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: DynamicCache,
    *,
    keep: int,
) -> Tensor:
    """Return the logits after the last `keep` ids, shape (rows, keep, vocabulary)."""
    return model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        cache=cache,
        use_cache=True,
        logits_to_keep=keep,
    ).logits


def _prefill(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    groups: Sequence[Alike],
    pad: int,
) -> tuple[DynamicCache, Tensor]:
    """Return the cache of every group's beginning, a row for each of its prompts, and its mask."""
    ids, mask = left_padded([group.prefix for group in groups], pad=pad)
    pictures = [side_by_side(group.pictures) for group in groups]
    pixels = torch.from_numpy(pixel_values(pictures, processor.image_processor))
    mask = mask.to(model.device)
    cache = model(
        input_ids=ids.to(model.device),
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        pixel_values=pixels.to(model.device, model.dtype),
        cache=DynamicCache(),
        use_cache=True,
        logits_to_keep=1,
    ).cache
    rows = [row for row, group in enumerate(groups) for _ in group.numbers]
    chosen = torch.tensor(rows, device=model.device)
    cache.batch_select_indices(chosen)
    return cache, mask[chosen]
