"""Training: what it minimises, what it leaves, and what survives when it is stopped."""

import dataclasses
import gc
import os
import signal
import subprocess
import sys
import time
import weakref

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands import launch
from msgspec import structs
from peft import PeftModel
from safetensors.torch import load_file
from trainable import trainable_parameters
from transformers import TrainerCallback

from cocoift.core.files import DataError
from cocoift.study import Preset, Study
from cocoift.tuning import batches, memory, train
from cocoift.tuning.batches import Collator
from cocoift.tuning.chat import IGNORED
from cocoift.tuning.checkpoints import (
    add_adapter,
    load_adapters,
    training_log,
)
from cocoift.tuning.data import split_images
from cocoift.tuning.loss import LossByForm, last_whole, mean_loss, sample_losses
from cocoift.tuning.model import load_model, load_processor
from cocoift.tuning.recipe import Training, TuningRecipe, base_of
from minicoco import CHAT

FORMS = {"vqav2": "phrase", "llava_instruct": "free"}
RECIPE = TuningRecipe(
    rank=4,
    alpha=8,
    learning_rate=5e-3,
    projector_learning_rate=5e-4,
    batch_tokens=600,
    gradient_checkpointing=False,
    save_steps=2,
    workers=0,
)


@pytest.fixture
def make(mixture, checkpoint, tmp_path):
    """Return a function that makes a training of six steps, changed as asked."""

    def made(**changes):
        values = {
            "mixture": mixture / "merged.json",
            "images": split_images(mixture / "merged.json", held_out=10).train,
            "image_root": mixture,
            "checkpoint": str(checkpoint),
            "adapter": tmp_path / "adapters" / "merged-0",
            "steps": 6,
            "seed": 0,
            "recipe": RECIPE,
            "image_tokens": 16,
            "context_tokens": 512,
            "chat": CHAT,
            "device": "cpu",
            "forms": FORMS,
        }
        return Training(**values | changes)

    return made


def quietly(training):
    return train.train(training, show_progress=False)


def weights(adapter):
    return load_file(adapter / "adapter_model.safetensors")


def same(first, second):
    names = first.keys()
    return names == second.keys() and all(torch.equal(first[n], second[n]) for n in names)


def collated(training, count=4):
    processor = load_processor(training.checkpoint)
    data = train.training_set(training, processor)
    return Collator(processor, training.image_root, FORMS)([data.samples[:count]]), data


def test_a_training_lowers_the_loss_and_leaves_a_log(make):
    training = make(steps=12)
    log = training_log(quietly(training))
    losses = [row["loss"] for row in log["log"] if "loss" in row]
    assert len(losses) == 12 and losses[-1] < losses[0]
    tokens = [row["tokens"] for row in log["log"] if "loss" in row]
    _, data = collated(training)
    assert tokens == sorted(tokens) and tokens[-1] == sum(data.lengths)
    assert {p.name for p in training.adapter.parent.iterdir()} == {"merged-0", "tensorboard"}


def test_the_loss_by_form_adds_up_to_the_loss(make):
    for row in training_log(quietly(make()))["log"]:
        if "loss" in row:
            counts = [row.get(f"tokens_{form}", 0) for form in FORMS.values()]
            sums = [row.get(f"loss_{form}", 0) for form in FORMS.values()]
            whole = sum(c * s for c, s in zip(counts, sums, strict=True)) / sum(counts)
            assert row["loss"] == pytest.approx(whole, rel=1e-4)


def test_the_loss_is_that_of_the_model_itself_on_supervised_tokens(make, tmp_path):
    training = make()
    batch, _ = collated(training)
    model = load_model(training.checkpoint, four_bit=False)
    options = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    expected = model(**options, labels=batch["labels"]).loss.item()
    count = (batch["labels"][:, 1:] != IGNORED).sum()
    ours = LossByForm(model=model, args=train._arguments(training, tmp_path / "run"),
                      projector_learning_rate=0.0)  # fmt: skip
    loss = ours.compute_loss(model, dict(batch), num_items_in_batch=count)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_holds_ids_labels_and_forms_of_its_samples(make):
    batch, data = collated(make(), count=3)
    for row, sample in enumerate(data.samples[:3]):
        length = len(sample.input_ids)
        assert batch["input_ids"][row, :length].tolist() == list(sample.input_ids)
        assert batch["labels"][row, :length].tolist() == list(sample.labels)
        assert batch["attention_mask"][row].sum() == length
        start, end = sample.spans[1]
        assert set(batch["forms"][row, start:end].tolist()) == {batches.LOSS_FORMS.index("free")}
    assert batch["pixel_values"].shape == (3, 3, 64, 64)


