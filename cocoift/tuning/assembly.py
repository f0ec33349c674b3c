"""A base LLaVA assembled from a language model, a vision tower and a projector or none."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoTokenizer,
    BaseImageProcessor,
    CLIPVisionModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SiglipVisionModel,
)
from transformers.utils import cached_file

from cocoift.core.files import DataError
from cocoift.core.schema import IMAGE_MARKER
from cocoift.tuning.chat import ChatFormat, chat_template
from cocoift.tuning.checkpoints import save_checkpoint
from cocoift.tuning.model import check_files, class_tokens, image_tokens, quietly
from cocoift.tuning.vicuna import vicuna_tokenizer

_LANGUAGE_MODELS = ("llama", "qwen2")
# By the type in the configuration of a whole checkpoint and of its vision part.
_TOWERS = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}
_PROJECTOR_LAYERS = {"0": "linear_1", "2": "linear_2"}
_CONVERT = (
    'python -c "import torch; from safetensors.torch import save_file; save_file(torch.load('
    "'mm_projector.bin', weights_only=True), 'mm_projector.safetensors')\""
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a base is made of, each a folder or a name on the model hub, in safetensors.

    `projector` is a file in LLaVA's format; without one it is drawn at random from `seed`.
    """

    language: str | Path
    vision: str | Path
    projector: Path | None = None
    seed: int = 0


def assemble(
    out: Path, parts: Parts, *, chat: ChatFormat, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """Build a base LLaVA from a Llama or Qwen2, a CLIP or SigLIP tower, and a projector.

    Features come from the second-to-last layer, as in LLaVA-1.5: CLIP's without the class
    token, which SigLIP does not have.  The tokenizer, of `tokenizer.model` where there is one,
    gains `<image>` and `<pad>`, and the embeddings are padded to a multiple of 64, as in
    `llava-hf`'s conversion.  LLaVA's stage-1 projectors are published as `mm_projector.bin` (e.g.
    `liuhaotian/llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5`), a pickle: the error about it says
    how to convert it.
    Raises `DataError` when a part is missing or does not fit the others or the chat format.
    """
    named = "name a folder of transformers' files, or OWNER/NAME on the model hub"
    check_files(parts.language, remedy=f"for the language model {named}")
    check_files(parts.vision, remedy=f"for the vision tower {named}")
    weights = read_projector(parts.projector) if parts.projector else None
    try:
        kind = _kind(parts.vision, "vision tower", tuple(_TOWERS))
        _kind(parts.language, "language model", _LANGUAGE_MODELS)
        tokenizer = _tokenizer(parts.language, chat)
        options = {"use_safetensors": True, "dtype": dtype}
        text = AutoModelForCausalLM.from_pretrained(parts.language, **options)
        tower = _TOWERS[kind].from_pretrained(parts.vision, **options)
        pictures = AutoImageProcessor.from_pretrained(parts.vision, backend="pil")
    except (OSError, ValueError) as error:
        raise DataError(f"cannot assemble a LLaVA: {error}") from error
    with quietly():  # it says how the embeddings of `<image>` and `<pad>` are drawn
        text.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    for settings in (text.config, text.generation_config):
        settings.pad_token_id = tokenizer.pad_token_id
        settings.eos_token_id = tokenizer.eos_token_id
    image = tokenizer.convert_tokens_to_ids(IMAGE_MARKER)
    model = _joined(text, tower, image_token=image, seed=parts.seed)
    if weights:
        try:
            model.model.multi_modal_projector.load_state_dict(weights)
        except RuntimeError as error:
            message = f"{parts.projector} does not fit tower and language model: {error}"
            raise DataError(message) from error
    processor = make_processor(model.config, pictures=pictures, tokenizer=tokenizer, chat=chat)
    return save_checkpoint(model, processor, out)


def make_processor(
    config: LlavaConfig,
    *,
    pictures: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    chat: ChatFormat,
) -> LlavaProcessor:
    """Return the processor of a LLaVA of this shape."""
    return LlavaProcessor(
        image_processor=pictures,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=class_tokens(config.vision_config),
        chat_template=chat_template(chat),
    )


def _kind(checkpoint: str | Path, part: str, known: tuple[str, ...]) -> str:
    found = AutoConfig.from_pretrained(checkpoint).model_type
    if found not in known:
        raise DataError(
            f"{checkpoint} is of type {found}; a {part} here is one of {', '.join(known)}"
        )
    return str(found)


def _joined(
    text: PreTrainedModel, tower: PreTrainedModel, *, image_token: int, seed: int
) -> LlavaForConditionalGeneration:
    """Return a LLaVA of these parts, its projector drawn at random."""
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text.config,
        image_token_index=image_token,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default" if class_tokens(tower.config) else "full",
        tie_word_embeddings=text.config.tie_word_embeddings,
    )
    config.image_seq_length = image_tokens(config)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.model.language_model, model.lm_head = text.model, text.lm_head
    model.model.vision_tower = tower
    projector = model.model.multi_modal_projector.to_empty(device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in (projector.linear_1, projector.linear_2):
            layer.reset_parameters()
    projector.to(text.dtype)
    model.generation_config = text.generation_config
    return model


def _tokenizer(language: str | Path, chat: ChatFormat) -> PreTrainedTokenizerBase:
    """Return a language model's tokenizer with `<image>`, `<pad>`, and the end of an answer."""
    path = cached_file(language, "tokenizer.model", _raise_exceptions_for_missing_entries=False)
    if path is not None:
        tokenizer = vicuna_tokenizer(Path(path))
    else:
        tokenizer = AutoTokenizer.from_pretrained(language)
        # One after the other: `<image>` comes before `<pad>`, as in the hub's conversions.
        tokenizer.add_special_tokens(
            {"additional_special_tokens": [IMAGE_MARKER]}, replace_extra_special_tokens=False
        )
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    end = chat.markers.end
    if end not in tokenizer.all_special_tokens:
        raise DataError(
            f"{language} has no special token {end}, which ends an answer in {chat.name}; "
            "choose the chat format that it was trained on"
        )
    tokenizer.eos_token = end
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


def published_projector(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a projector's weights under the names that `read_projector` reads: LLaVA's."""
    numbers = {layer: number for number, layer in _PROJECTOR_LAYERS.items()}
    parts = {name: name.split(".") for name in weights}
    return {
        f"model.mm_projector.{numbers[layer]}.{kind}": weights[name].contiguous()
        for name, (layer, kind) in parts.items()
    }
