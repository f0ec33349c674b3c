"""Write a synthetic corpus of the paper's size, in the upstream formats.

    .venv/bin/python tests/bench/make_corpus.py FOLDER [images]

The writers are those of the mini-COCO, on so many drawn scenes (default 118,287, COCO train2017),
without pictures.  What mini's scenes are too plain for is brought to upstream's size: long answers
gain sentences, Visual Genome's sets gain questions, GQA's entries and COCO's outlines gain the
fields and points that a reader must pass over, and LLaVA's file has as many records as
LLaVA-mix-665k.
"""

import random
import sys
from pathlib import Path

import msgspec

from cocoift.core.files import write_bytes
from minicoco import dialog_sets, genome_sets, mix_file, qa_sets
from minicoco.annotate import coco_files
from minicoco.scenes import make_world

IMAGES = 118_287
MIX_RECORDS = 665_298
# Words that a long answer gains on average, by the folder of its file: LLaVA-Instruct's answers
# have about 60 words, those of ShareGPT4V about 140.
LONGER = {"llava_instruct": 60, "lvis_instruct4v": 60, "svit": 80, "sharegpt4v": 130,
          "image_paragraph": 60, "llava_mix": 170}  # fmt: skip
_PHRASES = (
    "the scene shows several people", "who seem to enjoy a calm afternoon",
    "while a soft light falls on", "the wooden table near the window",
    "and some cars pass", "on the wide street behind them",
)  # fmt: skip


def lengthen(content, mean, rng):
    """Append sentences to the long answers (eight words or more) inside a file's content."""
    if isinstance(content, dict):
        return {key: lengthen(value, mean, rng) for key, value in content.items()}
    if isinstance(content, list):
        return [lengthen(value, mean, rng) for value in content]
    if not isinstance(content, str) or content.count(" ") < 7 or content.endswith("?"):
        return content
    phrases = rng.choices(_PHRASES, k=rng.randrange(2 * mean // 5))
    return f"{content} {' '.join(phrases).capitalize()}." if phrases else content


def reworded(question):
    """Return two more wordings of a question, so that each asks something of its own."""
    if not question:
        return []
    return [f"{start} {question[0].lower()}{question[1:]}" for start in
            ("In this photo,", "As far as you can see,")]  # fmt: skip


def more_genome_questions(images):
    """Prompt every question of `question_answers.json` in a second wording too."""
    for image in images:
        image["qas"] += [
            row | {"question": question, "qa_id": row["qa_id"] + 500_000_000}
            for row in image["qas"]
            for question in reworded(row["question"])[:1]
        ]
    return images


def more_gqa(questions):
    """Ask every GQA question in three wordings, with the reasoning that upstream prints beside."""
    found = {}
    for key, row in questions.items():
        for number, question in enumerate([row["question"], *reworded(row["question"])]):
            steps = [
                {"operation": "select", "dependencies": [], "argument": f"object ({key})"},
                {"operation": "filter color", "dependencies": [0], "argument": row["answer"]},
                {"operation": "query", "dependencies": [1], "argument": "name"},
            ]
            boxes = {"0": key, "2:4": key}
            found[f"{key}{number}"] = row | {
                "question": question, "semantic": steps, "entailed": [f"{key}0", f"{key}1"],
                "equivalent": [key], "types": {"structural": "query", "semantic": "attr"},
                "annotations": {"answer": {"0": key}, "question": boxes, "fullAnswer": boxes},
                "semanticStr": f"select: object ({key})->filter color: {row['answer']} [0]->query",
            }  # fmt: skip
    return found


def finer_outlines(file):
    """Give every outline the thirty or so points that COCO's have."""
    for row in file["annotations"]:
        if isinstance(row["segmentation"], list):
            row["segmentation"] = [points * 4 for points in row["segmentation"]]
    return file


def to_published_size(records, *, images, rng):
    """Draw records again until there are as many per image as in LLaVA-mix-665k."""
    missing = round(MIX_RECORDS * images / IMAGES) - len(records)
    return records + rng.choices(records, k=max(0, missing))


def upstream_size(name, content, *, images, rng):
    """Return a file's content at upstream's size."""
    if name == "visual_genome/question_answers.json":
        return more_genome_questions(content)
    if name == "gqa/train_balanced_questions.json":
        return more_gqa(content)
    if name.startswith("annotations/instances"):
        return finer_outlines(content)
    if name.startswith("llava_mix/"):
        content = to_published_size(content, images=images, rng=rng)
    folder = name.split("/")[0]
    return lengthen(content, LONGER[folder], rng) if folder in LONGER else content


def write_corpus(root, *, images=IMAGES, seed=0):
    """Write every source's files below `root`; return their bytes."""
    world = make_world(train=images, held_out=max(20, images // 25), seed=seed, pixels=64)
    rng, total = random.Random(seed), 0
    writers = (coco_files, qa_sets.files, genome_sets.files, dialog_sets.files, mix_file.files)
    for writer in writers:
        for name, content in writer(world):
            content = upstream_size(name, content, images=images, rng=rng)
            raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
            write_bytes(root / name, raw)
            total += len(raw)
    return total


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else IMAGES
    print(f"{write_corpus(Path(sys.argv[1]), images=count) / 1e9:.2f} GB")
