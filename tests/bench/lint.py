"""`cocoift lint` on a synthetic file with LLaVA-mix-665k's published structure.

    .venv/bin/python tests/bench/lint.py [SHARE] [FOLDER]

Writes as many records per source as LLaVA-mix-665k has, times SHARE (default 1: a gigabyte), each
with the rounds, prompts and answer lengths that are known of it, lints the file in a process of
its own, and prints the seconds and the peak of the memory that the processes share out.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
from merge import usage

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
# Records by source as published, folder of the images, rounds, words of an answer, and where the
# prompt for a short answer stands.
PARTS = {
    "llava": (157_712, "coco/train2017", (1, 4), (20, 120), "none"),
    "sharegpt": (40_688, None, (1, 6), (40, 400), "none"),
    "vqav2": (82_783, "coco/train2017", (4, 7), (1, 2), "first"),
    "gqa": (72_140, "gqa/images", (6, 20), (1, 1), "first"),
    "okvqa": (8_998, "coco/train2017", (1, 2), (1, 2), "first"),
    "ocrvqa": (80_000, "ocr_vqa/images", (4, 6), (1, 3), "first"),
    "aokvqa": (66_160, "coco/train2017", (1, 1), (1, 1), "letter"),
    "textcaps": (21_953, "textvqa/train_images", (1, 1), (10, 14), "caption"),
    "refcoco": (48_447, "coco/train2017", (4, 12), (1, 6), "box"),
    "vg": (86_417, "vg/VG_100K", (6, 12), (1, 6), "box"),
}  # fmt: skip
NOUNS = [a + b for a in ("car", "dog", "lamp", "tree", "roof", "bench", "kite", "cup", "bus", "hat")
         for b in ("", "s", " seat", " top", " leg", " side", " base", " front")]  # fmt: skip
OPEN = ("Describe the image in detail.", "What is happening in the scene with the {}?",
        "How might the {} and the {} be related?", "What can you tell me about the {}?",
        "Why would someone leave the {} there?", "What is the mood of the scene?")  # fmt: skip
CLOSED = ("What color is the {}?", "Is there a {} near the {}?", "What is on the {}?",
          "How many {} are there?", "Where is the {}?", "Which side is the {} on?")  # fmt: skip
WORDS = ("the", "image", "shows", "a", "wooden", "table", "near", "the", "window", "while",
         "people", "walk", "along", "a", "wide", "street", "and", "some", "of", "them", "carry",
         "bags", "because", "it", "has", "rained", "in", "the", "morning")  # fmt: skip


def records(share, rng):
    """Yield records of every source, in a shuffled order of sources."""
    order = [name for name, part in PARTS.items() for _ in range(round(part[0] * share))]
    rng.shuffle(order)
    for number, source in enumerate(order):
        _, folder, rounds, words, prompt = PARTS[source]
        messages = []
        for place in range(rng.randint(*rounds)):
            wording = rng.choice(OPEN if prompt == "none" else CLOSED)
            text = wording.format(rng.choice(NOUNS), rng.choice(NOUNS))
            if prompt == "first" and place == 0:
                text = f"{text}\n{SHORT}"
            elif prompt == "letter":
                text = f"{text}\nA. {rng.choice(NOUNS)}\nB. {rng.choice(NOUNS)}\n{LETTER}"
            elif prompt == "caption":
                text = "Provide a one-sentence caption for the provided image."
            elif prompt == "box":
                text = "Please provide the bounding box coordinate of the region this sentence "
                text += f"describes: {rng.choice(NOUNS)} by the {rng.choice(NOUNS)}"
            if place == 0 and folder:
                text = f"<image>\n{text}" if rng.random() < 0.9 else f"{text}\n<image>"
            start, count = rng.randrange(20), rng.randint(*words)
            answer = " ".join((list(WORDS) * 20)[start : start + count])
            messages += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        name = f"{rng.randrange(1, 581_921):012d}"
        image = {"image": f"{folder}/{name}.jpg"} if folder else {}
        yield {"id": name if folder else f"s{number}", **image, "conversations": messages}


def write(path, share, seed=0):
    """Write the file; return the number of records."""
    rng, count = random.Random(seed), 0
    with path.open("wb") as file:
        for record in records(share, rng):
            file.write(b",\n" if count else b"[\n")
            file.write(msgspec.json.encode(record))
            count += 1
        file.write(b"\n]\n")
    return count


def measure(path):
    """Lint the file in a process of its own; return seconds and the peak of memory in MB."""
    command = [sys.executable, "-m", "cocoift", "lint", str(path)]
    start, cpu, peak = time.perf_counter(), 0.0, 0
    with psutil.Popen(command, env=os.environ, stdout=subprocess.PIPE) as child:
        while child.poll() is None:
            now = usage(child)
            cpu, peak = max(cpu, now[0]), max(peak, now[1])
            time.sleep(0.1)
        print(child.stdout.read().decode())
    return time.perf_counter() - start, cpu, peak / 1e6


def main():
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else temporary)
        path = folder / f"mix{share:g}.json"
        if not path.exists():
            write(path, share)
        size = path.stat().st_size / 1e6
        seconds, cpu, memory = measure(path)
        print(f"{size:,.0f} MB: {seconds:.1f} s, {cpu:.1f} CPU s, {memory:,.0f} MB at most")


if __name__ == "__main__":
    main()
