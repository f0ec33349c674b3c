"""The tiny LLaVA: a `LlavaForConditionalGeneration` that sees mini-COCO, built in minutes.

A checkpoint folder like `llava-hf/llava-1.5-7b-hf`'s (safetensors, tokenizer, processor, chat
template), with 1.4 million parameters instead of 7 billion.
`python -m minicoco.llava data/mini_llava` builds the shipped one again: the default recipe's.
"""

import json
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from msgspec import structs
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cocoift.core.files import finish_replacing, read_json, replacing_folder, write_text
from cocoift.core.schema import IMAGE_MARKER, Record
from cocoift.tuning.chat import Encoding, Sample, chat_template, encode
from minicoco import CHAT, VERSION, Recipe, pretrain
from minicoco.corpus import conversation, vocabulary_texts
from minicoco.draw import draw
from minicoco.scenes import GRID, Scene, sample_scenes

_END = CHAT.markers.end
_SPECIALS = ["<pad>", "<s>", _END, IMAGE_MARKER]


def pretrained(
    recipe: Recipe,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor, dict[str, float]]:
    """Return a tiny LLaVA trained from scratch, its processor, and its final losses."""
    torch.manual_seed(recipe.seed)
    rng = random.Random(f"llava/{recipe.seed}")
    # Not the scenes of any study, whose seeds are small.
    scenes = sample_scenes(recipe.scenes, seed=1_000_003 + recipe.seed, pixels=recipe.pixels)
    tokenizer = train_tokenizer(scenes[:800], rng, recipe=recipe)
    processor = make_processor(tokenizer, recipe=recipe)
    model = LlavaForConditionalGeneration(make_config(tokenizer, recipe=recipe))
    pretrain.initialise(model)
    pixels = torch.from_numpy(normalised(scenes, processor.image_processor))
    tower = pretrain.pretrain_tower(model, pixels, scenes, steps=recipe.tower_steps)
    raw = pretrain.features(model, pixels)
    mean, deviation = raw.mean((0, 1)), raw.std((0, 1))

    encoding = Encoding(tokenizer, CHAT, GRID * GRID)

    def make(number: int, draw_words: random.Random) -> Sample:
        messages = conversation(scenes[number], draw_words, rounds=recipe.rounds)
        record = Record("", "", messages, [""] * (len(messages) // 2))
        return encode(record, encoding)

    batches = pretrain.batches_by_length(
        make, count=len(scenes), tokens=recipe.batch_tokens, seed=recipe.seed
    )
    language = pretrain.pretrain_language(
        model, (raw - mean) / deviation, batches, steps=recipe.language_steps
    )
    pretrain.fold(model.model.multi_modal_projector, mean=mean, deviation=deviation)
    return model, processor, {"tower": tower, "language": language}


def make_config(tokenizer: PreTrainedTokenizerFast, *, recipe: Recipe) -> LlavaConfig:
    """Return LLaVA-1.5's architecture at the recipe's size, with a patch per grid cell."""
    vision = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=recipe.pixels,
        patch_size=recipe.pixels // GRID,
        projection_dim=64,
    )
    text = LlamaConfig(
        hidden_size=recipe.width,
        # A multiple of 64, which the 4-bit kernels of bitsandbytes need on some processors.
        intermediate_size=recipe.width * 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        vocab_size=len(tokenizer),
        max_position_embeddings=recipe.context_tokens,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_MARKER),
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def train_tokenizer(
    scenes: Sequence[Scene], rng: random.Random, *, recipe: Recipe
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on the words of the study."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=_SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(vocabulary_texts(list(scenes), rng), trainer)
    start = ("<s>", made.token_to_id("<s>"))
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token=_END,
        pad_token="<pad>",
        additional_special_tokens=[IMAGE_MARKER],
        model_max_length=recipe.context_tokens,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast, *, recipe: Recipe) -> LlavaProcessor:
    """Return the processor: CLIP's image processor at the recipe's size, and the study's chat."""
    side = recipe.pixels
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=side // GRID,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(CHAT),
    )


def normalised(scenes: Sequence[Scene], processor: CLIPImageProcessorPil) -> np.ndarray:
    """Return drawn scenes as the processor prepares them, shape (scenes, 3, side, side).

    They are squares of the right size already, and need only be normalised.
    """
    pixels = np.stack([np.asarray(draw(scene), np.float32) for scene in scenes]) / 255
    mean, std = (np.float32(values) for values in (processor.image_mean, processor.image_std))
    return ((pixels - mean) / std).transpose(0, 3, 1, 2)


_BUILT = "built.json"


def build_tiny_llava(
    folder: Path, recipe: Recipe, *, shipped: Path | None = None
) -> dict[str, float]:
    """Build the checkpoint in `folder` unless it is there already; return its final losses.

    A checkpoint of the same recipe and version is kept, and the `shipped` one copied if it is of
    that recipe and version.  The folder appears only when complete.
    """
    finish_replacing(folder)
    wanted = {"recipe": structs.asdict(recipe), "version": VERSION}
    if (losses := _losses(folder, wanted)) is not None:
        return losses
    if shipped and (losses := _losses(shipped, wanted)) is not None:
        with replacing_folder(folder) as unfinished:
            shutil.copytree(shipped, unfinished)
        return losses
    model, processor, losses = pretrained(recipe)
    with replacing_folder(folder) as unfinished:
        model.half().save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        built = json.dumps({**wanted, "losses": losses}, indent=1) + "\n"
        write_text(unfinished / _BUILT, built)
    return losses


def _losses(folder: Path, wanted: dict[str, Any]) -> dict[str, float] | None:
    """Return the losses of a checkpoint, or `None` unless it is of this recipe and version."""
    if not (folder / _BUILT).is_file():
        return None
    fix = f"delete {folder} and run notebook 00_setup again"
    present = read_json(folder / _BUILT, dict[str, Any], fix=fix)
    return dict(present["losses"]) if wanted.items() <= present.items() else None


if __name__ == "__main__":
    try:
        print(build_tiny_llava(Path(sys.argv[1]), Recipe()))
    except IndexError:
        sys.exit("name the folder, e.g. python -m minicoco.llava data/mini_llava")
