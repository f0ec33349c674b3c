"""Parquet and JSON of an earlier run or a user, damaged: every reader names it in one line."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cocoift.core.files import DataError, read_manifest
from cocoift.core.schema import kept_by_image
from cocoift.evaluation.answers import dataset_answers, source_answers
from cocoift.evaluation.lengths import record_rounds
from cocoift.inspector.data import Filter, open_inspection
from cocoift.merge.export import dataset_card, export_mixture, image_licences, write_extras
from cocoift.merge.hub import HubDataset, write_hub_dataset
from cocoift.merge.layouts import MERGED
from cocoift.merge.partitioned import MergeInputs, merge_tables
from cocoift.merge.rules import Rules
from cocoift.report import merge as report
from cocoift.sources import read_all
from cocoift.sources.instances import read_listed, write_instances
from cocoift.sources.reading import load_reading, load_readings, saved_counts
from cocoift.sources.scope import Scope
from cocoift.study.machine import forecast
from cocoift.study.runner import noted_results
from cocoift.tuning.checkpoints import training_log
from cocoift.tuning.data import count_records, split_images
from minicoco import Recipe
from minicoco.annotate import write_mini_coco
from minicoco.llava import build_tiny_llava

SOURCES = ("coco_captions", "vqav2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, catalogue):
    """The files of a small study: turn tables, the merged set, a mixture, COCO's instances."""
    folder = tmp_path_factory.mktemp("whole")
    write_mini_coco(folder / "raw", train=6, held_out=3, seed=1)
    read_all({name: catalogue[name] for name in SOURCES}, folder / "raw", folder / "turns")
    merge(folder, folder)
    turns = folder / "turns.parquet"
    counts = {"merged": export_mixture(turns, folder, name="merged", layout=MERGED, budget=900)}
    drops = pd.DataFrame({"source": SOURCES, "reason": "kept", "turns": 1})
    licences = image_licences(turns, Scope())
    given = {"counts": counts, "licences": licences, "rules": Rules(), "tokens": "estimate"}
    card = dataset_card(catalogue, drops, **given)
    write_extras(folder, names=counts, card=card, licences=licences)
    coco = folder / "raw/annotations/instances_train2017.json"
    write_instances(read_listed([coco]), folder / "instances.parquet")
    return folder


def merge(folder, out):
    tables = sorted((folder / "turns").glob("*.parquet"))
    merge_tables(tables, out=out / "turns.parquet", inputs=MergeInputs(rules=Rules()))


def inspect(folder):
    opened = open_inspection(folder, image_root=folder, instances=folder / "instances.parquet")
    opened.images(Filter(text="a", conflicts=True))
    for image_id in opened.turns.ids:
        opened.view(int(image_id))


def hub(folder, tmp_path):
    write_hub_dataset(HubDataset(merged=folder), tmp_path / "hub")


READERS = {
    "turns/vqav2.parquet": {
        "merge": merge,
        "load_reading": lambda f, _: load_reading(f / "turns/vqav2.parquet"),
        "load_readings": lambda f, _: load_readings(f / "turns"),
        "busiest_image": lambda f, _: report.busiest_image([*(f / "turns").iterdir()], Scope()),
    },
    "turns.parquet": {
        "kept_by_image": lambda f, _: list(kept_by_image(f / "turns.parquet")),
        "export_mixture": lambda f, out: export_mixture(
            f / "turns.parquet", out, name="m", layout=MERGED, budget=900
        ),
        "source_answers": lambda f, _: source_answers(f / "turns.parquet"),
        "image_licences": lambda f, _: image_licences(f / "turns.parquet", Scope()),
        "prompted_table": lambda f, _: report.prompted_table(f / "turns.parquet", words=3),
        "kept_table": lambda f, _: report.kept_table(f / "turns.parquet", rules=Rules()),
        "inspect": lambda f, _: inspect(f),
    },
    "dropped.parquet": {"inspect": lambda f, _: inspect(f)},
    "instances.parquet": {"inspect": lambda f, _: inspect(f)},
    "merged.parquet": {
        "dataset_answers": lambda f, _: dataset_answers(f / "merged.parquet", name="m"),
        "record_rounds": lambda f, _: record_rounds(f / "merged.parquet"),
        "split_images": lambda f, _: split_images(f / "merged.json", held_out=1),
        "count_records": lambda f, _: count_records(f / "merged.json", []),
        "example_records": lambda f, _: report.example_records(
            f / "merged.parquet", count=2, image_root=f
        ),
        "hub": hub,
    },
}
CALLS = [(file, name) for file, readers in READERS.items() for name in readers]


