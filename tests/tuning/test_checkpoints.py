"""Checkpoints assembled from parts and exported whole."""

import pickle
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionModel,
    LlamaForCausalLM,
)

from cocoift.core.files import DataError
from cocoift.core.images import pixel_values
from cocoift.core.schema import Message
from cocoift.tuning.adapters import add_adapter, load_adapters, save_adapter
from cocoift.tuning.chat import VICUNA_SYSTEM, pieces
from cocoift.tuning.checkpoints import as_trained, assemble, export, read_projector
from cocoift.tuning.model import load_model, load_processor


def logits(model):
    torch.manual_seed(0)
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42, 43]])
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=torch.rand(1, 3, 64, 64)).logits


@pytest.fixture(scope="module")
def parts(checkpoint, tmp_path_factory):
    """The tiny LLaVA taken apart as the published parts are: language, vision, projector."""
    folder = tmp_path_factory.mktemp("parts")
    model, processor = load_model(checkpoint, four_bit=False), load_processor(checkpoint)
    language = LlamaForCausalLM(model.config.text_config)
    language.model, language.lm_head = model.model.language_model, model.lm_head
    language.save_pretrained(folder / "vicuna")
    processor.tokenizer.save_pretrained(folder / "vicuna")
    tower = CLIPVisionModel(model.config.vision_config)
    tower.load_state_dict(model.model.vision_tower.state_dict())
    tower.save_pretrained(folder / "clip")
    processor.image_processor.save_pretrained(folder / "clip")
    names = {"linear_1": "0", "linear_2": "2"}
    published = {
        f"model.mm_projector.{names[name.split('.')[0]]}.{name.split('.')[1]}": tensor.clone()
        for name, tensor in model.model.multi_modal_projector.state_dict().items()
    }
    save_file(published, folder / "mm_projector.safetensors")
    return folder


def assembled(parts, out, **changes):
    options = {"language": parts / "vicuna", "vision": parts / "clip", "system": ""}
    options |= {"projector": parts / "mm_projector.safetensors", "dtype": torch.float32}
    return assemble(out, **options | changes)


def test_a_llava_assembled_from_its_parts_is_the_llava(parts, checkpoint, tmp_path):
    made = assembled(parts, tmp_path / "base")
    whole, again = (load_model(folder, four_bit=False) for folder in (checkpoint, made))
    assert torch.allclose(logits(again)[..., :300], logits(whole), atol=1e-5)
    assert again.config.text_config.vocab_size == 320  # a multiple of 64
    assert load_processor(made).tokenizer.pad_token == "<pad>"


def test_tokens_that_a_vicuna_lacks_are_added(parts, tmp_path):
    tokenizer = load_processor(assembled(parts, tmp_path / "base")).tokenizer
    assert tokenizer.convert_tokens_to_ids("<image>") not in (None, tokenizer.unk_token_id)


class _Harm:
    def __reduce__(self):
        return (exec, ("raise SystemExit('this code must not run')",))


def test_a_pickled_projector_is_never_loaded_and_the_error_converts_it(parts, tmp_path):
    harmful, harmless = tmp_path / "harm.bin", tmp_path / "mm_projector.bin"
    harmful.write_bytes(pickle.dumps(_Harm()))
    torch.save(load_file(parts / "mm_projector.safetensors"), harmless)
    for path in (harmful, harmless):
        with pytest.raises(DataError, match="safetensors only") as told:
            read_projector(path)
    command = str(told.value).partition("convert it once: python ")[2]
    subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, check=True)
    assert set(read_projector(tmp_path / "mm_projector.safetensors")) == {
        f"linear_{n}.{kind}" for n in "12" for kind in ("weight", "bias")
    }


def test_parts_that_do_not_fit_or_are_missing_are_told(parts, tmp_path):
    wrong = {
        f"mm_projector.{n}.{kind}": torch.zeros(3) for n in "02" for kind in ("weight", "bias")
    }
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match="does not fit tower and language model"):
        assembled(parts, tmp_path / "base", projector=tmp_path / "wrong.safetensors")
    with pytest.raises(DataError, match="absent"):
        assembled(parts, tmp_path / "base", language=tmp_path / "absent")
    save_file({"mm_projector.4.weight": torch.zeros(3)}, tmp_path / "deep.safetensors")
    with pytest.raises(DataError, match="not one of an mlp2x_gelu projector"):
        read_projector(tmp_path / "deep.safetensors")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize("size", [(64, 64), (90, 40), (30, 101)], ids=["square", "wide", "tall"])
def test_an_exported_processor_prepares_what_training_did(checkpoint, tmp_path, size):
    theirs = load_processor(checkpoint)
    # The hub's template: no end of an answer, no system prompt.
    theirs.chat_template = "{% for m in messages %}{{ m['role'] }}{% endfor %}"
    as_trained(theirs, system=VICUNA_SYSTEM).save_pretrained(tmp_path)
    served = AutoProcessor.from_pretrained(tmp_path)
    assert type(served.image_processor).__name__.startswith("LlavaImageProcessor")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), np.uint8))
    expected = pixel_values([picture], load_processor(checkpoint).image_processor)
    found = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(images=picture)
    # One grey level of 255, where the padding's colour is rounded.
    assert np.abs(np.asarray(found["pixel_values"]) - expected).max() < 0.02
    said = [Message("human", "What is it?"), Message("gpt", "A cup."), Message("human", "Why?"),
            Message("gpt", "So.")]  # fmt: skip
    roles = {"human": "user", "gpt": "assistant"}
    chat = [
        {"role": roles[m.speaker], "content": [{"type": "text", "text": m.value}]} for m in said
    ]
    text = served.apply_chat_template(chat)
    assert text == "".join(piece.text for piece in pieces(said, system=VICUNA_SYSTEM))
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
