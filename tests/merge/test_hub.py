"""Mixtures for the hub: `datasets` reads back every record, and every image on demand."""

import json
import shutil
from pathlib import Path

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
    """A folder of two mixtures with their card, and the images of one of them."""
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


def test_datasets_reads_every_record_with_its_image(merged, tmp_path):
    dataset = HubDataset(merged=merged, image_root=merged / "images", shard_records=100)
    out = write_hub_dataset(dataset, tmp_path / "hub").path
    shards = sorted(path.name for path in (out / "data/merged").iterdir())
    assert shards == [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    rows = load(out, "merged", tmp_path / "cache")
    as_json = json.loads((merged / "merged.json").read_text())
    assert len(rows) == len(as_json) == 250
    for number in (0, 99, 100, 249):
        row = rows[number]
        assert row["image"].size == (4, 3) and row["image"].getpixel((0, 0)) == (number, 9, 9)
        expected = {"licence": None, **as_json[number], "image": row["image"]}
        assert row == expected


@pytest.mark.parametrize("shard_records", [1_000, 250, 99, 40])
def test_every_record_is_in_a_shard_whatever_the_size_of_shards(shard_records, tmp_path):
    thousand = [structs.replace(RECORDS[n % 250], id=f"{n}") for n in range(1_000)]
    write_mixture(thousand, tmp_path, name="merged")
    tables = "## Turns in, kept and dropped\n| vqav2 |\n## Licences of the sources\n| vqav2 |\n"
    (tmp_path / "README.md").write_text(f"---\nlanguage: en\n---\n{tables}")
    dataset = HubDataset(merged=tmp_path, shard_records=shard_records)
    out = write_hub_dataset(dataset, tmp_path / "hub").path
    shards = [pq.read_table(path) for path in sorted((out / "data/merged").iterdir())]
    assert [len(shard) for shard in shards[:-1]] == [shard_records] * (len(shards) - 1)
    assert [name for shard in shards for name in shard["id"].to_pylist()] == [
        record.id for record in thousand
    ]


def test_no_row_group_of_a_shard_holds_more_than_a_hundred_images(merged, tmp_path):
    out = write_hub_dataset(HubDataset(merged=merged), tmp_path / "hub").path
    (shard,) = (out / "data/merged").iterdir()
    metadata = pq.read_metadata(shard)
    groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert groups == [100, 100, 50]


def test_without_images_the_image_column_holds_paths_as_text_and_each_mixture_is_a_config(
    merged, tmp_path
):
    datasets = pytest.importorskip("datasets")
    both = HubDataset(merged=merged, mixtures=("merged", "instructed"))
    out = write_hub_dataset(both, tmp_path / "hub").path
    rows = load(out, "instructed", tmp_path / "cache")
    assert rows.features["image"] == datasets.Value("string")
    assert rows["image"][:] == [record.image for record in RECORDS[:3]]  # nothing is opened


def damage(merged, folder, real):
    """Copy the images of a merged set and damage two of them, as downloads do."""
    shutil.copytree(merged / "images", folder)
    whole = real.read_bytes()
    truncated, page = (folder / RECORDS[n].image for n in (1, 120))
    truncated.write_bytes(whole[: len(whole) // 2])
    page.write_text("<!DOCTYPE html><title>404</title>")
    return [RECORDS[1].image, RECORDS[120].image]


def test_images_that_cannot_be_opened_are_left_out_with_their_records_and_named(
    merged, real, tmp_path
):
    photograph = real / "images/train2017/000000000009.jpg"
    bad = damage(merged, tmp_path / "images", photograph)
    dataset = HubDataset(
        merged=merged, mixtures=("merged", "instructed"), image_root=tmp_path / "images",
        shard_records=100,
    )  # fmt: skip
    written = write_hub_dataset(dataset, tmp_path / "hub")
    note = "2 images cannot be opened; their records are left out: 2 of merged, 1 of instructed."
    assert written.summary().startswith(
        f"{tmp_path / 'hub'}: merged 248 records, instructed 2 records\n{note}\n"
    )
    assert all(Path(name).name in written.summary() for name in bad)
    rows = load(written.path, "merged", tmp_path / "cache")
    kept = [record.id for record in RECORDS if record.image not in bad]
    assert rows["id"][:] == kept and [row["image"].size for row in rows] == [(4, 3)] * 248
    shards = sorted((written.path / "data/merged").iterdir())
    assert [pq.read_metadata(path).num_rows for path in shards] == [100, 100, 48]
    card = (written.path / "README.md").read_text()
    assert note in card and all(f"| {name} |" in card for name in bad)
    assert str(tmp_path) not in card  # a published card does not reveal local paths
    assert "| merged | 248 | 248 |" in card and "| instructed | 2 | 2 |" in card
    assert "| 4 | CC BY 2.0 |  | 124 |" in card and "|  | not known |  | 124 |" in card


def test_a_folder_of_damaged_images_only_is_an_error(merged, tmp_path):
    shutil.copytree(merged / "images", tmp_path / "images")
    for record in RECORDS:
        (tmp_path / "images" / record.image).write_text("<html>")
    with pytest.raises(DataError, match=r"none of the 250 images can be opened, such as 0000"):
        write_hub_dataset(
            HubDataset(merged=merged, image_root=tmp_path / "images"), tmp_path / "hub"
        )
    assert not (tmp_path / "hub").exists()


def test_the_card_lists_the_mixtures_and_sources_that_are_in_the_folder_and_no_others(
    merged, catalogue, tmp_path
):
    of_gqa = structs.replace(RECORDS[1], sources=["gqa"])
    write_mixture([RECORDS[0], of_gqa], tmp_path, name="merged")
    write_mixture([of_gqa], tmp_path, name="mix")
    rows = [("vqav2", "kept", 1), ("gqa", "kept", 1), ("svit", "kept", 3), ("vsr", "licence", 3)]
    drops = pd.DataFrame(rows, columns=["source", "reason", "turns"])
    licences = pd.DataFrame([(4, "CC BY 2.0", "a|b", 7), (3, "CC BY-NC-ND 2.0", "", 7)],
                            columns=["licence", "name", "address", "images"])  # fmt: skip
    counts = {name: {"records": 9, "rounds": 9} for name in ("merged", "mix", "instructed")}
    card = dataset_card(
        catalogue, drops, counts=counts, licences=licences, rules=Rules(), tokens="estimate"
    )
    write_extras(tmp_path, names=counts, card=card, licences=licences)
    assert "| svit | SVIT |" in card and "| vsr | VSR |" not in card  # nothing of VSR was kept
    for mixtures, sources in ((["merged", "mix"], {"vqav2", "gqa"}), (["mix"], {"gqa"})):
        dataset = HubDataset(merged=tmp_path, mixtures=mixtures)
        out = write_hub_dataset(dataset, tmp_path / "-".join(mixtures)).path
        body = (out / "README.md").read_text().split("---\n", 2)[2]
        first = {line.split("|")[1].strip() for line in body.splitlines() if line[:2] == "| "}
        assert first & {"merged", "mix", "instructed"} == set(mixtures)
        assert first & set(catalogue) == sources
        assert "| mix | 1 | 1 |" in body and "| 4 | CC BY 2.0 | a\\|b | 1 |" in body
        assert "CC BY-NC-ND" not in body and "| seed | 0 |" in body
        assert body.count("\n## ") == 5
        assert ("| VQAv2 |" in body) == ("vqav2" in sources)


def test_a_card_without_the_licence_of_a_source_is_not_published(merged, tmp_path):
    write_mixture([structs.replace(RECORDS[0], sources=["gqa"])], tmp_path, name="merged")
    shutil.copy(merged / "README.md", tmp_path)
    with pytest.raises(DataError, match="kept and dropped': no row for gqa; run notebook 02"):
        write_hub_dataset(HubDataset(merged=tmp_path), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


def test_the_card_names_the_configs_and_tells_whether_images_are_included(merged, tmp_path):
    with_images = HubDataset(merged=merged, image_root=merged / "images")
    for dataset, note in ((with_images, "images are included"),
                          (HubDataset(merged=merged), "Images are not included")):  # fmt: skip
        out = write_hub_dataset(dataset, tmp_path / note).path
        _, head, body = (out / "README.md").read_text().split("---\n", 2)
        configs = yaml.safe_load(head)["configs"]
        assert configs == [{"config_name": "merged", "data_files": "data/merged/train-*.parquet"}]
        assert (
            note in body and "| vqav2 | VQAv2 | CC BY 4.0 |" in body and "| 4 | CC BY 2.0 |" in body
        )


def test_nothing_is_left_of_a_dataset_whose_image_or_mixture_is_missing(merged, tmp_path):
    absent = HubDataset(merged=merged, image_root=tmp_path)
    with pytest.raises(DataError, match=r"000000000000\.jpg: no image on disk"):
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
