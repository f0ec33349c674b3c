"""Stage one of an assembled base: trained, shipped, and recognised again."""

import json
import shutil

import pytest
import torch
from tiny_parts import write_language_model

from cocoift import study
from cocoift.core.files import DataError
from cocoift.study import bases, steps
from cocoift.tuning.model import load_model


@pytest.fixture(scope="module")
def changes(tmp_path_factory):
    """Preset `smol` with a tiny language model, below a folder of its own."""
    folder = tmp_path_factory.mktemp("smol")
    write_language_model("llama", folder / "language")
    assembly = {"language": str(folder / "language"), "language_package": None, "shipped": None}
    assembly["recipe"] = {"rank": 4, "save_steps": 100}
    return {
        "raw_dir": str(folder / "raw"), "image_dir": str(folder / "raw/images"),
        "work_dir": str(folder / "work"), "checkpoint": str(folder / "base"),
        "mini_coco": {"train": 12, "held_out": 4, "benchmark": 1, "pretraining": 30},
        "held_out_images": 4, "assembly": assembly,
    }  # fmt: skip


@pytest.fixture(scope="module")
def shipped(changes, tmp_path_factory):
    """What stage one left, trained once, and the base that it made of it."""
    opened = study.open_study("smol", changes)
    steps.draw_world(opened)
    stage_one = bases.align_base(opened)
    assert not stage_one.shipped and stage_one.training.steps == 2
    folder = tmp_path_factory.mktemp("ship") / "sees"
    return bases.ship(opened, folder), opened.base(0)


def opened_with(changes, shipped, folder, **assembly):
    """Return the study of another folder, which finds what was shipped."""
    moved = {"work_dir": str(folder / "work"), "checkpoint": str(folder / "base")}
    given = changes["assembly"] | {"shipped": str(shipped)} | assembly
    return study.open_study("smol", changes | moved | {"assembly": given})


def test_a_base_of_what_is_shipped_is_that_of_the_training_within_float16(
    changes, shipped, tmp_path
):
    folder, trained = shipped
    opened = opened_with(changes, folder, tmp_path)
    assert bases.align_base(opened).shipped
    assert not (tmp_path / "work/stage_one/adapter").exists()
    of_training, of_shipped = (
        load_model(path, four_bit=False).state_dict() for path in (trained, opened.base(0))
    )
    assert of_training.keys() == of_shipped.keys()
    for name, tensor in of_training.items():
        assert torch.allclose(of_shipped[name], tensor, rtol=2e-3, atol=1e-5), name
    assert any(not torch.equal(of_shipped[name], of_training[name]) for name in of_training)


def test_what_is_shipped_is_not_used_for_other_settings_or_data(changes, shipped, tmp_path):
    folder, _ = shipped
    recipe = changes["assembly"]["recipe"] | {"learning_rate": 5e-4}
    assert not bases.align_base(opened_with(changes, folder, tmp_path, recipe=recipe)).shipped
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    built = json.loads((other / "built.json").read_text())
    (other / "built.json").write_text(json.dumps(built | {"data": "another"}, indent=1) + "\n")
    assert not bases.align_base(opened_with(changes, other, tmp_path / "b")).shipped


def test_conversations_that_cannot_train_are_counted_by_reason(changes, shipped, tmp_path):
    folder, _ = shipped
    opened = opened_with(changes, folder, tmp_path)
    file = opened.raw / opened.preset.assembly.conversations
    rows = json.loads(file.read_text())
    before = file.read_bytes()
    rows[0]["conversations"][1]["value"] = " "
    rows[1]["image"] = [rows[1]["image"]] * 2
    rows[2]["conversations"] = rows[2]["conversations"][1:]
    file.write_text(json.dumps(rows))
    try:
        found = bases.align_base(opened)
    finally:
        file.write_bytes(before)
    assert found.dropped == {"empty": 1, "several_images": 1, "odd_conversation": 1}
    assert len(found.training.images) == 30 - 3 - 4


def test_a_preset_that_assembles_nothing_ships_nothing(tmp_path):
    with pytest.raises(DataError, match="preset mini assembles no base"):
        bases.ship(study.open_study("mini"), tmp_path / "sees")
