"""`tests/bench/gpu.py`: every part runs, on a CPU at a tiny size."""

import json
import subprocess
import sys

import pytest

PARTS = ("load", "train", "train_24gb", "plain_trainer", "profile", "answering", "resume", "export",
         "processor")  # fmt: skip


@pytest.fixture(scope="module")
def bench(root, tmp_path_factory):
    sys.path.insert(0, str(root / "tests/bench"))
    import gpu
    import gpu_parts

    out = tmp_path_factory.mktemp("gpu")
    gpu.prepare(out, gpu.SHAPES["tiny"], "cpu")
    yield out, gpu.SHAPES["tiny"], gpu_parts.PARTS
    sys.path.remove(str(root / "tests/bench"))


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_measures_what_it_names(bench, part):
    out, shape, parts = bench
    assert tuple(parts) == PARTS
    row = parts[part](out, shape, "cpu")
    assert json.loads(json.dumps(row)) == row
    checks = {
        "load": lambda: row["tensors_gb"] == pytest.approx(row["estimate_gb"], rel=0.5, abs=0.001),
        "train": lambda: row["mix_tokens_per_s"] > 0 and row["merged_tokens_per_s"] > 0,
        "train_24gb": lambda: row["pretended_gb"] == 24,
        "plain_trainer": lambda: row["ratio"] > 0,
        "profile": lambda: row["attention"] == "flash" and 0 < row["dequantising"] < 1,
        "answering": lambda: row["same_as_alone_3"] == 1.0,
        "resume": lambda: row["steps"] == 4 and row["largest_difference_of_losses"] == 0.0,
        "export": lambda: row["largest_difference_of_logits"] < 1e-3 * row["largest_logit"],
        "processor": lambda: max(row["largest_difference_of_pixels"].values()) < 0.02,
    }
    assert checks[part]()


@pytest.mark.slow
def test_a_part_that_runs_out_of_time_leaves_a_row_that_says_so(root, tmp_path):
    command = [sys.executable, root / "tests/bench/gpu.py", tmp_path, "--shape", "tiny"]
    command += ["--parts", "processor", "--limit", "1"]
    subprocess.run(command, check=True, capture_output=True)
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["part"] for row in rows] == ["prepare", "processor"]
    assert rows[1]["error"] == "took more than 1 s"
