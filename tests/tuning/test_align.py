"""Stage one: what trains, what stays, and what the base it leaves holds."""

from dataclasses import replace

import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file

from cocoift.report.training import alignment_sentence
from cocoift.tuning import train as training_module
from cocoift.tuning.checkpoints import is_adapted, training_log
from cocoift.tuning.data import split_images
from cocoift.tuning.loss import mean_loss, picture_losses
from cocoift.tuning.model import load_model, load_processor
from cocoift.tuning.recipe import AlignmentRecipe, Training
from cocoift.tuning.train import align, train, training_set
from minicoco import CHAT

RECIPE = AlignmentRecipe(
    learning_rate=1e-2, batch_tokens=800, records_per_step=2, gradient_checkpointing=False,
    save_steps=4, workers=0,
)  # fmt: skip


@pytest.fixture
def stage_one(mixture, checkpoint, tmp_path):
    """A training of the projector of the tiny LLaVA, drawn anew."""
    model, processor = load_model(checkpoint, four_bit=False), load_processor(checkpoint)
    projector = model.model.multi_modal_projector
    torch.manual_seed(0)
    for layer in (projector.linear_1, projector.linear_2):
        layer.reset_parameters()
    model.save_pretrained(tmp_path / "fresh")
    processor.save_pretrained(tmp_path / "fresh")
    merged = mixture / "merged.json"
    return Training(
        mixture=merged, images=split_images(merged, held_out=10).train, image_root=mixture,
        checkpoint=str(tmp_path / "fresh"), adapter=tmp_path / "out/stage_one",
        steps=16, seed=0, recipe=RECIPE.tuning(), image_tokens=16, context_tokens=512, chat=CHAT,
        device="cpu",
    )  # fmt: skip


def test_the_projector_alone_trains_and_the_base_holds_it_bit_for_bit(stage_one, tmp_path):
    base = align(stage_one, tmp_path / "base")
    before, after = (load_model(path, four_bit=False) for path in (stage_one.checkpoint, base))
    changed = {
        name
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    names = {
        f"model.multi_modal_projector.linear_{n}.{kind}"
        for n in "12"
        for kind in ("weight", "bias")
    }
    assert changed == names
    trained = load_file(stage_one.adapter / "adapter_model.safetensors")
    for name, tensor in trained.items():
        whole = after.state_dict()[name.removeprefix("base_model.model.")]
        assert torch.equal(tensor, whole)
    losses = [row["loss"] for row in training_log(stage_one.adapter)["log"] if "loss" in row]
    assert len(losses) == 16 and losses[-1] < losses[0]


def test_answers_become_likelier_through_a_trained_projector(stage_one, tmp_path):
    base = align(stage_one, tmp_path / "base")
    processor = load_processor(base)
    data = training_set(stage_one, processor)
    before, after = (
        mean_loss(load_model(path, four_bit=False), processor, data, training=stage_one)
        for path in (stage_one.checkpoint, base)
    )
    assert after < before


def test_an_aligned_base_is_kept_until_its_training_changes(stage_one, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        training_module, "train", lambda training: trained.append(training.steps) or train(training)
    )
    short = replace(stage_one, steps=2)
    for training in (short, short, replace(stage_one, steps=3)):
        align(training, tmp_path / "base")
    assert trained == [2, 3]


def test_the_defaults_are_llavas_first_stage():
    recipe = AlignmentRecipe()
    assert (recipe.learning_rate, recipe.records_per_step, recipe.epochs) == (1e-3, 256, 1)
    assert (recipe.tuning().rank, recipe.tuning().projector_learning_rate) == (0, 1e-3)


def test_with_a_rank_the_language_model_learns_too_and_the_tower_does_not(stage_one, tmp_path):
    recipe = structs.replace(RECIPE, rank=4, alpha=8).tuning()
    assert (recipe.learning_rate, recipe.projector_learning_rate) == (2e-3, 1e-2)
    base = align(replace(stage_one, recipe=recipe), tmp_path / "base")
    before, after = (load_model(path, four_bit=False) for path in (stage_one.checkpoint, base))
    moved = {
        name
        for name, tensor in after.state_dict().items()
        if not torch.equal(tensor, before.state_dict()[name])
    }
    layers = {name.removesuffix(".weight") for name in moved if "projector" not in name}
    linear = {name for name, _ in before.named_modules() if is_adapted(name)}
    assert layers == linear and len(moved) == len(linear) + 4


def test_a_base_that_sees_finds_captions_likelier_with_their_own_picture(root, stage_one):
    sees = str(root / "data/mini_llava")
    training = replace(stage_one, checkpoint=sees, images=stage_one.images[:8])
    model, processor = load_model(sees, four_bit=False), load_processor(sees)
    losses = picture_losses(model, processor, training_set(training, processor), training=training)
    assert sorted(losses.image) == sorted(training.images)
    assert (losses.shown < losses.other).all()
    assert alignment_sentence(losses).startswith("About 8 held-out images")
    blind = losses.assign(other=losses.shown)
    assert alignment_sentence(blind).startswith("**The base does not see")
    assert "was not measured" in alignment_sentence(losses[:1])
