"""The 7B path on one GPU in at most ten minutes, with random weights and without internet.

    .venv/bin/python tests/bench/gpu.py OUT [--shape 7b] [--parts load,train,...]

Every part is a process of its own with a time limit, and appends its JSON row to OUT/rows.jsonl at
once; a part that fails or runs out of time leaves a row that says so.  `--shape tiny` runs every
part on a CPU in a minute.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from gpu_inputs import SHAPES, write_checkpoint, write_records
from gpu_parts import PARTS

# Seconds; all parts together may take what the ten minutes leave beside writing the checkpoint.
LIMIT = 90
STEPS = 4


def prepare(out, shape, device):
    started = time.perf_counter()
    if not (out / "checkpoint/config.json").is_file():
        write_checkpoint(out / "checkpoint", shape, device)
    if not (out / "records/merged.json").is_file():
        write_records(out / "records", shape, STEPS)
    return {"part": "prepare", "seconds": round(time.perf_counter() - started, 1)}


def measured(out, name, chosen):
    command = [sys.executable, __file__, str(out), "--shape", chosen.shape, "--part", name]
    started = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=chosen.limit, check=False
        )
        row = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {
            "error": (done.stderr.strip().splitlines() or ["ended without a word"])[-1]
        }  # fmt: skip
    except subprocess.TimeoutExpired:
        row = {"error": f"took more than {chosen.limit} s"}
    return {"part": name, **row, "seconds": round(time.perf_counter() - started, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    parser.add_argument("--parts", default=",".join(PARTS), help="separated by commas")
    parser.add_argument("--limit", type=int, default=LIMIT, help="seconds for each part")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    out, shape = chosen.out.resolve(), SHAPES[chosen.shape]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if chosen.part:
        print(json.dumps(PARTS[chosen.part](out, shape, device)))
        return
    out.mkdir(parents=True, exist_ok=True)
    where = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    about = {"shape": chosen.shape, "device": where, "torch": torch.__version__}
    with (out / "rows.jsonl").open("a", encoding="utf-8") as rows:
        for row in (
            prepare(out, shape, device),
            *(measured(out, name, chosen) for name in chosen.parts.split(",")),
        ):
            line = json.dumps(row | about)
            print(line, flush=True)
            rows.write(f"{line}\n")
            rows.flush()


if __name__ == "__main__":
    main()
