"""Language models and towers of the published architectures, at tiny width, random weights."""

import torch
from tokenizers_like import tokenizer_of
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

LANGUAGE_MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "mistral": (MistralForCausalLM, MistralConfig),
}


def write_tower(kind, folder, *, side=32, patch=16):
    """Write a CLIP or SigLIP tower for pictures of this side, and return it."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 2, "image_size": side, "patch_size": patch}
    square = {"height": side, "width": side}
    torch.manual_seed(0)
    if kind == "clip":
        tower = CLIPVisionModel(CLIPVisionConfig(**sizes))
        pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**sizes))
        pictures = SiglipImageProcessorPil(size=square)
    tower.save_pretrained(folder)
    pictures.save_pretrained(folder)
    return tower.eval()


def write_language_model(kind, folder):
    """Write a model with tied embeddings and a ChatML tokenizer, as SmolLM2 and Qwen2.5 have."""
    tokenizer = tokenizer_of("chatml")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
    model, config = LANGUAGE_MODELS[kind]
    torch.manual_seed(0)
    text = model(config(**sizes, tie_word_embeddings=True, eos_token_id=2))
    text.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return text.eval()
