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
from collections import defaultdict
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
    from cocoift.engine import kept_by_image, merge_tables
    from cocoift.export import write_mixture
    from cocoift.mixtures import MERGED, records
    from cocoift.sources import read_all, read_catalogue

    chosen, scope = rules()
    catalogue = read_catalogue(ROOT / "data/sources.yaml")
    read_all({name: catalogue[name] for name in SOURCES}, raw, out / "turns")
    tables = sorted((out / "turns").glob("*.parquet"))
    merge_tables(tables, out=out / "turns.parquet", rules=chosen, scope=scope)
    images = kept_by_image(out / "turns.parquet")
    made = records(images, layout=MERGED, budget=chosen.budget, image_dir="train2017")
    write_mixture(made, out, name="merged")


def plain(raw, out):
    """Merge as research code does: everything in dicts, one loop over the images."""
    from cocoift.merge import merge_image
    from cocoift.records import to_record
    from cocoift.tokens import estimate

    chosen, scope = rules()
    by_image = defaultdict(list)
    for turn in plain_turns(raw):
        by_image[turn.image_id].append(turn)
    found = []
    for image_id in sorted(by_image):
        merged = merge_image(
            image_id, by_image[image_id], rules=chosen, scope=scope, count_tokens=estimate
        )
        for number, costed in enumerate(merged.records):
            name = f"{image_id:012d}" + (f"-{number}" if number else "")
            record = to_record(
                [turn for turn, _ in costed], record_id=name,
                image=f"train2017/{image_id:012d}.jpg",
            )  # fmt: skip
            chat = [{"from": m.speaker, "value": m.value} for m in record.conversations]
            found.append({"id": record.id, "image": record.image, "conversations": chat,
                          "sources": record.sources})  # fmt: skip
    with (out / "merged.json").open("w") as file:
        json.dump(found, file)


def plain_turns(raw):
    """Yield the turns of the seven sources, parsed by the standard library."""
    from collections import Counter

    from cocoift.records import Turn, coco_id
    from cocoift.sources.base import QA, content_id

    phrase = "Answer the question with a short phrase."

    def load(name):
        with (raw / name).open() as file:
            return json.load(file)

    def asked(image, source, dialog, question, answer):
        instruction = f"{question.strip()} {phrase}" if question else None
        return Turn(image, source, dialog, 0, question, instruction, answer, "phrase")

    for row in load("annotations/captions_train2017.json")["annotations"]:
        text = "Describe the content of this image in 20 words."
        yield Turn(row["image_id"], "coco_captions", str(row["id"]), 0, "", text, row["caption"],
                   "sentence")  # fmt: skip
    seen = set()
    for split in ("train", "val"):
        answers = {}
        for row in load(f"vqav2/v2_mscoco_{split}2014_annotations.json")["annotations"]:
            answers.setdefault(row["question_id"], row)
        for row in load(f"vqav2/v2_OpenEnded_mscoco_{split}2014_questions.json")["questions"]:
            if row["question_id"] in answers and row["question_id"] not in seen:
                seen.add(row["question_id"])
                told = answers[row["question_id"]]
                counts = Counter(a["answer"] for a in told["answers"] or [])
                best = [a for a, n in counts.items() if n == max(counts.values())]
                preferred = told.get("multiple_choice_answer")
                answer = (preferred if preferred in best else best[0]) if best else None
                name = str(row["question_id"])
                yield asked(row["image_id"], "vqav2", name, row["question"], answer)
    images = load("visual_genome/image_data.json")
    coco = {row["image_id"]: row["coco_id"] for row in images if row["coco_id"] is not None}
    for image in load("visual_genome/question_answers.json"):
        for row in image["qas"] if image["id"] in coco else ():
            place, name = coco[image["id"]], str(row["qa_id"])
            yield asked(place, "visual_genome_qa", name, row["question"], row["answer"])
    for name, row in load("gqa/train_balanced_questions.json").items():
        place = coco.get(int(row["imageId"])) if row["imageId"].isdigit() else None
        if place is not None:
            yield asked(place, "gqa", name, row["question"], row["answer"])
    chats = {"llava_instruct": "llava_instruct_150k", "lvis_instruct4v": "lvis_instruct4v_220k"}
    for source, path in ((name, f"{name}/{file}.json") for name, file in chats.items()):
        known = set()
        for row in load(path):
            texts = [m["value"] for m in row["conversations"]]
            speakers = [m["from"] for m in row["conversations"]]
            if not texts or speakers != ["human", "gpt"] * (len(texts) // 2):
                continue
            try:
                image = coco_id(row["image"])
            except ValueError:
                continue
            texts[0] = texts[0].removeprefix("<image>\n").removesuffix("\n<image>")
            pairs = [QA(*pair) for pair in zip(texts[::2], texts[1::2], strict=True)]
            dialog = f"{image}-{content_id(*pairs)}"
            if dialog not in known:
                known.add(dialog)
                for n, (q, a, *_) in enumerate(pairs):
                    yield Turn(image, source, dialog, n, q, q.strip() or None, a, "free")
    data = load("visdial/visdial_1.0_train.json")["data"]
    for row in data["dialogs"]:
        for n, told in enumerate(row["dialog"]):
            question = data["questions"][told["question"]].strip()
            question = question if question.endswith("?") or not question else f"{question}?"
            answer = None if told.get("answer") is None else data["answers"][told["answer"]]
            yield Turn(row["image_id"], "visdial", str(row["image_id"]), n, question,
                       question or None, answer, "free")  # fmt: skip


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
