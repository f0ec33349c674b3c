"""What a published language model gets from the tiny LLaVA: its tower, and an initial projector.

The tower was trained with labels per patch.  A projector can therefore be fitted, without the
language model, to express the labels of each patch in words; in stage one the model then learns to
see several times faster than from a random projector.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    LlavaConfig,
)
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from cocoift.core.bars import tqdm
from cocoift.core.files import replacing, replacing_folder
from cocoift.tuning.assembly import published_projector
from cocoift.tuning.model import load_model, load_processor
from minicoco.llava import normalised
from minicoco.pretrain import cell_labels, features, fold
from minicoco.scenes import BACKGROUNDS, CATEGORIES, COLOURS, Scene, sample_scenes

# Scenes of no study and not of the tower's training, whose seeds start at 1,000,003.
_SEED = 2_000_003
_SIZES = ("small", "large")


def write_tower(tiny: Path, folder: Path) -> Path:
    """Write the tower of a tiny LLaVA and its image processor as a CLIP checkpoint."""
    model, processor = load_model(tiny, four_bit=False), load_processor(tiny)
    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    with replacing_folder(folder) as unfinished:
        tower.save_pretrained(unfinished)
        processor.image_processor.save_pretrained(unfinished)
    return folder


def write_word_projector(
    tiny: Path, out: Path, *, language: Path, scenes: int = 1_500, steps: int = 400
) -> float:
    """Fit a projector that maps a patch to the words that name it; return the explained variance.

    The target of a patch is the sum of the language model's embeddings of its size, colour and
    category, or of the background where it shows no object.  The file has LLaVA's format, for
    `assembly.Parts`.
    """
    model, processor = load_model(tiny, four_bit=False), load_processor(tiny)
    drawn = sample_scenes(scenes, seed=_SEED, pixels=model.config.vision_config.image_size)
    pixels = torch.from_numpy(normalised(drawn, processor.image_processor))
    seen = features(model, pixels).flatten(0, 1)
    mean, deviation = seen.mean(0), seen.std(0)
    text = AutoConfig.from_pretrained(language)
    shape = LlavaConfig(vision_config=model.config.vision_config, text_config=text)
    words = _word_embeddings(language)
    wanted = torch.stack([torch.stack([words[word] for word in row]).sum(0)
                          for row in _named(drawn)])  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        projector = LlavaMultiModalProjector(shape)
        error = _fit(projector, (seen - mean) / deviation, wanted, steps=steps)
    fold(projector, mean=mean, deviation=deviation)
    with replacing(out) as unfinished:
        save_file(published_projector(projector.state_dict()), unfinished)
    return 1 - error / wanted.var(0, correction=0).sum().item()


def _named(scenes: Sequence[Scene]) -> list[tuple[str, ...]]:
    """Return the words that name each patch of each scene."""
    categories, colours = list(CATEGORIES.values()), list(COLOURS)
    found: list[tuple[str, ...]] = []
    for scene in scenes:
        for category, colour, size, *_ in cell_labels(scene).tolist():
            thing = (_SIZES[size - 1], colours[colour - 1], categories[category - 1])
            found.append(thing if category else (scene.background,))
    return found


def _word_embeddings(language: Path) -> dict[str, Tensor]:
    """Return for each word the summed embeddings of its tokens, as inside a sentence."""
    tokenizer = AutoTokenizer.from_pretrained(language)
    model = AutoModelForCausalLM.from_pretrained(language, use_safetensors=True)
    embeddings = model.get_input_embeddings().weight.detach().float()
    words = (*CATEGORIES.values(), *COLOURS, *_SIZES, *BACKGROUNDS)
    return {
        word: embeddings[tokenizer(f" {word}", add_special_tokens=False)["input_ids"]].sum(0)
        for word in words
    }


def _fit(projector: nn.Module, seen: Tensor, wanted: Tensor, *, steps: int) -> float:
    """Fit a projector by least squares and return its mean squared error."""
    optimiser = torch.optim.AdamW(projector.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in tqdm(range(steps), desc="fitting the projector to words", leave=False):
        rows = torch.randint(0, len(seen), (2_048,))
        loss = (projector(seen[rows]) - wanted[rows]).pow(2).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.inference_mode():
        return (projector(seen) - wanted).pow(2).sum(1).mean().item()
