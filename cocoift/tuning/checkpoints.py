"""Checkpoints on disk: a tuned LLaVA exported for serving, under the published names."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from cocoift.core.files import DataError, replacing_folder, write_text
from cocoift.tuning.adapters import load_adapters
from cocoift.tuning.chat_formats import ChatFormat, chat_template
from cocoift.tuning.model import load_model, load_processor

# Names the files of a checkpoint, so that the next one may take their place.
_LIST = "written_by_cocoift.txt"


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
    hub's template leaves out `</s>`, and pictures padded to squares, where the base's processor
    crops them.  The adapter learnt beside four-bit weights; merged into the exact ones its answers
    can differ a little, as with any QLoRA export.  Raises `DataError` when either part is missing.
    """
    model = load_adapters(
        load_model(checkpoint, four_bit=False), {"tuned": adapter}
    ).merge_and_unload()
    processor = as_trained(load_processor(checkpoint), chat=chat or ChatFormat())
    return save_checkpoint(model.to(dtype), processor, out)


def as_trained(processor: LlavaProcessor, *, chat: ChatFormat) -> LlavaProcessor:
    """Return a processor that renders chats and prepares pictures as training does."""
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
    written = {_LIST, *listed.read_text(encoding="utf-8").splitlines()} if listed.is_file() else ()
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
