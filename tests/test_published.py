"""A checkpoint in the files of the published one runs the notebooks with its own preset."""

import json

import pytest
from published_checkpoint import write_published_checkpoint

from cocoift import study
from minicoco.annotate import write_mini_coco


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A checkpoint in the files of llava-hf/llava-1.5-7b-hf, at tiny width: 336 px, 576 tokens."""
    folder = tmp_path_factory.mktemp("published") / "llava-1.5-7b-hf"
    write_published_checkpoint(folder)
    return folder


def test_a_published_checkpoint_tunes_with_its_preset_and_other_paths_only(
    root, published, tmp_path
):
    write_mini_coco(tmp_path / "raw", train=130, held_out=5, seed=5)
    changes = {"raw_dir": str(tmp_path / "raw"), "image_dir": str(tmp_path / "raw/images")}
    changes |= {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports")}
    changes |= {"checkpoint": str(published)}
    questions = {"questions": "mm_vet/mm-vet.json", "images": "mm_vet/images"}
    changes["evaluation"] = {"benchmarks": {"mm_vet": questions}, "judge": {"kind": "reference"}}
    options = {"preset": "llava-1.5-7b", "changes": changes, "reports": tmp_path / "reports"}
    for notebook in study.notebooks(root):
        if notebook.stem in ("00_setup", "02_merge", "04_finetune_qlora"):
            study.run_notebook(notebook, **options)
    page = (tmp_path / "reports/04_finetune_qlora.html").read_text()
    assert "All train for 1 steps" in page and "× 576" in page
    adapter = json.loads((tmp_path / "work/adapters/merged-0/adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (128, 256)
