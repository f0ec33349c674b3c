"""The merge beside the plain way and beside the floor, in one run.

    .venv/bin/python tests/bench/merge.py CORPUS

CORPUS is a folder of `tests/bench/make_corpus.py`.  Every way runs in a process of its own:

- `ours`: the readers and the engine of the study, from the upstream files to `merged.json`;
- `plain`: json.load, a dict of lists by image, the same rules image by image, json.dump, as
  research code does it;
- `floor`: decoding the bytes as typed structs and writing the merged file's bytes, nothing else.

All read the same seven sources, about three quarters of the corpus' turns; `ours` and `plain` must
give the same records, by hash.  CPU is that of the process and its children, in seconds.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SOURCES = ("coco_captions", "vqav2", "visual_genome_qa", "gqa", "llava_instruct", "visdial",
           "lvis_instruct4v")  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def rules():
    from cocoift.merge import Rules
    from cocoift.sources.coco import Scope

    return Rules(), Scope()


def ours(raw, out):
    """Merge by the study's own readers and engine."""
    from cocoift.engine import merge_tables
    from cocoift.export import export_mixture
    from cocoift.mixtures import MERGED
    from cocoift.sources import read_all, read_catalogue

    chosen, scope = rules()
    catalogue = read_catalogue(ROOT / "data/sources.yaml")
    read_all({name: catalogue[name] for name in SOURCES}, raw, out / "turns")
    tables = sorted((out / "turns").glob("*.parquet"))
    merge_tables(tables, out=out / "turns.parquet", rules=chosen, scope=scope)
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
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, __file__, "--way", way, str(raw), str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=False,
                          env=os.environ | {"TQDM_DISABLE": "1"})  # fmt: skip
    if told.returncode:
        sys.exit(f"{way}:\n{told.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "peak_GB": float(told.stdout.split()[-1])}


def main():
    if sys.argv[1] == "--way":
        WAYS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
        own, others = (resource.getrusage(who).ru_maxrss for who in
                       (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))  # fmt: skip
        print((own + others) / 1e6)
        return
    raw = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {way: run(way, raw, folder / way) for way in ("ours", "plain", "floor")}
        hashes = {way: content(folder / way / "merged.json") for way in ("ours", "plain")}
    print(f"{'way':8}{'wall s':>10}{'CPU s':>10}{'peak GB':>10}")
    for way, row in found.items():
        print(f"{way:8}" + "".join(f"{value:10.1f}" for value in row.values()))
    same = "the same records" if hashes["ours"] == hashes["plain"] else "DIFFERENT records"
    print(f"ours and plain: {same} ({hashes['ours'][1]:,} and {hashes['plain'][1]:,})")
    for other in ("plain", "floor"):
        ratios = {k: found["ours"][k] / found[other][k] for k in found["ours"]}
        print(f"ours / {other}: " + ", ".join(f"{k} {v:.2f}x" for k, v in ratios.items()))


if __name__ == "__main__":
    main()