def test_projector_and_lora_have_learning_rates_of_their_own(make, tmp_path):
    training = make()
    made, _ = train._trainer(
        training, load_processor(training.checkpoint), collated(training)[1], tmp_path / "x", False
    )
    lora, projector = made.create_optimizer().param_groups
    assert (lora["lr"], projector["lr"]) == (5e-3, 5e-4)
    trained = trainable_parameters(made.model)
    for group, part in ((lora, "LoRA"), (projector, "projector")):
        assert sum(parameter.numel() for parameter in group["params"]) == trained[part]


def test_a_finished_training_is_kept_and_a_changed_one_runs_again(make):
    adapter = quietly(make())
    before = (adapter / "adapter_model.safetensors").stat().st_mtime_ns
    assert quietly(make()) == adapter
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == before
    # As a kill leaves it between the two renames that put it in the place of an older one.
    adapter.rename(adapter.with_name(f"{adapter.name}.unfinished"))
    adapter.with_name(f"{adapter.name}.replaced").mkdir()
    assert quietly(make()) == adapter
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == before
    quietly(make(seed=1))
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns != before


def test_the_saved_adapter_answers_as_the_trained_model_did(make):
    training = make()
    batch, _ = collated(training)
    options = {key: batch[key] for key in ("input_ids", "attention_mask", "pixel_values")}
    folder = quietly(training)
    loaded = load_adapters(load_model(training.checkpoint, four_bit=True), {"tuned": folder})
    again = load_adapters(load_model(training.checkpoint, four_bit=True), {"tuned": folder})
    base = load_model(training.checkpoint, four_bit=True).eval()
    with torch.no_grad():
        logits = loaded(**options).logits
        assert torch.equal(logits, again(**options).logits)
        assert not torch.allclose(logits, base(**options).logits, atol=1e-2)


