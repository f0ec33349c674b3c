import pytest
import torch
from trainable import trainable_parameters
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from cocoift.core.files import DataError
from cocoift.tuning.checkpoints import add_adapter
from cocoift.tuning.memory import Memory, check_fits, estimate, parameter_counts, prompts_at_once
from cocoift.tuning.model import load_config, load_model


def held_bytes(model):
    """Count what a model's weights take, the constants of 4-bit weights included."""
    total = 0
    for parameter in model.parameters():
        total += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + state.state2.absmax.nbytes
    return total


def estimated(config, **changes):
    options = {"rank": 8, "batch_tokens": 1_024, "supervised_tokens": 300, "four_bit": False}
    return estimate(config, **options | changes)


@pytest.mark.parametrize("four_bit", [True, False], ids=["four bits", "full precision"])
def test_weights_are_estimated_as_they_are_loaded(checkpoint, four_bit):
    guess = estimated(load_config(checkpoint), four_bit=four_bit).weights
    assert guess == pytest.approx(held_bytes(load_model(checkpoint, four_bit=four_bit)), rel=0.01)


def test_what_trains_is_counted_as_peft_counts_it(checkpoint):
    counts = parameter_counts(load_config(checkpoint), rank=4)
    actual = trainable_parameters(add_adapter(load_model(checkpoint, four_bit=True), rank=4))
    assert {name: counts[name] for name in ("LoRA", "projector")} == {
        name: actual[name] for name in ("LoRA", "projector")
    }


def shape(hidden, intermediate, layers):
    text = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=300,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        projection_dim=32,
    )
    return LlavaConfig(text_config=text, vision_config=vision, image_token_index=3)


@pytest.mark.parametrize("sizes", [(64, 512, 2), (256, 256, 3), (128, 384, 2)])
def test_activations_are_estimated_as_autograd_keeps_them(sizes):
    config = shape(*sizes)
    model = add_adapter(LlavaForConditionalGeneration(config), rank=8, alpha=16).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(10, 300, (4, 256))
    ids[:, 1:17] = 3
    asked = torch.zeros(4, 256, dtype=torch.bool)
    asked[:, 80:155] = True
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        pixels = torch.rand(4, 3, 64, 64)
        out = model(input_ids=ids, pixel_values=pixels, logits_to_keep=asked, use_cache=False)
        torch.nn.functional.cross_entropy(out.logits, torch.zeros(300, dtype=torch.long))
    measured = sum(size for place, size in kept.items() if place not in weights)
    guess = estimated(config, gradient_checkpointing=False).activations
    assert 0.85 < guess / measured < 1.3


def test_checkpointing_trades_activations_for_recomputation():
    config = shape(64, 512, 8)
    with_it = estimated(config, gradient_checkpointing=True).activations
    assert with_it < estimated(config, gradient_checkpointing=False).activations / 3


def llava(hidden, intermediate, layers):
    """Return the shape of a published LLaVA-1.5."""
    config = shape(hidden, intermediate, layers)
    config.text_config.vocab_size = 32_064
    config.vision_config = CLIPVisionConfig(
        hidden_size=1_024, intermediate_size=4_096, num_hidden_layers=24, num_attention_heads=16
    )
    return config


@pytest.mark.parametrize(("sizes", "limit"), [((4096, 11008, 32), 24), ((5120, 13824, 40), 40)])
def test_llava_fits_the_gpus_it_is_meant_for(sizes, limit):
    needed = estimate(
        llava(*sizes), rank=128, batch_tokens=8_192, supervised_tokens=4_000, device="cuda"
    )
    assert needed.total < limit * 1e9


@pytest.mark.parametrize(("free_gb", "prompts"), [(80, 32), (24, 8), (4, 1), (0.1, 1)])
def test_as_many_prompts_are_answered_at_once_as_half_the_memory_holds(free_gb, prompts):
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(llava(4096, 11008, 32)).to(torch.bfloat16)
    # A 7B's cache: 32 layers x keys and values x 4,096 numbers x 2 bytes x 2,048 tokens = 1.07 GB.
    assert prompts_at_once(model, free=int(free_gb * 1e9)) == prompts


@pytest.mark.parametrize(
    ("largest", "knob"),
    [("weights", "four_bit"), ("optimiser", "rank"), ("activations", "batch_tokens")],
)
def test_what_cannot_fit_is_refused_with_the_knob_to_turn(largest, knob):
    parts = dict.fromkeys(("weights", "adapter", "optimiser", "activations", "runtime"), 10**9)
    memory = Memory(**parts | {largest: 9 * 10**9})
    with pytest.raises(DataError, match=rf"13\.0 GB, 4\.0 GB are free; {largest} take.*{knob}"):
        check_fits(memory, 4 * 10**9)
    check_fits(memory, memory.total)
