"""Every preset's whole way with its own sections: sizes, paths, checkpoint, endpoint alone differ.

The cells run in this process (`cells.run_cells`); `test_notebooks.py` runs them in kernels.
"""

import json
import shutil
import traceback

import pandas as pd
import pytest
import yaml
from cells import run_cells
from loopback import serving
from msgspec import structs
from published_checkpoint import write_published_checkpoint
from tiny_parts import write_language_model, write_tower

from cocoift import study
from cocoift.core.files import DataError
from minicoco.annotate import write_mini_coco

pytestmark = pytest.mark.slow

TRAINED = {"rank": 2, "alpha": 4, "records_per_step": 6, "batch_tokens": 2600}
SIZES = {
    "processes": 1,
    "held_out_images": 2,
    "train_images": 6,
    "evaluation": {"new_tokens": 4, "resamples": 50, "answer_batch": 64},
    "bias": {"probe": {"count": 4}},
}
DRAWN = {"mini_coco": {"train": 24, "held_out": 8, "benchmark": 2}, "tuning": TRAINED}
TINY = {"scenes": 96, "tower_steps": 1, "language_steps": 1, "width": 64, "layers": 2,
        "vocabulary": 300}  # fmt: skip


def moved(folder, raw=None):
    """Return the changes that move a preset's folders below this one."""
    raw = raw or folder / "raw"
    return {
        "raw_dir": str(raw), "image_dir": str(raw / "images"), "work_dir": str(folder / "work"),
        "report_dir": str(folder / "reports"), "curation": str(folder / "curation.jsonl"),
    }  # fmt: skip


def with_changes(base, *more):
    """Return changes on top of changes: mappings are merged."""
    for changes in more:
        for name, value in changes.items():
            both = isinstance(value, dict) and isinstance(base.get(name), dict)
            base = base | {name: with_changes(base[name], value) if both else value}
    return base


@pytest.fixture(scope="module")
def real_raw(tmp_path_factory):
    """A mini-COCO laid out as `data/raw` is, the benchmarks' files as they are published."""
    raw = tmp_path_factory.mktemp("real")
    write_mini_coco(raw, train=30, held_out=4, seed=5, benchmark=1)
    (raw / "mm_vet").rename(raw / "mm-vet")
    questions = json.loads((raw / "mm-vet/mm-vet.json").read_text())
    for row in questions.values():
        del row["wording"]
    (raw / "mm-vet/mm-vet.json").write_text(json.dumps(questions))
    questions = json.loads((raw / "infimm_eval/core-mm.json").read_text())
    for row in questions.values():
        del row["Answer"], row["Steps"]
    (raw / "infimm_eval/core-mm-wo-answer.json").write_text(json.dumps(questions))
    (raw / "gqa/probe_questions.json").rename(raw / "gqa/val_balanced_questions.json")
    shutil.copytree(raw / "mm-vet/images", raw / "gqa/images")
    shutil.copytree(raw / "mm-vet/images", raw / "images/val2017", dirs_exist_ok=True)
    return raw


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint in the files of llava-hf/llava-1.5-7b-hf, at tiny width: 336 px, 576 tokens."""
    folder = tmp_path_factory.mktemp("published") / "llava-1.5-7b-hf"
    write_published_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """SmolLM2's and Qwen2.5's architectures, and SigLIP's with 196 image tokens."""
    folder = tmp_path_factory.mktemp("parts")
    write_language_model("llama", folder / "smollm2")
    write_language_model("qwen2", folder / "qwen2")
    write_tower("siglip", folder / "siglip", side=224)
    return folder


@pytest.fixture
def server(monkeypatch):
    """A loopback server that judges, and answers as a model that turns terse."""

    def reply(body, number):
        content = body["messages"][-1]["content"]
        if isinstance(content, str):
            return "0.5"
        terse = len(body["messages"]) > 2 or "short phrase" in content[-1]["text"]
        return "red" if terse else "A large red car is at the top left."

    monkeypatch.setenv("OPENAI_API_KEY", "none")
    with serving(reply) as running:
        yield running


def run(root, preset, changes, folder):
    """Run all notebooks of a preset and return their outputs by number; they must be sound."""
    changes = with_changes(moved(folder), changes)
    outputs, faults = {}, []
    for path in study.notebooks(root, study.read_preset(preset, changes).notebooks):
        try:
            outputs[path.stem[:2]] = found = run_cells(path, preset=preset, changes=changes)
            faults += found.faults()
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)
            cells = [
                f"{frame.filename}:{frame.lineno}" for frame in where if frame.filename[0] == "<"
            ]
            last = f"{where[-1].filename}:{where[-1].lineno}"
            faults.append(f"{cells[:1]} stops: {type(error).__name__}: {error} ({last})")
    assert not faults, "\n".join(faults)
    return outputs


