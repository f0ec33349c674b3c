"""Trainings side by side give the adapters that they give one after another."""

import dataclasses

import pytest
from safetensors.torch import load_file

from cocoift.core.files import DataError
from cocoift.tuning.recipe import Training, TuningRecipe
from cocoift.tuning.train import train_all
from minicoco import CHAT


@pytest.fixture
def trainings(mixture, checkpoint, tmp_path):
    recipe = TuningRecipe(rank=4, alpha=8, batch_tokens=600, workers=0, save_steps=2)
    images = tuple(sorted(f"train2017/{path.name}" for path in (mixture / "train2017").iterdir()))
    plain = Training(
        mixture=mixture / "merged.json", images=images, image_root=mixture,
        checkpoint=str(checkpoint), adapter=tmp_path / "x", steps=3, seed=0, recipe=recipe,
        image_tokens=16, context_tokens=512, chat=CHAT, device="cpu",
    )  # fmt: skip
    return {
        seed: dataclasses.replace(plain, seed=seed, adapter=tmp_path / f"merged-{seed}")
        for seed in (1, 0)
    }


def test_two_at_once_give_the_same_adapters_as_one_after_another(trainings, tmp_path):
    found = train_all(trainings, processes=2)
    assert list(found) == [1, 0]
    for seed, training in trainings.items():
        alone = dataclasses.replace(training, adapter=tmp_path / f"alone-{seed}")
        (folder,) = train_all({0: alone}).values()
        together, apart = (
            load_file(f / "adapter_model.safetensors") for f in (found[seed], folder)
        )
        assert together.keys() == apart.keys()
        assert all((together[name] - apart[name]).abs().max() < 1e-4 for name in together)


def test_a_training_that_cannot_run_stops_them_all_with_its_own_error(trainings):
    broken = dataclasses.replace(trainings[0], image_root=trainings[0].image_root / "train2017")
    with pytest.raises(DataError, match=r"40 of 40 images below .* cannot train"):
        train_all({0: broken, 1: trainings[1]}, processes=2)
