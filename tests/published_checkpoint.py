"""Write a checkpoint with the files of `llava-hf/llava-1.5-7b-hf`, at tiny width.

Names of files and tensors, shards with an index, the separate preprocessor_config.json, and the
chat template without `</s>` are as published; so are 336 px pictures in patches of 14 px.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ message['role'].upper() + ': '}}{% endif %}{% for content in message['content'] | "
    "selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' '}}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def write_published_checkpoint(folder: Path) -> None:
    folder.mkdir(parents=True)
    tokenizer = llama_tokenizer()
    tokenizer.save_pretrained(folder)
    model = LlavaForConditionalGeneration(config_of(tokenizer))
    save_shards(model, folder)
    config = json.loads(config_of(tokenizer).to_json_string())
    config |= {"architectures": ["LlavaForConditionalGeneration"], "torch_dtype": "float16"}
    config |= {"ignore_index": -100, "pad_token_id": tokenizer.pad_token_id}
    write(folder / "config.json", config)
    write(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write(folder / "chat_template.json", {"chat_template": TEMPLATE})
    write(folder / "processor_config.json", {
        "image_token": "<image>", "num_additional_image_tokens": 1, "patch_size": 14,
        "processor_class": "LlavaProcessor", "vision_feature_select_strategy": "default",
    })  # fmt: skip
    write(folder / "preprocessor_config.json", {
        "crop_size": {"height": 336, "width": 336}, "do_center_crop": True,
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711], "processor_class": "LlavaProcessor",
        "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336},
    })  # fmt: skip


def write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of Llama's kind: sentencepiece-like, byte fall-back, `<image>` added."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    alphabet = [chr(n) for n in range(33, 127)] + ["▁", "\n"]
    byte_tokens = [f"<0x{n:02X}>" for n in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *byte_tokens],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    made.train_from_iterator(["What color is the car? The car is at the top left."] * 50, trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        padding_side="left", model_max_length=4096,
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"], "pad_token": "<pad>"})
    return tokenizer


def config_of(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    text = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=-(-len(tokenizer) // 64) * 64,
        max_position_embeddings=4096, rms_norm_eps=1e-5,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        image_size=336, patch_size=14, projection_dim=32,
    )  # fmt: skip
    return LlavaConfig(
        text_config=text, vision_config=vision, image_seq_length=576,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip


def save_shards(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Save the weights in two shards under the published tensor names, in float16."""
    replacements = (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    )
    tensors = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in replacements:
            if name.startswith(ours):
                tensors[name.replace(ours, theirs, 1)] = tensor.to(torch.float16).clone()
                break
    names = sorted(tensors)
    listed = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        listed |= dict.fromkeys(part, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    write(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": size}, "weight_map": listed},
    )