def test_no_preset_is_without_a_run(root):
    committed = {"mini", "mini-full", "smol", "small", "llava-1.5-7b", "endpoint"}
    # In kernels; as 7b; as smol, but for the language model, whose architecture `small` has.
    elsewhere = {"smoke", "llava-1.5-13b", "smol-qwen"}
    assert {path.stem for path in root.glob("notebooks/presets/*.yaml")} == committed | elsewhere
    seven, thirteen = (study.read_preset(f"llava-1.5-{size}") for size in ("7b", "13b"))
    same = {"name": "x", "work_dir": "w", "report_dir": "r", "curation": "c", "checkpoint": "p"}
    assert structs.replace(seven, **same) == structs.replace(thirteen, **same)
    smol, qwen = study.read_preset("smol"), study.read_preset("smol-qwen")
    same |= {"seeds": [0], "assembly": smol.assembly, "ablations": qwen.ablations}
    same |= {"raw_dir": "r", "image_dir": "i", "tokenizer_file": "t", "system_prompt": "s"}
    assert structs.replace(smol, **same) == structs.replace(qwen, **same)


def test_mini_and_mini_full_run_whole(root, tmp_path):
    """In one folder: what mini has trained and asked, mini-full keeps."""
    base = {"checkpoint": str(tmp_path / "base-{seed}"), "tiny_llava": TINY, "seeds": [0]}
    base["tokenizer_file"] = str(tmp_path / "base-0/tokenizer.json")
    changes = with_changes(SIZES, DRAWN, base)
    run(root, "mini", changes, tmp_path)
    counts = {"ablations": {"image_counts": [2, 4], "seeds": [0]}}
    run(root, "mini-full", with_changes(changes, counts), tmp_path)


def test_smol_runs_whole(root, tmp_path, parts):
    base = {"checkpoint": str(tmp_path / "base"), "seeds": [0, 1], "ablations": {"seeds": [0]}}
    base["tokenizer_file"] = str(tmp_path / "base/tokenizer.json")
    base["assembly"] = {"language": str(parts / "smollm2"), "language_package": None, "images": 12}
    base["mini_coco"] = {"pretraining": 20}
    outputs = run(root, "smol", with_changes(SIZES, DRAWN, base), tmp_path)
    alignment = pd.read_csv(tmp_path / "reports/tables/alignment.csv")
    assert len(alignment) == 2
    # A language model that follows instructions before it is tuned has no gate that it must not.
    assert set(pd.read_csv(tmp_path / "reports/tables/gates.csv").model) == {
        "mix", "merged", "instructed"}  # fmt: skip
    assert "<|im_end|>" in outputs["04"].text


def test_small_runs_whole(root, tmp_path, parts, real_raw):
    base = {"checkpoint": str(tmp_path / "base")}
    base["tokenizer_file"] = str(tmp_path / "base/tokenizer.json")
    base["assembly"] = {"language": str(parts / "qwen2"), "vision": str(parts / "siglip")}
    base["tuning"] = TRAINED
    changes = with_changes(moved(tmp_path, real_raw), SIZES, base)
    run(root, "small", changes, tmp_path)