class _Stop(TrainerCallback):
    """Interrupt a training, as Ctrl-C does, before it ends step `at`."""

    def __init__(self, at):
        self.at = at

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_to_the_same_adapter(make, tmp_path, monkeypatch):
    whole = weights(quietly(make(adapter=tmp_path / "whole" / "merged-0")))
    with monkeypatch.context() as patch:
        callbacks = train._callbacks
        patch.setattr(train, "_callbacks", lambda *a: [*callbacks(*a), _Stop(at=5)])
        with pytest.raises(KeyboardInterrupt):
            quietly(make())
    (run,) = make().adapter.parent.glob(".merged-0.run-*")
    assert last_whole(run).endswith("checkpoint-4")
    adapter = quietly(make())
    assert same(weights(adapter), whole)
    steps = [row["step"] for row in training_log(adapter)["log"] if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


def preset_of(training, folder):
    """Write a preset that describes `training` for the command line; return its path."""
    recipe = structs.asdict(training.recipe) | {"records_per_step": 5}
    (folder / "work").mkdir(exist_ok=True)
    if not (folder / "work" / "merged").exists():
        (folder / "work" / "merged").symlink_to(training.image_root)
    values = {"catalogue": "sources.yaml", "work_dir": "work", "image_dir": "work/merged"}
    values |= {"checkpoint": training.checkpoint, "tuning": recipe, "train_images": None}
    values |= {"held_out_images": 10, "merge": {"image_tokens": 16, "context_tokens": 512}}
    values |= {"system_prompt": "", "device": "cpu"}
    (folder / "notebooks/presets").mkdir(parents=True, exist_ok=True)  # makes it a project
    (folder / "preset.yaml").write_text(yaml.safe_dump(values))
    (folder / "sources.yaml").write_text("{}")
    return folder / "preset.yaml"


def command(folder, *launcher, program=("-m", "cocoift", "train", "preset.yaml")):
    return subprocess.Popen(
        [sys.executable, *launcher, *program],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_a_killed_training_goes_on_to_the_same_adapter(make, tmp_path):
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
        preset_of(make(), tmp_path / name)
    running = command(tmp_path / "killed")
    folder = tmp_path / "killed/work/adapters"
    while not list(folder.glob(".merged-0.run-*/checkpoint-2/whole")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (folder / "merged-0").exists()
    others = [command(tmp_path / name) for name in ("killed", "whole")]
    for other in others:
        assert other.wait() == 0, other.stderr.read()
    assert same(weights(folder / "merged-0"), weights(tmp_path / "whole/work/adapters/merged-0"))


def test_an_interrupted_training_ends_with_one_line_and_its_checkpoints(make, tmp_path):
    preset_of(make(), tmp_path)
    running, folder = command(tmp_path), tmp_path / "work/adapters"
    while not list(folder.glob(".merged-0.run-*/checkpoint-2/whole")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130 and "Traceback" not in out + err
    assert err.rstrip().endswith("\ninterrupted; the same command goes on from what is done")
    assert list(folder.glob(".merged-0.run-*/checkpoint-*/whole"))
    assert not (folder / "merged-0").exists()


# accelerate shards on accelerators only.  This tells it that two CPU processes are two of them, so
# that the sharding itself, torch's FSDP2 over gloo, and what is saved of it can be tried here.
SHARDED = """
import torch
from accelerate import DistributedType, PartialState
from minicoco import CHAT
from cocoift.__main__ import main

def set_device(self):
    self.device = torch.device("cpu")

PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = set_device
torch.distributed.init_process_group("gloo")
main(["train", "preset.yaml"])
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("sharding", ["MULTI_CPU", "FSDP"])
def test_two_processes_train_the_same_adapter_as_one(make, tmp_path, root, sharding):
    # Batches so small that one process accumulates two where two processes take one each.
    recipe = structs.replace(RECIPE, dropout=0.0, batch_tokens=760, four_bit=sharding != "FSDP")
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
        preset_of(make(recipe=recipe), tmp_path / name)
    launcher = ["-m", "accelerate.commands.launch", "--num_processes=2", "--mixed_precision=no"]
    if sharding == "FSDP":
        (tmp_path / "two" / "sharded.py").write_text(SHARDED)
        launcher += [f"--config_file={root / 'notebooks/launch/fsdp.yaml'}"]
        paired = command(tmp_path / "two", *launcher, program=["sharded.py"])
    else:
        # `--multi_gpu` is how accelerate starts one process a device; here the device is the CPU.
        launcher += ["--multi_gpu", "--num_machines=1", "--dynamo_backend=no"]
        paired = command(tmp_path / "two", *launcher)
    for running in (paired, command(tmp_path / "one")):
        _, errors = running.communicate()
        assert running.returncode == 0, errors
    adapters = [tmp_path / name / "work/adapters/merged-0" for name in ("two", "one")]
    notes = [training_log(adapter) for adapter in adapters]
    found = [(note["sharding"], note["processes"], note["accumulation"]) for note in notes]
    assert found == [(sharding, 2, 1), ("NO", 1, 2)]
    logs = [note["log"] for note in notes]
    assert logs[0][-2]["tokens"] == logs[1][-2]["tokens"]
    losses = [[row["loss"] for row in log if "loss" in row] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    paired, single = map(weights, adapters)
    assert paired.keys() == single.keys()
    assert all(torch.allclose(paired[name], single[name], atol=1e-4) for name in single)


def test_the_launch_file_says_what_accelerate_understands(root, monkeypatch, checkpoint):
    path = root / "notebooks/launch/fsdp.yaml"
    words = ["--config_file", str(path), "-m", "cocoift", "train"]
    chosen, _, _ = launch._validate_launch_command(launch.launch_command_parser().parse_args(words))
    assert (chosen.use_fsdp, chosen.num_processes, chosen.mixed_precision) == (True, 8, "bf16")
    for key, value in launch.prepare_multi_gpu_env(chosen).items():
        monkeypatch.setenv(key, value)
    wrapped = set(FullyShardedDataParallelPlugin().transformer_cls_names_to_wrap)
    layers = {type(module).__name__ for module in load_model(checkpoint, four_bit=False).modules()}
    assert wrapped == {"LlamaDecoderLayer", "CLIPEncoderLayer"} & layers


def test_a_full_disk_leaves_the_older_checkpoint_and_a_rerun_goes_on(make, tmp_path, monkeypatch):
    whole = weights(quietly(make(adapter=tmp_path / "whole" / "merged-0")))
    save = PeftModel.save_pretrained

    def full(self, folder, *args, **kwargs):
        save(self, folder, *args, **kwargs)
        if "checkpoint-4" in str(folder):
            raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "save_pretrained", full)
        with pytest.raises(DataError, match=r"No space left.*resumes from .*checkpoint-2"):
            quietly(make())
    (run,) = make().adapter.parent.glob(".merged-0.run-*")
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-2"]
    assert same(weights(quietly(make())), whole)


def test_a_checkpoint_cut_short_is_not_gone_on_from(tmp_path):
    for step, mark in ((2, True), (10, True), (12, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if mark:
            (tmp_path / f"checkpoint-{step}" / "whole").touch()
    assert last_whole(tmp_path).endswith("checkpoint-10")
    assert last_whole(tmp_path / "nothing") is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_tokens": 576}, r"makes 16 tokens of an image .* set image_tokens to 16"),
        ({"checkpoint": "/absent"}, r"checkpoint /absent: no config\.json"),
    ],
)
def test_what_cannot_train_is_told_before_it_starts(make, changes, message):
    with pytest.raises(DataError, match=message):
        quietly(make(**changes))


def test_missing_pictures_are_told_before_training(make, tmp_path):
    with pytest.raises(DataError, match=r"30 of 30 images .* no image on disk"):
        quietly(make(image_root=tmp_path))


def test_an_absent_mixture_is_told(mixture):
    study = Study(
        mixture, Preset(name="p", checkpoint="", catalogue="x", work_dir="absent", device="cpu")
    )
    reason = r"absent/merged/merged\.parquet: no such file; run notebook 02_merge"
    with pytest.raises(DataError, match=reason):
        study.training("merged", 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told_before_training(make):
    with pytest.raises(DataError, match="there is no GPU; set device to 'cpu'"):
        quietly(make(device="cuda"))


def test_too_little_memory_is_told_before_training(make, monkeypatch):
    monkeypatch.setattr(train, "available", lambda device: 1_000_000)
    assert memory.available("cpu") > 1_000_000
    with pytest.raises(DataError, match=r"training needs about .* activations take"):
        quietly(make())


def test_a_seed_finds_its_base_and_a_hub_name_stays(tmp_path):
    (tmp_path / "base-1").mkdir()
    assert base_of("base-{seed}", 1, tmp_path) == str(tmp_path / "base-1")
    assert base_of("llava-hf/llava-1.5-7b-hf", 1, tmp_path) == "llava-hf/llava-1.5-7b-hf"
    assert base_of("data/mini/checkpoint", 0, tmp_path) == str(tmp_path / "data/mini/checkpoint")


def test_a_finished_training_leaves_no_model_in_memory(make, monkeypatch):
    kept = []
    whole = train.add_adapter

    def noted(model, **options):
        kept.append(weakref.ref(model))
        return whole(model, **options)

    monkeypatch.setattr(train, "add_adapter", noted)
    gc.disable()
    try:
        quietly(make())
    finally:
        gc.enable()
    assert [reference() for reference in kept] == [None]


def test_what_torch_holds_in_reserve_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3_000, 24_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 20_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 1_000)
    assert memory.available("cuda") == 22_000


def test_how_a_training_is_run_does_not_make_it_another_one(make):
    def with_recipe(**changes):
        plain = make()
        return dataclasses.replace(plain, recipe=structs.replace(plain.recipe, **changes))

    assert with_recipe(workers=3, save_steps=77).key() == make().key()
    assert with_recipe(rank=5).key() != make().key()


def test_checkpointing_changes_no_gradient_and_leaves_the_tower_alone(make, checkpoint):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = add_adapter(load_model(checkpoint, four_bit=False), rank=4, alpha=8, dropout=0.0)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        calls, tower = [], model.base_model.model.model.vision_tower
        tower.register_forward_hook(lambda m, i, o, calls=calls: calls.append(o[0].requires_grad))
        ids = torch.tensor([[1, *[3] * 16, 40, 41, 42]])
        model.train()
        out = model(input_ids=ids, pixel_values=torch.rand(1, 3, 64, 64), labels=ids)
        out.loss.backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        assert calls == [False]
    plain, checkpointed = found
    assert plain.keys() == checkpointed.keys() and any("lora_A" in name for name in plain)
    assert all(torch.allclose(plain[name], checkpointed[name], atol=1e-6) for name in plain)


def test_the_validation_loss_is_that_of_transformers_own_loss(make):
    training = make()
    model = load_model(training.checkpoint, four_bit=False)
    processor = load_processor(training.checkpoint)
    data = train.training_set(training, processor)
    total, tokens, by_image = 0.0, 0, {}
    for sample in data.samples:
        tensors = Collator(processor, training.image_root, FORMS)([[sample]])
        del tensors["forms"]
        count = int((tensors["labels"][:, 1:] != IGNORED).sum())
        with torch.inference_mode():
            loss = model(**tensors).loss.item() * count
        total, tokens = total + loss, tokens + count
        by_image[sample.image] = by_image.get(sample.image, 0) + loss
    found = mean_loss(model, processor, data, training=training)
    assert tokens == data.supervised_tokens
    assert found == pytest.approx(total / tokens, rel=1e-4)
    alone = sample_losses(model, processor, data, training=training).groupby("image").loss.sum()
    assert alone.to_dict() == pytest.approx(by_image, rel=1e-3)
