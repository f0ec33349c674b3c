"""The inspector on a generated set of COCO's size: seconds to be ready, per step, and memory.

    .venv/bin/python tests/bench/inspector.py [images]

The set (118,287 images, 30 turns each, 7 instances each) is written to a temporary folder first;
the measurement runs in a separate process, as a notebook's kernel would.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cocoift.core.schema import DROPPED_SCHEMA, KEPT_SCHEMA
from cocoift.sources.instances import INSTANCE_SCHEMA

IMAGES, TURNS, INSTANCES = 118_287, 30, 7
SOURCES = [f"source_{n:02d}" for n in range(17)]
FORMS = ["phrase", "free", "number", "sentence"]
SENTENCE = "a the red car is on street near two people with dog and cup at table"
WORDS = np.array(SENTENCE.split(" "))


def texts(rng, count, least, most):
    pool = [" ".join(rng.choice(WORDS, rng.integers(least, most))) for _ in range(5_000)]
    return np.array(pool, dtype=object)[rng.integers(0, len(pool), count)]


def columns(schema, rng, ids):
    count = len(ids)
    values = {
        "image_id": ids,
        "source": np.array(SOURCES, dtype=object)[rng.integers(0, len(SOURCES), count)],
        "dialog_id": np.char.mod("%d", rng.integers(0, 10**8, count)).astype(object),
        "round": np.zeros(count, np.int16),
        "question": texts(rng, count, 4, 14),
        "instruction": texts(rng, count, 8, 20),
        "answer": texts(rng, count, 1, 60),
        "form": np.array(FORMS, dtype=object)[rng.integers(0, len(FORMS), count)],
        "record": np.zeros(count, np.int16),
        "position": np.arange(count).astype(np.int16),
        "tokens": rng.integers(10, 90, count).astype(np.int32),
        "licence": rng.integers(1, 9, count).astype(np.int16),
        "reason": np.array(["duplicate", "conflict"], dtype=object)[rng.integers(0, 2, count)],
        "category": np.array(["car", "dog", "person"], dtype=object)[rng.integers(0, 3, count)],
        "bbox": [[10.0, 20.0, 100.0, 80.0]] * count,
        "iscrowd": np.zeros(count, bool),
        "height": np.full(count, 480, np.int32),
        "width": np.full(count, 640, np.int32),
        "segmentation": [json.dumps([rng.uniform(0, 480, 60).round(2).tolist()])] * count,
    }
    arrays = [pa.array(values[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write(folder, images):
    """Write turns, dropped turns, instances, and one photograph that every image shows."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.choice(581_929, images, replace=False) + 1)
    for name, schema, each in (
        ("turns", KEPT_SCHEMA, TURNS),
        ("dropped", DROPPED_SCHEMA, 3),
        ("instances", INSTANCE_SCHEMA, INSTANCES),
    ):
        with pq.ParquetWriter(folder / f"{name}.parquet", schema) as writer:
            for start in range(0, images, 2_000):
                repeated = np.repeat(ids[start : start + 2_000], each)
                writer.write_batch(columns(schema, rng, repeated))
    noise = rng.integers(0, 255, (480, 640, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((320, 240)).resize((640, 480)).save(folder / "photo.jpg")


def measure(folder):
    """Open the set, step through it, filter it; print what was measured as JSON."""
    start = time.perf_counter()
    from cocoift.inspector.data import Filter, open_inspection
    from cocoift.inspector.widget import Inspector, Lookups

    opened = open_inspection(folder, image_root=folder, instances=folder / "instances.parquet")
    opened = replace(opened, file="photo.jpg")
    lookups = Lookups(catalogue={}, reasons={}, raw=folder)
    inspector = Inspector(opened, lookups, curation=folder / "curation.jsonl")
    bundle = inspector._repr_mimebundle_()
    ready, clock = time.perf_counter() - start, time.perf_counter
    found = {"ready_s": ready, "card_kB": len(bundle["text/html"]) / 1e3}

    def steps(name, step, count=100):
        taken = []
        for _ in range(count):
            before = clock()
            step()
            taken.append((clock() - before) * 1e3)
        found[f"{name}_ms"] = float(np.median(taken))
        found[f"{name}_95_ms"] = float(np.quantile(taken, 0.95))

    steps("next", inspector.next)
    steps("previous", inspector.previous)
    steps("random", inspector.random)
    steps("filter", lambda: opened.images(Filter(source=SOURCES[3], least_sources=9)))
    before = clock()
    inspector.controls["source"].value = SOURCES[3]
    found["filter_and_show_ms"] = (clock() - before) * 1e3
    before = clock()
    inspector.controls["text"].value = "people with dog and cup"
    found["search_s"] = clock() - before
    found["images"] = len(opened.turns.ids)
    found["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps(found))


def main():
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
        return
    images = int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), images)
        command = [sys.executable, __file__, "--measure", name]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for key, value in json.loads(output).items():
        print(f"{key:16} {value:12,.1f}")


if __name__ == "__main__":
    main()
