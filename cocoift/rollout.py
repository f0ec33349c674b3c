"""Rollouts: what a model answers, greedily and in batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from cocoift.chat import prompt_ids
from cocoift.images import pixel_values
from cocoift.model import image_tokens
from cocoift.records import Message


@dataclass(frozen=True)
class Ask:
    """A picture and the conversation so far, ending in a human message."""

    picture: Image.Image
    messages: Sequence[Message]


@torch.inference_mode()
def generate(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    asked: Sequence[Ask],
    *,
    system: str,
    new_tokens: int = 128,
    batch: int = 32,
) -> list[str]:
    """Return the model's greedy answers, in the order asked, at most `new_tokens` long each.

    Prompts of like length are generated together, padded on the left; an answer is the same
    as if it had been asked alone.
    """
    tokenizer, count = processor.tokenizer, image_tokens(model.config)
    prompts = [
        prompt_ids(one.messages, tokenizer=tokenizer, image_tokens=count, system=system)
        for one in asked
    ]
    order = sorted(range(len(asked)), key=lambda number: len(prompts[number]))
    answers = [""] * len(asked)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = left_padded([prompts[n] for n in chosen], pad=tokenizer.pad_token_id)
        pictures = pixel_values([asked[n].picture for n in chosen], processor.image_processor)
        pixels = torch.from_numpy(pictures).to(model.device, model.dtype)
        made = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            pixel_values=pixels,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        for number, text in zip(chosen, texts, strict=True):
            answers[number] = text.strip()
    return answers


def left_padded(prompts: Sequence[Sequence[int]], *, pad: int) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, shape (prompts, longest), padded on the left."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
