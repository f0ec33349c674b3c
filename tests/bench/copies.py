"""Write a corpus several times as large: copies of the bench's seven sources, ids of their own.

    .venv/bin/python tests/bench/copies.py CORPUS FOLDER COPIES

CORPUS is a folder of `tests/bench/make_corpus.py`.  Files are written record by record.
"""

import re
import sys
from pathlib import Path

import msgspec
from merge import FILES

from cocoift.core.files import replacing

# Larger than every id of a corpus, and 999 times it still has twelve digits.
STEP = 1_000_000_000
IDS = {"id", "image_id", "coco_id", "question_id", "qa_id"}


def shift(record):
    """Give a record, and the questions in it, the ids of the next copy."""
    for key in IDS & record.keys():
        if isinstance(record[key], int):
            record[key] += STEP
    if record.get("imageId", "").isdigit():  # GQA's spelling of a Visual Genome image's number
        record["imageId"] = str(int(record["imageId"]) + STEP)
    if "image" in record:
        record["image"] = re.sub(r"\d{12}", lambda m: f"{int(m[0]) + STEP:012d}", record["image"])
    for inner in record.get("qas", ()):
        shift(inner)


def pieces(content, keys, copies):
    """Yield the bytes of a file with so many copies of its records, which lie at `keys`."""
    records = content
    for key in keys:
        around, records = records, records[key]
    if keys:
        around[keys[-1]] = "<HERE>"
    before, _, after = msgspec.json.encode(content if keys else "<HERE>").partition(b'"<HERE>"')
    keyed = isinstance(records, dict)
    yield before + (b"{" if keyed else b"[")
    for copy in range(copies):
        for number, entry in enumerate(records):
            record = records[entry] if keyed else entry
            comma = b"," if copy or number else b""
            name = msgspec.json.encode(f"{copy}-{entry}") + b":" if keyed else b""
            yield comma + name + msgspec.json.encode(record)
            shift(record)
    yield (b"}" if keyed else b"]") + after


def keys_to_records(name):
    """Return the keys that lead to the records of a file; none when they are all that is in it."""
    if name.startswith("visdial"):
        return "data", "dialogs"
    if name.startswith(("annotations", "vqav2")):
        return ("questions" if "questions" in name else "annotations",)
    return ()


def main():
    corpus, folder, copies = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for name in FILES:
        content = msgspec.json.decode((corpus / name).read_bytes())
        with replacing(folder / name) as temporary, temporary.open("wb") as file:
            file.writelines(pieces(content, keys_to_records(name), copies))
    total = sum((folder / name).stat().st_size for name in FILES)
    print(f"{total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
