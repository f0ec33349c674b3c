"""Checkpoints made of parts: a base LLaVA assembled, a tuned one exported for serving."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionModel,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from cocoift.core.files import DataError, replacing_folder
from cocoift.core.schema import IMAGE_MARKER
from cocoift.tuning.adapters import load_adapters
from cocoift.tuning.chat import VICUNA_SYSTEM, chat_template
from cocoift.tuning.model import check_files, load_model, load_processor
from cocoift.tuning.vicuna import vicuna_tokenizer

_PROJECTOR_LAYERS = {"0": "linear_1", "2": "linear_2"}
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file(torch.load('
    "'mm_projector.bin', weights_only=True), 'mm_projector.safetensors')\""
)


def assemble(
    out: Path,
    *,
    language: str | Path,
    vision: str | Path,
    projector: Path,
    system: str,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Build a base LLaVA-1.5 from a Vicuna, a CLIP tower and LLaVA's stage-1 projector.

    All parts are in safetensors; `projector` is `mm_projector.bin` as published with LLaVA's
    pretraining (e.g. `liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5`), converted: the
    published file is a pickle, and the error about it says how.  The tokenizer, of
    `tokenizer.model` where there is one, gains `<image>` and `<pad>`, and the embeddings are padded
    to a multiple of 64, as in `llava-hf`'s conversion.
    Raises `DataError` when a part is missing or does not fit the others.
    """
    check_files(language)
    check_files(vision)
    weights = read_projector(projector)
    try:
        tokenizer = _tokenizer(language)
        text = LlamaForCausalLM.from_pretrained(language, use_safetensors=True, dtype=dtype)
        tower = CLIPVisionModel.from_pretrained(vision, use_safetensors=True, dtype=dtype)
        pictures = CLIPImageProcessorPil.from_pretrained(vision)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot assemble a LLaVA: {error}") from error
    text.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    text.config.pad_token_id = tokenizer.pad_token_id
    image = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    model = _joined(text, tower, image_token=image, dtype=dtype)
    try:
        model.model.multi_modal_projector.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"{projector} does not fit tower and language model: {error}") from error
    processor = LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=tower.config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(system),
    )
    return _save(model, processor, out)


def _joined(
    text: LlamaForCausalLM, tower: CLIPVisionModel, *, image_token: int, dtype: torch.dtype
) -> LlavaForConditionalGeneration:
    """Return a LLaVA of these parts, its projector's weights not set yet."""
    side, patch = tower.config.image_size, tower.config.patch_size
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=image_token,
        image_seq_length=(side // patch) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.language_model, model.lm_head = text.model, text.lm_head
    model.model.vision_tower = tower
    model.model.multi_modal_projector.to_empty(device="cpu").to(dtype)
    return model


def _tokenizer(language: str | Path) -> PreTrainedTokenizerFast:
    path = cached_file(language, "tokenizer.model", _raise_exceptions_for_missing_entries=False)
    if path is not None:
        return vicuna_tokenizer(Path(path))
    tokenizer = AutoTokenizer.from_pretrained(language)
    # One after the other: `<image>` comes before `<pad>`, as in the hub's conversions.
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_MARKER]})
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def read_projector(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of LLaVA's two-layer projector under transformers' names.

    Raises `DataError` when the file is missing, no safetensors, or another kind of projector.
    """
    try:
        loaded = load_file(path)
    except Exception as error:  # safetensors has an error of its own
        raise DataError(
            f"{path}: {error}; weights are read from safetensors only.  LLaVA publishes a pickle; "
            f"if you trust its source, convert it once: {_CONVERT}"
        ) from error
    try:
        return {
            f"{_PROJECTOR_LAYERS[layer]}.{kind}": tensor
            for name, tensor in loaded.items()
            for layer, kind in [name.rsplit(".", 2)[-2:]]
        }
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: layer {error} is not one of an mlp2x_gelu projector") from error


def export(
    adapter: Path,
    out: Path,
    *,
    checkpoint: str | Path,
    system: str = VICUNA_SYSTEM,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Merge an adapter into its base in full precision, for vLLM or transformers to load.

    What is served is what was trained: the chat of `tuning.chat` with this system prompt, where
    the hub's template leaves out `</s>`, and pictures padded to squares, where the base's processor
    crops them.  The adapter learnt beside four-bit weights; merged into the exact ones its answers
    can differ a little, as with any QLoRA export.  Raises `DataError` when either part is missing.
    """
    model = load_adapters(
        load_model(checkpoint, four_bit=False), {"tuned": adapter}
    ).merge_and_unload()
    processor = as_trained(load_processor(checkpoint), system=system)
    return _save(model.to(dtype), processor, out)


def as_trained(processor: LlavaProcessor, *, system: str) -> LlavaProcessor:
    """Return a processor that renders chats and prepares pictures as training does."""
    pictures = processor.image_processor
    kept = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")
    processor.image_processor = LlavaImageProcessorPil(
        **{name: getattr(pictures, name) for name in kept}, do_pad=True
    )
    processor.chat_template = processor.tokenizer.chat_template = chat_template(system)
    return processor


def _save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path) -> Path:
    """Save a checkpoint, whole or not at all, under the names of published LLaVA-1.5 files."""
    with replacing_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        _rename_tensors(unfinished, _published_name)
    return out


def _published_name(name: str) -> str:
    """Return a tensor's name as in `llava-hf/llava-1.5-7b-hf`, which vLLM expects."""
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    return name.replace(tower, inner, 1) if name.startswith(tower) and inner not in name else name


def _rename_tensors(folder: Path, rename: Callable[[str], str]) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = {rename(name): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"] = {rename(n): file for n, file in listed["weight_map"].items()}
        index.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
