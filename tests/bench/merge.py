"""The merge beside the plain way and beside the floor, in one run.

    .venv/bin/python tests/bench/merge.py CORPUS [CORPUS ...]

CORPUS is a folder of `tests/bench/make_corpus.py`; several show how cost grows.  Every way runs in
a process of its own:

- `ours`: the readers and the engine of the study, from the upstream files to `merged.json`;
- `plain`: json.load, a dict of lists by image, the same rules image by image, json.dump, as
  research code does it;
- `floor`: decoding the bytes as typed structs and writing the merged file's bytes, nothing else.

All read the same seven sources, about three quarters of the corpus' turns; `ours` and `plain` must
give the same records, by hash.  CPU and memory are sampled over each process and all below it.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq

SOURCES = ("coco_captions", "vqav2", "visual_genome_qa", "gqa", "llava_instruct", "visdial",
           "lvis_instruct4v")  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def rules():
    from cocoift.merge.rules import Rules
    from cocoift.sources.coco import Scope

    return Rules(), Scope()


def ours(raw, out):
    """Merge by the study's own readers and engine."""
    from cocoift.merge.export import export_mixture
    from cocoift.merge.layouts import MERGED
    from cocoift.merge.partitioned import MergeInputs, merge_tables
    from cocoift.sources import read_all, read_catalogue

    chosen, scope = rules()
    catalogue = read_catalogue(ROOT / "data/sources.yaml")
    read_all({name: catalogue[name] for name in SOURCES}, raw, out / "turns")
    tables = sorted((out / "turns").glob("*.parquet"))
    merge_tables(tables, out=out / "turns.parquet", inputs=MergeInputs(rules=chosen, scope=scope))
    export_mixture(out / "turns.parquet", out, name="merged", layout=MERGED, budget=chosen.budget,
                   image_dir="train2017")  # fmt: skip


def plain(raw, out):
    """Merge as research code does: everything in dicts, one loop over the images."""
    import plain_merge

    with (out / "merged.json").open("w") as file:
        json.dump(plain_merge.merge(raw), file)


def floor(raw, out):
    """Decode every byte as typed structs and write as many bytes as the merged file has."""
    import msgspec

    from cocoift.sources import coco, dialogs, genome, vqa

    shapes = {
        "annotations/captions_train2017.json": coco._Captions,
        "vqav2/v2_mscoco_train2014_annotations.json": vqa._Annotations,
        "vqav2/v2_mscoco_val2014_annotations.json": vqa._Annotations,
        "vqav2/v2_OpenEnded_mscoco_train2014_questions.json": vqa._Questions,
        "vqav2/v2_OpenEnded_mscoco_val2014_questions.json": vqa._Questions,
        "visual_genome/image_data.json": list[genome._GenomeImage],
        "visual_genome/question_answers.json": list[genome._GenomeQAs],
        "gqa/train_balanced_questions.json": dict[str, genome._GqaQuestion],
        "llava_instruct/llava_instruct_150k.json": list[dialogs.LlavaRecord],
        "lvis_instruct4v/lvis_instruct4v_220k.json": list[dialogs.LlavaRecord],
        "visdial/visdial_1.0_train.json": dialogs._VisDial,
    }
    kept = []
    for name, shape in shapes.items():
        kept.append(msgspec.json.decode((raw / name).read_bytes(), type=shape))
    text = (out.parent / "ours" / "merged.json").read_bytes()
    (out / "merged.json").write_bytes(text)


WAYS = {"ours": ours, "plain": plain, "floor": floor}


def content(path):
    """Return a hash of the records, whatever the spacing of the file, and how many there are."""
    with path.open() as file:
        rows = json.load(file)
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest(), len(rows)


def run(way, raw, out):
    """Run one way in a process of its own; return wall and CPU seconds and peak memory in GB."""
    out.mkdir()
    command = [sys.executable, __file__, "--way", way, str(raw), str(out)]
    quiet, start = os.environ | {"TQDM_DISABLE": "1"}, time.perf_counter()
    with psutil.Popen(command, stderr=subprocess.PIPE, env=quiet) as one:
        cpu = peak = 0
        while one.poll() is None:
            now = usage(one)
            cpu, peak = max(cpu, now[0]), max(peak, now[1])
            time.sleep(0.05)
        if one.returncode:
            sys.exit(f"{way}:\n{one.stderr.read().decode()}")
    return {"wall s": time.perf_counter() - start, "CPU s": cpu, "peak GB": peak / 1e9}


def usage(process):
    """Return the CPU seconds and the bytes of a process and all below it, shared pages once.

    Sampled, because a fork server's children are not children of the process that uses them.
    """
    seconds = held = 0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.Error):
            times, memory = one.cpu_times(), one.memory_full_info().pss
            seconds += times.user + times.system + times.children_user + times.children_system
            held += memory
    return seconds, held


def measure(raw):
    """Run every way on one corpus; return what each cost and whether the records agree."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {way: run(way, raw, folder / way) for way in WAYS}
        hashes = {way: content(folder / way / "merged.json") for way in ("ours", "plain")}
        turns = sum(pq.read_metadata(p).num_rows for p in (folder / "ours/turns").glob("*.parquet"))
    if hashes["ours"] != hashes["plain"]:
        sys.exit(f"{raw}: ours and plain made DIFFERENT records")
    return found, turns, hashes["ours"][1]


def main():
    if sys.argv[1] == "--way":
        WAYS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        return
    rows, growth = [], []
    for raw in (Path(name).resolve() for name in sys.argv[1:]):
        found, turns, records = measure(raw)
        print(f"{raw.name}: {turns:,} turns, {records:,} records, the same by ours and plain")
        for way, costs in found.items():
            ratios = {f"ours: {k[:-2]} x": found["ours"][k] / costs[k] for k in ("wall s", "CPU s")}
            rows.append({"corpus": raw.name, "way": way, **costs, **ratios})
        ours = found["ours"]
        growth.append({"corpus": raw.name, "turns": turns, "peak GB": ours["peak GB"],
                       "CPU us / turn": 1e6 * ours["CPU s"] / turns})  # fmt: skip
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))
    if len(growth) > 1:
        print("\nours, by size")
        print(pd.DataFrame(growth).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
