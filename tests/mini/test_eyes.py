"""The tower that mini lends, and the projector that names its patches in words."""

import pytest
import torch
from safetensors.torch import load_file
from tokenizers_like import tokenizer_of
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from cocoift.tuning.model import load_model, load_processor
from minicoco import eyes
from minicoco.llava import normalised
from minicoco.scenes import CATEGORIES, sample_scenes


@pytest.fixture(scope="module")
def lent(root, tmp_path_factory):
    """The shipped tower, a small language model, and a projector fitted between them."""
    folder = tmp_path_factory.mktemp("eyes")
    torch.manual_seed(0)
    tokenizer = tokenizer_of("chatml")
    config = LlamaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=1,
                         num_attention_heads=2, vocab_size=len(tokenizer))  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "language")
    tokenizer.save_pretrained(folder / "language")
    tower = eyes.write_tower(root / "data/mini_llava", folder / "tower")
    projector = folder / "projector.safetensors"
    explained = eyes.write_word_projector(
        root / "data/mini_llava", projector, language=folder / "language", scenes=400, steps=300
    )
    return folder, tower, projector, explained


def test_the_lent_tower_computes_what_the_tiny_llavas_does(lent, root):
    _, tower, *_ = lent
    tiny = load_model(root / "data/mini_llava", four_bit=False)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs = tiny.model.vision_tower(pixels).last_hidden_state
        assert torch.equal(CLIPVisionModel.from_pretrained(tower)(pixels).last_hidden_state, theirs)


def test_a_projected_patch_of_an_unseen_scene_is_nearest_to_its_own_words(lent, root):
    folder, tower, projector, explained = lent
    first, last = torch.nn.Linear(128, 64), torch.nn.Linear(64, 64)
    named = load_file(projector)
    first.load_state_dict({k: named[f"model.mm_projector.0.{k}"] for k in ("weight", "bias")})
    last.load_state_dict({k: named[f"model.mm_projector.2.{k}"] for k in ("weight", "bias")})
    scenes = sample_scenes(60, seed=77, pixels=64)
    processor = load_processor(root / "data/mini_llava").image_processor
    pixels = torch.from_numpy(normalised(scenes, processor))
    with torch.no_grad():
        states = CLIPVisionModel.from_pretrained(tower)(pixels, output_hidden_states=True)
        features = states.hidden_states[-2][:, 1:].flatten(0, 1)
        seen = last(torch.nn.functional.gelu(first(features)))
    words = eyes._word_embeddings(folder / "language")
    right = []
    for patch, named in zip(seen, eyes._named(scenes), strict=True):
        if len(named) == 3:
            size, colour, category = named
            candidates = {c: words[size] + words[colour] + words[c] for c in CATEGORIES.values()}
            nearest = min(candidates, key=lambda c: (candidates[c] - patch).norm())
            right.append(nearest == category)
    assert explained > 0.8
    assert sum(right) / len(right) > 0.8  # by chance 0.1
