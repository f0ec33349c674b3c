"""Checkpoints exported whole."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
)

from cocoift.__main__ import main
from cocoift.core.files import DataError
from cocoift.core.images import pixel_values
from cocoift.core.schema import Message
from cocoift.tuning.chat import ChatFormat, pieces
from cocoift.tuning.checkpoints import (
    add_adapter,
    as_trained,
    export,
    load_adapters,
    refuse_foreign,
    save_adapter,
    save_checkpoint,
)
from cocoift.tuning.model import load_model, load_processor


def logits(model):
    torch.manual_seed(0)
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42, 43]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=torch.rand(1, 3, 64, 64)).logits


@pytest.mark.parametrize("size", [(64, 64), (90, 40), (30, 101)], ids=["square", "wide", "tall"])
def test_an_exported_processor_prepares_what_training_did(checkpoint, tmp_path, size):
    theirs = load_processor(checkpoint)
    # The hub's template: no end of an answer, no system prompt.
    theirs.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    as_trained(theirs, chat=ChatFormat()).save_pretrained(tmp_path)
    served = AutoProcessor.from_pretrained(tmp_path)
    assert type(served.image_processor).__name__.startswith("LlavaImageProcessor")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))
    expected = pixel_values([picture], load_processor(checkpoint).image_processor)
    found = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=picture)
    # One grey level of 255, where the padding's colour is rounded.
    assert np.abs(np.asarray(found["pixel_values"]) - expected).max() < 0.02
    messages = [Message("human", "What is it?"), Message("gpt", "A cup."), Message("human", "Why?"),
            Message("gpt", "So.")]  # fmt: skip
    roles = {"human": "user", "gpt": "assistant"}
    chat = [
        {"role": roles[m.speaker], "content": [{"type": "text", "text": m.value}]} for m in messages
    ]
    text = served.apply_chat_template(chat)
    assert text == "".join(piece.text for piece in pieces(messages, chat=ChatFormat()))
    assert "A cup.</s>USER: Why?" in text


def test_an_exported_adapter_answers_without_peft_under_the_published_names(checkpoint, tmp_path):
    model = add_adapter(load_model(checkpoint, four_bit=False), rank=4, alpha=8)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapter = save_adapter(model, tmp_path / "adapter")
    out = export(adapter, tmp_path / "out", checkpoint=checkpoint, dtype=torch.float32)
    tuned = load_adapters(load_model(checkpoint, four_bit=False), {"tuned": adapter})
    served = AutoModelForImageTextToText.from_pretrained(out)
    assert type(AutoProcessor.from_pretrained(out)).__name__ == "LlavaProcessor"
    assert torch.allclose(logits(served), logits(tuned), atol=1e-4)
    assert not torch.allclose(
        logits(served), logits(load_model(checkpoint, four_bit=False)), atol=1e-2
    )
    # The tensor names of llava-hf/llava-1.5-7b-hf, which vLLM's loader knows.
    names = set(load_file(out / "model.safetensors"))
    assert {
        "language_model.lm_head.weight",
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "vision_tower.vision_model.embeddings.class_embedding",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
    } <= names
    assert not [name for name in names if "lora" in name or "base_model" in name]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        whole = (adapter / name).read_bytes()
        (adapter / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"adapter: .*; delete .*adapter and run notebook 04"):
            load_adapters(load_model(checkpoint, four_bit=False), {"tuned": adapter})
        (adapter / name).write_bytes(whole)


def test_an_export_replaces_an_earlier_one_but_no_folder_with_other_files(checkpoint, tmp_path):
    model, processor = load_model(checkpoint, four_bit=False), load_processor(checkpoint)
    out = tmp_path / "out"
    for _ in range(2):
        refuse_foreign(out)
        save_checkpoint(model, processor, out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"out holds notes\.txt, which no earlier export wrote"):
        refuse_foreign(out)
    (tmp_path / "file").write_text("mine")
    for place, reason in (("out", r"holds notes\.txt"), ("file", "is a file; name a folder")):
        folder = str(tmp_path / place)
        for words in (["export", "mini", folder], ["assemble", folder, "nope", "nope"]):
            with pytest.raises(SystemExit, match=reason):
                main(words)
    assert (out / "notes.txt").read_text() == "mine"
