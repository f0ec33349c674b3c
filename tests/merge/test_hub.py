"""Mixtures for the hub: `datasets` reads back every record, and every picture on demand."""

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from msgspec import structs
from PIL import Image

from cocoift.core.files import DataError
from cocoift.core.schema import Message, Record
from cocoift.merge.export import dataset_card, write_extras, write_mixture
from cocoift.merge.hub import HubDataset, write_hub_dataset
from cocoift.merge.rules import Rules

RECORDS = [
    Record(f"{n}", f"train2017/{n:012d}.jpg", [Message("human", f"<image>\nWhat is {n}?"),
           Message("gpt", f"It is {n}.")], ["vqav2"], 4 if n % 2 else None)
    for n in range(250)
]  # fmt: skip


@pytest.fixture(scope="module")
def merged(tmp_path_factory, catalogue):
    """A folder of two mixtures with their card, and the pictures of one beside it."""
    folder = tmp_path_factory.mktemp("merged")
    write_mixture(RECORDS, folder, name="merged")
    write_mixture(RECORDS[:3], folder, name="instructed")
    (folder / "images/train2017").mkdir(parents=True)
    for record in RECORDS:
        colour = (int(record.id), 9, 9)
        Image.new("RGB", (4, 3), colour).save(folder / "images" / record.image, "png")
    drops = pd.DataFrame([("vqav2", "kept", 8)], columns=["source", "reason", "turns"])
    licences = pd.DataFrame([(4, "CC BY 2.0", "", 7)],
                            columns=["licence", "name", "address", "images"])  # fmt: skip
    counts = {name: {"records": 1, "rounds": 1} for name in ("merged", "instructed")}
    card = dataset_card(
        catalogue, drops, counts=counts, licences=licences, rules=Rules(), tokens="estimate"
    )
    write_extras(folder, names=counts, card=card, licences=licences)
    return folder


def load(folder, name, cache):
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(folder), name, split="train", cache_dir=str(cache))


def test_datasets_reads_every_record_with_its_picture(merged, tmp_path):
    dataset = HubDataset(merged=merged, image_root=merged / "images", shard_records=100)
    out = write_hub_dataset(dataset, tmp_path / "hub")
    shards = sorted(path.name for path in (out / "data/merged").iterdir())
    assert shards == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    rows = load(out, "merged", tmp_path / "cache")
    as_json = json.loads((merged / "merged.json").read_text())
    assert len(rows) == len(as_json) == 250
    for number in (0, 99, 100, 249):
        row = rows[number]
        assert row["image"].size == (4, 3) and row["image"].getpixel((0, 0)) == (number, 9, 9)
        told = {name: value for name, value in row.items() if name != "image"}
        expected = {"licence": None, **as_json[number]}
        del expected["image"]
        assert told == expected


@pytest.mark.parametrize("shard_records", [1_000, 250, 99, 40])
def test_every_record_is_in_a_shard_whatever_the_size_of_shards(shard_records, tmp_path):
    thousand = [structs.replace(RECORDS[n % 250], id=f"{n}") for n in range(1_000)]
    write_mixture(thousand, tmp_path, name="merged")
    (tmp_path / "README.md").write_text("---\nlanguage: en\n---\n")
    out = write_hub_dataset(
        HubDataset(merged=tmp_path, shard_records=shard_records), tmp_path / "hub"
    )
    shards = [pq.read_table(path) for path in sorted((out / "data/merged").iterdir())]
    assert [len(shard) for shard in shards[:-1]] == [shard_records] * (len(shards) - 1)
    assert [name for shard in shards for name in shard["id"].to_pylist()] == [
        record.id for record in thousand
    ]


def test_no_row_group_of_a_shard_holds_more_than_a_hundred_pictures(merged, tmp_path):
    out = write_hub_dataset(HubDataset(merged=merged), tmp_path / "hub")
    (shard,) = (out / "data/merged").iterdir()
    metadata = pq.read_metadata(shard)
    groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert groups == [100, 100, 50]


def test_without_pictures_the_image_column_holds_paths_and_each_mixture_is_a_config(
    merged, tmp_path
):
    datasets = pytest.importorskip("datasets")
    both = HubDataset(merged=merged, mixtures=("merged", "instructed"))
    out = write_hub_dataset(both, tmp_path / "hub")
    rows = load(out, "instructed", tmp_path / "cache")
    assert isinstance(rows.features["image"], datasets.Image)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    assert [row["image"]["path"] for row in rows] == [one.image for one in RECORDS[:3]]
    assert {row["image"]["bytes"] for row in rows} == {None}


def test_the_card_names_the_configs_and_tells_whether_images_are_included(merged, tmp_path):
    with_images = HubDataset(merged=merged, image_root=merged / "images")
    for dataset, told in ((with_images, "images are included"),
                          (HubDataset(merged=merged), "Images are not included")):  # fmt: skip
        out = write_hub_dataset(dataset, tmp_path / told)
        _, head, body = (out / "README.md").read_text().split("---\n", 2)
        configs = yaml.safe_load(head)["configs"]
        assert configs == [{"config_name": "merged", "data_files": "data/merged/train-*.parquet"}]
        assert told in body and "| VQAv2 | CC BY 4.0 |" in body and "| 4 | CC BY 2.0 |" in body


def test_nothing_is_left_of_a_dataset_whose_picture_or_mixture_is_missing(merged, tmp_path):
    absent = HubDataset(merged=merged, image_root=tmp_path)
    with pytest.raises(DataError, match=r"000000000000\.jpg: no picture on disk"):
        write_hub_dataset(absent, tmp_path / "hub")
    with pytest.raises(DataError, match=r"no mixture .*mix\.parquet"):
        write_hub_dataset(HubDataset(merged=merged, mixtures=["mix"]), tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_of_an_older_version_is_told_apart_from_a_full_disk(merged, tmp_path):
    rows = pq.read_table(merged / "instructed.parquet").drop_columns(["licence"])
    (tmp_path / "old").mkdir()
    pq.write_table(rows, tmp_path / "old/merged.parquet")
    with pytest.raises(DataError, match="not the columns of this version; run notebook 02_merge"):
        write_hub_dataset(HubDataset(merged=tmp_path / "old"), tmp_path / "hub")


def test_a_folder_with_something_in_it_is_left_alone(merged, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match="is not empty; name a new folder"):
        write_hub_dataset(HubDataset(merged=merged), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
