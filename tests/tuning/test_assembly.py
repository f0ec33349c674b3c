"""Bases assembled from a language model, a tower and a projector."""

import pickle
import shlex
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_parts import write_language_model, write_tower
from tokenizers_like import tokenizer_of
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
)

from cocoift.core.files import DataError
from cocoift.core.schema import Message
from cocoift.evaluation.generation import generate
from cocoift.evaluation.protocols import Prompt
from cocoift.tuning.assembly import Parts, assemble, read_projector
from cocoift.tuning.chat import ChatFormat
from cocoift.tuning.checkpoints import add_adapter, export, save_adapter
from cocoift.tuning.model import dense, image_tokens, load_model, load_processor
from minicoco import CHAT


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
    options = {"language": parts / "vicuna", "vision": parts / "clip"}
    options |= {"projector": parts / "mm_projector.safetensors"}
    return assemble(out, Parts(**options | changes), chat=CHAT, dtype=torch.float32)


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
        with pytest.raises(DataError, match="safetensors only") as refused:
            read_projector(path)
    command = str(refused.value).partition("convert it once: python ")[2]
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


CHATML = ChatFormat("chatml", system="Be brief.")


@pytest.fixture
def families(tmp_path, request):
    """A language model and a tower of two architectures, and the base assembled of them."""
    language, vision = request.param
    torch.manual_seed(0)
    text = write_language_model(language, tmp_path / "language")
    tower = write_tower(vision, tmp_path / "vision")
    parts = Parts(language=tmp_path / "language", vision=tmp_path / "vision", seed=3)
    base = assemble(tmp_path / "base", parts, chat=CHATML, dtype=torch.float32)
    return text, tower, parts, base


KINDS = [(language, vision) for language in ("llama", "qwen2") for vision in ("clip", "siglip")]
all_kinds = pytest.mark.parametrize("families", KINDS, indirect=True, ids="-".join)


@torch.no_grad()
@all_kinds
def test_the_parts_compute_in_the_base_what_they_did_before(families):
    text, tower, _, base = families
    model, processor = load_model(base, four_bit=False), load_processor(base)
    ids = processor.tokenizer("What color is the cat?", return_tensors="pt")["input_ids"]
    ours = model(input_ids=ids).logits
    assert torch.allclose(ours[..., : text.config.vocab_size], text(ids).logits, atol=1e-5)
    pixels = torch.rand(1, 3, 32, 32)
    features = tower(pixels, output_hidden_states=True).hidden_states[-2]
    features = features[:, -4:]  # of a CLIP, all but the class token
    expected = model.model.multi_modal_projector(features)
    found = model.get_image_features(pixel_values=pixels).pooler_output[0]
    assert torch.allclose(found, expected[0], atol=1e-5)
    assert image_tokens(model.config) == len(found) == 4


@all_kinds
def test_a_base_of_any_kind_tunes_answers_and_is_exported(families, tmp_path):
    *_, base = families
    model, processor = load_model(base, four_bit=True), load_processor(base)
    tuned = add_adapter(dense(model), rank=4, alpha=8)
    picture = Image.new("RGB", (50, 32), "red")
    asked = [Prompt("a", (picture,), [Message("human", "Where is the cat?")])]
    answers = generate(tuned, processor, asked, chat=CHATML, new_tokens=5)
    adapter = save_adapter(tuned, tmp_path / "adapter")
    out = export(adapter, tmp_path / "out", checkpoint=base, chat=CHATML, dtype=torch.float32)
    served = load_model(out, four_bit=False)
    assert load_processor(out).tokenizer.eos_token == "<|im_end|>"
    assert served.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert len(answers) == 1


@pytest.mark.parametrize("families", [("llama", "clip")], indirect=True, ids="-".join)
def test_a_fresh_projector_is_drawn_from_its_seed(families, tmp_path):
    *_, parts, base = families
    again = assemble(tmp_path / "again", parts, chat=CHATML, dtype=torch.float32)
    other = assemble(tmp_path / "other", replace(parts, seed=4), chat=CHATML, dtype=torch.float32)
    drawn = [
        load_file(folder / "model.safetensors")["multi_modal_projector.linear_1.weight"]
        for folder in (base, again, other)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert 0 < drawn[0].abs().max() < 1


@pytest.mark.parametrize("families", [("llama", "clip")], indirect=True, ids="-".join)
def test_what_does_not_fit_is_named(families, tmp_path):
    *_, parts, _ = families
    write_language_model("mistral", tmp_path / "mistral")
    cases = [
        (replace(parts, language=tmp_path / "mistral"), "mistral; a language model"),
        (replace(parts, vision=parts.language), "llama; a vision tower here is one of clip"),
    ]
    for wrong, message in cases:
        with pytest.raises(DataError, match=message):
            assemble(tmp_path / "wrong", wrong, chat=CHATML)
    tokenizer_of("byte-level").save_pretrained(parts.language)
    with pytest.raises(DataError, match=r"no special token <\|im_end\|>.*choose the chat format"):
        assemble(tmp_path / "wrong", parts, chat=CHATML)
    assert not (tmp_path / "wrong").exists()
