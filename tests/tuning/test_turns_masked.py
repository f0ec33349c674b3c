"""Turns masked: each turn of a record sees the picture and itself, not the other turns."""

from dataclasses import replace

import pytest
import torch
from msgspec import structs

from cocoift.core.schema import read_records
from cocoift.tuning import train
from cocoift.tuning.batches import Collator
from cocoift.tuning.chat import Encoding, encode, part_of
from cocoift.tuning.checkpoints import add_adapter
from cocoift.tuning.data import samples
from cocoift.tuning.loss import model_inputs, token_losses
from cocoift.tuning.model import dense, load_model, load_processor
from cocoift.tuning.recipe import Training, TuningRecipe
from minicoco import CHAT

FORMS = {"vqav2": "phrase", "llava_instruct": "free"}


@pytest.fixture
def processor(checkpoint):
    return load_processor(checkpoint)


@pytest.fixture
def encoding(processor):
    return Encoding(processor.tokenizer, CHAT, 16, 512, "turn")


@pytest.fixture
def longest(mixture):
    records = read_records(mixture / "merged.json")
    return sorted(records, key=lambda record: -len(record.sources))[:2]


def logits(model, processor, root, found):
    batch = Collator(processor, root, FORMS)([found])
    labels = batch.pop("labels")
    del batch["forms"]
    with torch.inference_mode():
        return model(**model_inputs(batch), use_cache=False).logits, labels


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("quantised", [False, True])
def test_a_turn_is_predicted_as_in_a_record_of_the_picture_and_that_turn_alone(
    checkpoint, processor, encoding, longest, mixture, implementation, quantised
):
    model = load_model(checkpoint, four_bit=quantised).eval()
    model = dense(model) if quantised else model
    model.set_attn_implementation(implementation)
    alone = replace(encoding, attend="record")
    masked = [encode(record, encoding) for record in longest]
    whole, _ = logits(model, processor, mixture, masked)  # of two lengths: one row is padded
    for row, (record, sample) in enumerate(zip(longest, masked, strict=True)):
        assert len(record.sources) > 1
        for number, (start, end) in enumerate(sample.spans):
            part = encode(part_of(record, number, number + 1), alone)
            single, _ = logits(model, processor, mixture, [part])
            ((first, last),) = part.spans
            assert sample.input_ids[start:end] == part.input_ids[first:last]
            expected = single[0, first - 1 : last]
            assert torch.allclose(whole[row, start - 1 : end], expected, atol=1e-4)


def test_a_masked_record_takes_loss_on_the_tokens_that_the_record_takes(encoding, longest):
    for record in longest:
        masked, plain = encode(record, encoding), encode(record, replace(encoding, attend="record"))
        answers = [[sample.input_ids[start:end] for start, end in sample.spans]
                   for sample in (masked, plain)]  # fmt: skip
        assert answers[0] == answers[1]
        assert masked.sources == plain.sources


def test_positions_begin_anew_after_the_picture_in_every_turn(
    processor, encoding, longest, mixture
):
    sample = encode(longest[0], encoding)
    batch = Collator(processor, mixture, FORMS)([[sample]])
    turns, positions = batch["turns"][0].tolist(), batch["position_ids"][0].tolist()
    shared = sample.image_at + 16
    assert positions[:shared] == list(range(shared)) and set(turns[:shared]) == {0}
    assert [positions[start] for start in sample.branches] == [shared] * len(longest[0].sources)
    assert [turns[start] for start in sample.branches] == list(
        range(1, len(longest[0].sources) + 1)
    )


def test_without_the_mask_other_turns_are_seen(checkpoint, processor, encoding, longest, mixture):
    model = load_model(checkpoint, four_bit=False).eval()
    sample = encode(longest[0], encoding)
    masked, _ = logits(model, processor, mixture, [sample])
    unmasked, _ = logits(model, processor, mixture, [replace(sample, branches=())])
    start, end = sample.spans[-1]
    assert (masked[0, start:end] - unmasked[0, start:end]).abs().max() > 1e-2
    start, end = sample.spans[0]
    assert torch.allclose(masked[0, :end], unmasked[0, :end], atol=1e-4)


def test_a_masked_record_that_exceeds_the_context_is_split_between_turns(encoding, longest):
    whole = encode(longest[0], encoding)
    short = replace(encoding, context_tokens=len(whole) - 1)
    parts, (report,) = samples([longest[0]], short)
    assert len(parts) == 2 and report.rounds_dropped == 0
    assert sum(len(part.spans) for part in parts) == len(whole.spans)
    assert all(len(part) <= short.context_tokens for part in parts)


def test_masked_turns_train_and_their_adapter_is_another_one(
    checkpoint, processor, mixture, tmp_path
):
    recipe = TuningRecipe(rank=4, alpha=8, batch_tokens=600, workers=0, save_steps=2)
    images = tuple(sorted(f"train2017/{path.name}" for path in (mixture / "train2017").iterdir()))
    plain = Training(
        mixture=mixture / "merged.json", images=images, image_root=mixture,
        checkpoint=str(checkpoint), adapter=tmp_path / "masked", steps=2, seed=0, recipe=recipe,
        image_tokens=16, context_tokens=512, chat=CHAT, device="cpu", forms=FORMS,
    )  # fmt: skip
    masked = replace(plain, recipe=structs.replace(recipe, attend="turn"))
    assert masked.key() != plain.key()
    assert train.is_trained(masked) is False
    assert train.train(masked, show_progress=False) == masked.adapter
    assert train.is_trained(masked)


def test_every_weight_that_trains_gets_a_gradient_through_the_mask(
    checkpoint, processor, encoding, longest, mixture
):
    torch.manual_seed(0)
    model = add_adapter(dense(load_model(checkpoint, four_bit=True)), rank=2, alpha=4, dropout=0.0)
    batch = Collator(processor, mixture, FORMS)([[encode(longest[0], encoding)]])
    labels, _ = batch.pop("labels"), batch.pop("forms")
    losses, _ = token_losses(model, batch, labels)
    losses.mean().backward()
    moved = [bool(weight.grad.isfinite().all() and weight.grad.any())
             for name, weight in model.named_parameters() if "lora_B" in name]  # fmt: skip
    assert moved and all(moved)
