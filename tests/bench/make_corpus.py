"""Write a synthetic corpus of the paper's size, in the upstream formats.

    .venv/bin/python tests/bench/make_corpus.py FOLDER [images]

The writers are those of the mini-COCO, on so many drawn scenes (default 118,287, COCO train2017),
without pictures.  Answers of the conversational sources are lengthened to what those sets hold:
mini's scenes have too little to tell.
"""

import random
import sys
from pathlib import Path

import msgspec

from cocoift.files import write_bytes
from cocoift.mini import dialog_sets, genome_sets, mix_file, qa_sets
from cocoift.mini.annotate import coco_files
from cocoift.mini.world import make_world

IMAGES = 118_287
# Words that a long answer gains on average, by the folder of its file: LLaVA-Instruct's answers
# have about 60 words, those of ShareGPT4V about 140.
LONGER = {"llava_instruct": 45, "lvis_instruct4v": 40, "svit": 60, "sharegpt4v": 110,
          "image_paragraph": 30, "llava_mix": 40}  # fmt: skip
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
    told = rng.choices(_PHRASES, k=rng.randrange(2 * mean // 5))
    return f"{content} {' '.join(told).capitalize()}." if told else content


def write_corpus(root, *, images=IMAGES, seed=0):
    """Write every source's files below `root`; return their bytes."""
    world = make_world(train=images, held_out=max(20, images // 25), seed=seed, pixels=64)
    rng, total = random.Random(seed), 0
    writers = (coco_files, qa_sets.files, genome_sets.files, dialog_sets.files, mix_file.files)
    for writer in writers:
        for name, content in writer(world):
            folder = name.split("/")[0]
            if folder in LONGER:
                content = lengthen(content, LONGER[folder], rng)
            raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
            write_bytes(root / name, raw)
            total += len(raw)
    return total


if __name__ == "__main__":
    count = int(sys.argv[2]) if len(sys.argv) > 2 else IMAGES
    print(f"{write_corpus(Path(sys.argv[1]), images=count) / 1e9:.2f} GB")