def damaged(content):
    """Return a Parquet file cut short, without its pages, emptied, of zeros, of other columns."""
    footer = 8 + int.from_bytes(content[-8:-4], "little")
    pages = len(content) - footer - 4
    other = pa.BufferOutputStream()
    pq.write_table(pa.table({"conversations": [1, 2], "image": [None, 3]}), other)
    return {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(len(content)),
            "pages": content[:4] + b"\xff" * pages + content[-footer:],
            "columns": other.getvalue().to_pybytes()}  # fmt: skip


@pytest.mark.parametrize(("file", "name"), CALLS)
def test_a_damaged_table_is_named_by_every_reader(whole, tmp_path, file, name):
    content = (whole / file).read_bytes()
    read = READERS[file][name]
    try:
        for kind, altered in damaged(content).items():
            (whole / file).write_bytes(altered)
            with pytest.raises(DataError) as raised:
                read(whole, tmp_path)
            message = str(raised.value)
            assert str(whole / file) in message and "\n" not in message, (kind, message)
            assert "run notebook" in message or "name a dataset" in message, (kind, message)
        (whole / file).unlink()
        if file != "dropped.parquet" and (file, name) not in OPTIONAL:
            with pytest.raises(DataError, match=r"no such file|not on disk|no mixture"):
                read(whole, tmp_path)
    finally:
        (whole / file).write_bytes(content)
    read(whole, tmp_path)


# What may be absent: these readers read the other files then.
OPTIONAL = {
    ("turns/vqav2.parquet", "merge"),
    ("turns/vqav2.parquet", "load_readings"),
    ("turns/vqav2.parquet", "busiest_image"),
    ("instances.parquet", "inspect"),
}


def test_a_turn_table_without_its_counts_is_named(whole):
    path = whole / "turns/vqav2.parquet"
    content = path.read_bytes()
    for altered in (damaged(content)["cut"], damaged(content)["columns"]):
        path.write_bytes(altered)
        with pytest.raises(DataError, match=r"vqav2\.parquet: .*; run notebook 00_setup again"):
            saved_counts(whole / "turns")
    path.write_bytes(content)
    assert saved_counts(whole / "turns").keys() == set(SOURCES)


def test_a_users_parquet_whose_rows_are_no_conversations_is_named(tmp_path):
    path = tmp_path / "mine.parquet"
    chat = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "a cup"}]
    rows = {"id": ["a", "b"], "image": ["1.jpg", "2.jpg"]}
    for chats in (["text", "text"], [chat, None], [chat, [{"from": "human", "value": None}] * 2]):
        pq.write_table(pa.table(rows | {"conversations": chats}), path)
        with pytest.raises(DataError, match=r"mine\.parquet: .*; name a dataset in LLaVA's format"):
            dataset_answers(path, name="mine")


JSON_READERS = {
    "training.json": (lambda f: training_log(f), "run notebook 04_finetune_qlora"),
    "built.json": (lambda f: build_tiny_llava(f, Recipe()), "run notebook 00_setup again"),
    "manifest.json": (lambda f: read_manifest(f / "manifest.json", root=f), "rerun the notebook"),
    "run.json": (lambda f: forecast(f), "run the study again"),
    "05.ipynb": (lambda f: noted_results(f / "05.ipynb"), "run the study again"),
}


# JSON that is whole and says something else.
MISSHAPEN = {
    "run.json": [b'{"seconds": [1]}', b'{"speed": "fast"}'],
    "05.ipynb": [b'{"metadata": {"papermill": {"duration": 1}, "cocoift_wrote": 3}}'],
}


@pytest.mark.parametrize("file", JSON_READERS)
def test_damaged_json_of_an_earlier_run_is_named_with_what_to_run_again(tmp_path, file):
    read, fix = JSON_READERS[file]
    for content in (b"", b'{"key": "ha', b"\xff\xfe", b"[1]", bytes(64), *MISSHAPEN.get(file, [])):
        (tmp_path / file).write_bytes(content)
        with pytest.raises(DataError) as raised:
            read(tmp_path)
        message = str(raised.value)
        assert str(tmp_path / file) in message and fix in message and "\n" not in message


@pytest.mark.parametrize("read", [hub, lambda folder, out: inspect(folder)], ids=["hub", "inspect"])
def test_damaged_licences_are_named_with_what_to_run_again(whole, tmp_path, read):
    path = whole / "licences.json"
    content = path.read_bytes()
    for altered in (content[: len(content) // 2], b"[{}]", b'[{"licence": [], "name": 1}]'):
        path.write_bytes(altered)
        with pytest.raises(DataError, match=r"licences\.json: .*; run notebook 02_merge again"):
            read(whole, tmp_path)
    path.write_bytes(content)
