"""The merge beside the plain way and beside the floor, in one run.

    .venv/bin/python tests/bench/merge.py [--ours] CORPUS [CORPUS ...]

CORPUS is a folder of `tests/bench/make_corpus.py`; several show how cost grows, `--ours` leaves
the other ways out where they would not fit in memory.  Every way runs in a process of its own:

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
FILES = (
    "annotations/captions_train2017.json",
    "vqav2/v2_mscoco_train2014_annotations.json",
    "vqav2/v2_mscoco_val2014_annotations.json",
    "vqav2/v2_OpenEnded_mscoco_train2014_questions.json",
    "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
    "visual_genome/image_data.json",
    "visual_genome/question_answers.json",
    "gqa/train_balanced_questions.json",
    "llava_instruct/llava_instruct_150k.json",
    "lvis_instruct4v/lvis_instruct4v_220k.json",
    "visdial/visdial_1.0_train.json",
)
ROOT = Path(__file__).resolve().parents[2]


def rules():
    from cocoift.merge.rules import Rules
    from cocoift.sources.scope import Scope

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

    def under(key, shape, **others):
        return msgspec.defstruct("File", [(key, list[shape]), *others.items()])

    rounds = under("dialogs", dialogs._VisDialDialog, questions=list[str], answers=list[str])
    asked, answered = under("questions", vqa._Question), under("annotations", vqa._Annotation)
    shapes = [
        under("annotations", coco._Caption),
        *[answered] * 2,
        *[asked] * 2,
        list[genome._GenomeImage],
        list[genome._GenomeQAs],
        dict[str, genome._GqaQuestion],
        *[list[dialogs.LlavaRecord]] * 2,
        msgspec.defstruct("File", [("data", rounds)]),
    ]
    kept = []
    for name, shape in zip(FILES, shapes, strict=True):
        kept.append(msgspec.json.decode((raw / name).read_bytes(), type=shape))
    text = (out.parent / "ours" / "merged.json").read_bytes()
    (out / "merged.json").write_bytes(text)


WAYS = {"ours": ours, "plain": plain, "floor": floor}


def content(path):
    """Return a hash of the records, whatever the spacing of the file."""
    with path.open() as file:
        lines = sorted(json.dumps(row, sort_keys=True) for row in json.load(file))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def run(way, raw, out):
    """Run one way in a process of its own; return wall and CPU seconds and peak memory in GB."""
    out.mkdir()
    command = [sys.executable, __file__, "--way", way, str(raw), str(out)]
    quiet, start = os.environ | {"TQDM_DISABLE": "1"}, time.perf_counter()
    with psutil.Popen(command, stderr=subprocess.PIPE, env=quiet) as child:
        cpu = peak = 0
        while child.poll() is None:
            now = usage(child)
            cpu, peak = max(cpu, now[0]), max(peak, now[1])
            time.sleep(0.2)
        if child.returncode:
            sys.exit(f"{way}:\n{child.stderr.read().decode()}")
    return {"wall s": time.perf_counter() - start, "CPU s": cpu, "peak GB": peak / 1e9}


def usage(process):
    """Return the CPU seconds and the bytes of a process and all below it, shared pages once.

    Sampled, because a fork server's children are not children of the process that uses them.  The
    pages of mapped input files do not count: they leave memory as soon as it is wanted.
    """
    seconds = held = 0
    for member in (process, *process.children(recursive=True)):
        with suppress(psutil.Error, OSError):
            times = member.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
            for line in Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    held += 1024 * int(line.split()[1])
    return seconds, held


def measure(raw, ways):
    """Run the ways on one corpus; return what each cost, the turns and the records.

    Ours and the plain way must give the same records.
    """
    with tempfile.TemporaryDirectory(dir=raw.parent) as name:
        folder = Path(name)
        found = {way: run(way, raw, folder / way) for way in ways}
        turns = sum(pq.read_metadata(p).num_rows for p in (folder / "ours/turns").glob("*.parquet"))
        records = pq.read_metadata(folder / "ours/merged.parquet").num_rows
        if "plain" in ways:
            ours, plain = (content(folder / way / "merged.json") for way in ("ours", "plain"))
            if ours != plain:
                sys.exit(f"{raw}: ours and plain made DIFFERENT records")
    return found, turns, records


def main():
    if sys.argv[1] == "--way":
        WAYS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        return
    ways = ["ours"] if sys.argv[1] == "--ours" else list(WAYS)
    rows = []
    for raw in (Path(name).resolve() for name in sys.argv[1:] if name != "--ours"):
        found, turns, records = measure(raw, ways)
        print(f"{raw.name}: {turns:,} turns, {records:,} records", end="")
        print(", the same by ours and plain" if "plain" in ways else "")
        for way, costs in found.items():
            ratios = {f"ours: {k[:-2]} x": found["ours"][k] / costs[k] for k in ("wall s", "CPU s")}
            each = 1e6 * costs["CPU s"] / turns
            rows.append({"corpus": raw.name, "way": way, **costs, "CPU us / turn": each, **ratios})
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
