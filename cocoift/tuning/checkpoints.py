"""Adapters and checkpoints on disk, in safetensors: LoRA and projector, and what is served.

An adapter is LoRA on the language model and the projector in full, by LLaVA-1.5's recipe
(`finetune_lora.sh` in haotian-liu/LLaVA).  An export is a whole LLaVA under the published names.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from cocoift.core.files import DataError, read_json, replacing_folder, write_text
from cocoift.tuning.chat import ChatFormat, chat_template
from cocoift.tuning.model import load_model, load_processor

# The language model's linear layers, and no others: the tower has layers of the same names.
ADAPTED = (
    r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\."
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
)

# An adapter's file in its folder, as peft names it.
WEIGHTS = "adapter_model.safetensors"

NOTES = "training.json"

_TRAIN = "run notebook 04_finetune_qlora or `cocoift train` first"
_AGAIN = "delete {} and run notebook 04_finetune_qlora or `cocoift train` again"
# Names the files of a checkpoint, so that the next one may take their place.
_LIST = "written_by_cocoift.txt"


def is_adapted(name: str) -> bool:
    """Tell whether the module of this path is quantised and gets an adapter."""
    return re.fullmatch(ADAPTED, name) is not None


def add_adapter(
    model: LlavaForConditionalGeneration,
    *,
    rank: int = 128,
    alpha: int = 256,
    dropout: float = 0.05,
) -> PeftModel:
    """Return the model with a fresh adapter: LoRA on its language model, projector in full.

    The defaults are LLaVA-1.5's; with rank 0 the projector trains alone (stage one).  Everything
    else is frozen, and stays in the precision it was loaded in; trainable weights are float32.
    """
    config = LoraConfig(
        r=max(rank, 1),
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=ADAPTED if rank else DUMMY_TARGET_MODULES,
        modules_to_save=["multi_modal_projector"],
        task_type="CAUSAL_LM",
    )
    with _without_advice():
        adapted = get_peft_model(model, config)
    # With checkpointing, transformers makes all embeddings require gradients, the tower's too:
    # backpropagation would then run through it, twice, for nothing.
    tower = model.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def parameter_groups(
    model: nn.Module, *, projector_learning_rate: float
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return what trains as an optimiser's groups: LoRA, and the projector at its own rate."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for name, p in named if "projector" not in name]},
        {"params": [p for name, p in named if "projector" in name], "lr": projector_learning_rate},
    ]


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    notes: Mapping[str, str] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Path:
    """Save adapter and projector together in safetensors, whole or not at all.

    `notes` are texts to save beside them, by file name; `weights` the model's, where it holds only
    a share of them itself.  Raises `DataError` when the folder cannot be written, e.g. because the
    disk is full.
    """
    with replacing_folder(folder) as unfinished:
        model.save_pretrained(unfinished, safe_serialization=True, state_dict=weights)
        for name, text in (notes or {}).items():
            write_text(unfinished / name, text)
    return folder


def load_adapters(model: LlavaForConditionalGeneration, folders: Mapping[str, Path]) -> PeftModel:
    """Return a base model with several saved adapters, none of them in use yet (`using`).

    Raises `DataError` when one is not there, or is damaged.
    """
    loaded: Any = None
    for name, folder in folders.items():
        if not (folder / WEIGHTS).is_file():
            raise DataError(f"no adapter in {folder} ({WEIGHTS}); {_TRAIN}")
        try:
            with _without_advice():
                if loaded is None:
                    loaded = PeftModel.from_pretrained(model, folder, adapter_name=name)
                else:
                    loaded.load_adapter(folder, adapter_name=name)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise DataError(f"adapter {folder}: {error}; {_AGAIN.format(folder)}") from error
    return loaded.eval()


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence a warning that peft 0.21 causes in transformers, about a name that it uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


@contextmanager
def using(model: Any, adapter: str | None) -> Iterator[Any]:
    """Use one of the loaded adapters, or the base itself (`None`), inside the block.

    A model that has none, or has one merged into it, is used as it is.
    """
    if not isinstance(model, PeftModel):
        yield model
    elif adapter is None:
        with model.disable_adapter():
            yield model
    else:
        model.set_adapter(adapter)
        yield model


def training_log(adapter: Path) -> dict[str, Any]:
    """Return what `train` noted beside an adapter; raises `DataError` where that is not there."""
    notes = notes_of(adapter)
    if not notes:
        raise DataError(f"no adapter in {adapter} ({NOTES}); {_TRAIN}")
    return notes


def notes_of(adapter: Path) -> dict[str, Any]:
    """Return the notes beside an adapter, empty where there are none.

    Raises `DataError` when they are damaged.
    """
    path = adapter / NOTES
    if not path.is_file():
        return {}
    return read_json(path, dict[str, Any], fix=_AGAIN.format(adapter))


def export(
    adapter: Path,
    out: Path,
    *,
    checkpoint: str | Path,
    chat: ChatFormat | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Merge an adapter into its base in full precision, for vLLM or transformers to load.

    The export serves what was trained: this chat (LLaVA-1.5's if none is given), where the
    hub's template leaves out `</s>`, and images padded to squares, where the base's processor
    crops them.  The adapter learnt beside four-bit weights; merged into the exact ones its answers
    can differ a little, as with any QLoRA export.  Raises `DataError` when either part is missing.
    """
    model = load_adapters(
        load_model(checkpoint, four_bit=False), {"tuned": adapter}
    ).merge_and_unload()
    processor = as_trained(load_processor(checkpoint), chat=chat or ChatFormat())
    return save_checkpoint(model.to(dtype), processor, out)


def as_trained(processor: LlavaProcessor, *, chat: ChatFormat) -> LlavaProcessor:
    """Return a processor that renders chats and prepares images as training does."""
    pictures = processor.image_processor
    names = ("size", "crop_size", "image_mean", "image_std", "resample", "rescale_factor")
    known = {name: getattr(pictures, name, None) for name in names}
    given = {name: value for name, value in known.items() if value is not None}
    # A SigLIP's processor does not crop.
    processor.image_processor = LlavaImageProcessorPil(
        **given, do_pad=True, do_center_crop="crop_size" in given
    )
    processor.chat_template = processor.tokenizer.chat_template = chat_template(chat)
    return processor


def save_checkpoint(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, out: Path
) -> Path:
    """Save a checkpoint, whole or not at all, under the names of published LLaVA-1.5 files."""
    with replacing_folder(out) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        _rename_tensors(unfinished, _published_name)
        names = sorted(path.name for path in unfinished.iterdir())
        write_text(unfinished / _LIST, "".join(f"{name}\n" for name in names))
    return out


def refuse_foreign(out: Path) -> None:
    """Raise `DataError` unless `out` is new, empty, or holds what `save_checkpoint` wrote alone.

    `save_pretrained` of transformers writes over whatever is there; here the folder is replaced
    whole, so a file that somebody else put there would be lost.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder")
    listed = out / _LIST
    names = listed.read_text(encoding="utf-8", errors="replace") if listed.is_file() else ""
    written = {_LIST, *names.splitlines()}
    foreign = sorted(path.name for path in out.glob("*") if path.name not in written)
    if foreign:
        raise DataError(
            f"{out} holds {foreign[0]}, which no earlier export wrote; name a new folder, or "
            "replace this one whole with --force"
        )


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