def test_a_preset_of_a_published_checkpoint_runs_whole(root, tmp_path, published, real_raw, server):
    base = {"checkpoint": str(published)}
    judge = {"judge": {"endpoint": {"base_url": server.url}}}
    changes = with_changes(moved(tmp_path, real_raw), SIZES, base, {"evaluation": judge})
    outputs = run(root, "llava-1.5-7b", changes, tmp_path)
    assert "All train for 1 steps" in outputs["04"].text and "× 576" in outputs["04"].text
    adapter = json.loads((tmp_path / "work/adapters/merged-0/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (128, 256)


def test_endpoint_runs_whole(root, tmp_path, server):
    where = [{"name": "served", "base_url": server.url, "model": "m"}]
    changes = {"mini_coco": {"benchmark": 2}, "evaluation": {"endpoints": where, "resamples": 50}}
    run(root, "endpoint", changes, tmp_path)


@pytest.fixture(scope="module")
def least_raw(tmp_path_factory):
    """One source: a conversation of one round and no prompt for each of twelve pictures."""
    raw = tmp_path_factory.mktemp("least")
    world = write_mini_coco(raw / "all", train=12, held_out=2, seed=7, benchmark=1)
    (raw / "all/images").rename(raw / "images")
    (raw / "annotations").mkdir()
    (raw / "all/annotations/instances_train2017.json").rename(
        raw / "annotations/instances_train2017.json"
    )
    shutil.rmtree(raw / "all")
    records = [
        {"id": str(scene.image_id), "image": f"{scene.image_id:012d}.jpg", "conversations": [
            {"from": "human", "value": "<image>\nWhat is going on here?"},
            {"from": "gpt", "value": f"A picture, the {number}th of several of its kind."},
        ]}
        for number, scene in enumerate(world.train)
    ]  # fmt: skip
    (raw / "llava_instruct").mkdir()
    (raw / "llava_instruct/llava_instruct_150k.json").write_text(json.dumps(records))
    image = f"{world.train[0].image_id:012d}.jpg"
    question = {"question_id": 0, "image": image, "text": "What is this?", "category": "conv"}
    (raw / "qa1_questions.jsonl").write_text(json.dumps(question))
    answered = {"imagename": image, "question": "What is this?", "answer": "a picture",
                "capability": ["rec"]}  # fmt: skip
    (raw / "mm-vet.json").write_text(json.dumps({"v1_0": answered}))
    return raw


LEAST = {
    "checkpoint": "none", "evaluation_sets": [], "held_out_images": 2,
    "mix_file": "llava_instruct/llava_instruct_150k.json", "merge": {"image_tokens": 16},
    "instances": ["annotations/instances_train2017.json"],
}  # fmt: skip


def least(tmp_path, mixture, form, questions):
    """Write a preset of one mixture, one model and one question; return its path."""
    opening = ["What is this? Answer the question with a short phrase."]
    asked = {"format": form, "questions": questions, "images": "images/train2017"}
    evaluation = {
        "models": [mixture], "new_tokens": 4, "resamples": 50, "benchmarks": {"one": asked},
        "protocols": {"single_round": {}, "multi_round": {"opening": opening}},
    }  # fmt: skip
    more = {
        "mixtures": [mixture], "tuning": {**TRAINED, "workers": 0},
        "evaluation": evaluation,
        "ablations": {"run": ["openings"], "openings": {"short": opening}},
    }  # fmt: skip
    (tmp_path / "least.yaml").write_text(yaml.safe_dump({**LEAST, **more}))
    return str(tmp_path / "least.yaml")


def test_every_notebook_runs_on_the_least_that_it_accepts(root, tmp_path, checkpoint, least_raw):
    """One source, single rounds, no prompt, one mixture, one question, one short opening."""
    preset = least(tmp_path, "mix", "mm_vet", "mm-vet.json")
    changes = {**moved(tmp_path, least_raw), "checkpoint": str(checkpoint)}
    run(root, preset, changes, tmp_path)


def test_a_benchmark_without_answers_is_asked_and_its_lengths_are_told(
    root, tmp_path, checkpoint, least_raw
):
    preset = least(tmp_path, "merged", "llava_bench", "qa1_questions.jsonl")
    changes = {**moved(tmp_path, least_raw), "checkpoint": str(checkpoint)}
    setup, *others = study.notebooks(root)
    with pytest.raises(DataError, match="no answer to one can be scored; name a benchmark with"):
        run_cells(setup, preset=preset, changes=changes)
    changes["notebooks"] = [path.stem[:2] for path in (setup, *others) if path.stem[:2] != "07"]
    outputs = run(root, preset, changes, tmp_path)
    assert "- **change of merged**: no difference shown in collapse (" in outputs["05"].text


def test_without_a_model_to_ask_all_notebooks_but_those_that_ask_run(root, tmp_path, least_raw):
    (tmp_path / "none.yaml").write_text(yaml.safe_dump(LEAST))
    asking = {"04", "05", "07", "08"}
    numbers = [path.stem[:2] for path in study.notebooks(root)]
    silent = {"notebooks": [number for number in numbers if number not in asking]}
    preset = str(tmp_path / "none.yaml")
    run(root, preset, moved(tmp_path, least_raw) | silent, tmp_path)
    for path in study.notebooks(root, ["05", "08"]):
        with pytest.raises(DataError, match="names no model to ask: name some in evaluation"):
            run_cells(path, preset=preset, changes=moved(tmp_path, least_raw))
