import os

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from torch import nn
from trainable import trainable_parameters

from cocoift.core.files import DataError
from cocoift.tuning.checkpoints import (
    add_adapter,
    load_adapters,
    save_adapter,
    using,
)
from cocoift.tuning.model import check_quantised, dense, load_model, quantised_modules


def logits(model):
    torch.manual_seed(0)
    ids = torch.tensor([[1, *[3] * 16, 40, 41, 42, 43]])
    with torch.no_grad():
        pixels = torch.rand(1, 3, 64, 64)
        return model(input_ids=ids, attention_mask=ids * 0 + 1, pixel_values=pixels).logits


def shaken(model, seed=1):
    """Return a peft model whose trainable weights differ from their fresh values."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval()


def test_only_the_language_model_is_quantised(checkpoint):
    quantised = quantised_modules(load_model(checkpoint, four_bit=True))
    assert sum(quantised.values()) == 2 * 7
    assert all(
        name.startswith("model.language_model.layers.") for name, q in quantised.items() if q
    )
    assert {name for name, q in quantised.items() if not q} >= {
        "lm_head",
        "model.multi_modal_projector.linear_1",
    }


def test_a_model_quantised_in_the_wrong_places_is_refused(checkpoint):
    with pytest.raises(DataError, match=r"layer model\.language_model\.\S+ was not quantised"):
        check_quantised(load_model(checkpoint, four_bit=False))


def test_four_bits_change_the_logits_a_little(checkpoint):
    whole = logits(load_model(checkpoint, four_bit=False))
    small = logits(load_model(checkpoint, four_bit=True))
    assert not torch.equal(whole, small)
    assert nn.functional.cosine_similarity(whole.flatten(), small.flatten(), dim=0) > 0.9


def test_four_bit_layers_compute_in_float32_on_a_cpu(checkpoint):
    layer = load_model(checkpoint, four_bit=True).model.language_model.layers[0].mlp.up_proj
    weights = dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    torch.manual_seed(0)
    inputs = torch.randn(5, 7, layer.in_features)
    with torch.no_grad():
        together = layer(inputs)
        alone = torch.stack([layer(row[None]) for row in inputs.flatten(0, 1)]).flatten(0, 1)
    expected = nn.functional.linear(inputs, weights)
    assert torch.allclose(together, expected, atol=1e-5)
    assert torch.allclose(alone.view_as(expected), expected, atol=1e-5)


def test_lora_is_on_the_language_model_and_the_projector_trains_in_full(checkpoint):
    model = add_adapter(load_model(checkpoint, four_bit=True), rank=4, alpha=8)
    lora = {name for name, p in model.named_parameters() if "lora_" in name and p.requires_grad}
    assert len(lora) == 2 * 7 * 2
    assert all(".language_model." in name for name in lora)
    counts = trainable_parameters(model)
    projector = load_model(checkpoint, four_bit=False).model.multi_modal_projector
    assert counts["projector"] == sum(p.numel() for p in projector.parameters())
    assert counts["other"] == 0


def test_a_fresh_adapter_changes_nothing(checkpoint):
    before = logits(load_model(checkpoint, four_bit=True))
    after = logits(add_adapter(load_model(checkpoint, four_bit=True), rank=4, alpha=8).eval())
    assert torch.allclose(before, after, atol=1e-5)


@pytest.mark.parametrize("four_bit", [False, True], ids=["full precision", "four bits"])
def test_a_saved_adapter_gives_the_same_logits_when_loaded(checkpoint, tmp_path, four_bit):
    fresh = logits(load_model(checkpoint, four_bit=four_bit))
    model = shaken(add_adapter(load_model(checkpoint, four_bit=four_bit), rank=4, alpha=8))
    expected = logits(model)
    folder = save_adapter(model, tmp_path / "adapter")
    loaded = load_adapters(load_model(checkpoint, four_bit=four_bit), {"tuned": folder})
    assert torch.equal(logits(loaded), expected)
    assert not torch.allclose(fresh, expected, atol=1e-3)
    assert not [p for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]


def test_adapters_are_switched_on_one_loaded_base(checkpoint, tmp_path):
    folders, expected = {}, {None: logits(load_model(checkpoint, four_bit=True))}
    for number, name in enumerate(("mix", "merged"), start=1):
        model = add_adapter(load_model(checkpoint, four_bit=True), rank=4 * number, alpha=8)
        model = shaken(model, seed=number)
        expected[name] = logits(model)
        folders[name] = save_adapter(model, tmp_path / name)
    together = load_adapters(load_model(checkpoint, four_bit=True), folders)
    for name in ("mix", None, "merged", "mix"):
        with using(together, name) as answering:
            assert torch.equal(logits(answering), expected[name])


def test_an_adapter_that_cannot_be_saved_leaves_the_earlier_one(checkpoint, tmp_path, monkeypatch):
    model = add_adapter(load_model(checkpoint, four_bit=False), rank=4, alpha=8)
    folder = save_adapter(model, tmp_path / "adapter")
    before = (folder / "adapter_model.safetensors").read_bytes()

    def full(*args, **kwargs):
        (tmp_path / "adapter.unfinished").mkdir()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(DataError, match="No space left on device"):
        save_adapter(model, folder)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"absent: no config\.json"):
        load_model(tmp_path / "absent", four_bit=False)


def test_pickled_weights_are_refused(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(DataError, match="pickled weights are not loaded"):
        load_model(tmp_path, four_bit=False)


def test_damaged_weights_are_named(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match=f"checkpoint {tmp_path}"):
        load_model(tmp_path, four_bit=False)


def test_a_missing_adapter_is_named(checkpoint, tmp_path):
    with pytest.raises(DataError, match=r"no adapter in .* run notebook 04_finetune_qlora"):
        load_adapters(load_model(checkpoint, four_bit=False), {"tuned": tmp_path})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told(checkpoint):
    with pytest.raises(DataError, match="there is no GPU; set device to 'cpu'"):
        load_model(checkpoint, four_bit=True, device="cuda")


def test_dense_weights_are_the_values_of_the_four_bits(checkpoint):
    packed, loose = (load_model(checkpoint, four_bit=True) for _ in range(2))
    loose = dense(loose)
    assert not any(quantised_modules(loose).values())
    assert torch.equal(logits(loose), logits(packed))
    layer = packed.model.language_model.layers[1].mlp.down_proj
    values = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(loose.model.language_model.layers[1].mlp.down_proj.weight, values)
    assert {p.dtype for p in loose.parameters()} == {torch.float32}


def test_a_model_in_full_precision_is_dense_already(checkpoint):
    model = load_model(checkpoint, four_bit=False)
    assert dense(model) is model
