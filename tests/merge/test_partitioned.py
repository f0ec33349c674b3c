import json
import random
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from cocoift.core.files import DataError
from cocoift.core.schema import KEPT_SCHEMA, kept_by_image
from cocoift.merge.export import export_mixture, image_licences, write_mixture
from cocoift.merge.layouts import MERGED, MIX, records
from cocoift.merge.partitioned import MergeInputs, merge_tables
from cocoift.merge.rules import Rules
from cocoift.sources import read_all
from cocoift.sources.scope import read_scope

RULES = Rules(context_tokens=300, image_tokens=16)

# A cluster of two nodes on this machine, in a separate process.  When the second part arrives, a
# node is killed, with parts at work on it and most parts still to come.
ON_RAY = """
import sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from cocoift.merge import partitioned
from cocoift.merge.rules import Rules
from cocoift.sources.scope import Scope

def killing(parts, **_):
    for number, part in enumerate(parts):
        if number == 1:
            cluster.remove_node(second, allow_graceful=False)
            print("killed a node")
        yield part

if __name__ == "__main__":
    out, kill, *tables = Path(sys.argv[1]), sys.argv[2] == "kill", *map(Path, sys.argv[3:])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    assert len([node for node in ray.nodes() if node["Alive"]]) == 2
    partitioned.tqdm = killing if kill else partitioned.tqdm
    rules = Rules(context_tokens=300, image_tokens=16)
    inputs = partitioned.MergeInputs(rules=rules)
    options = {"inputs": inputs, "runner": "ray", "part_turns": 500}
    partitioned.merge_tables(tables, out=out, **options)
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.fixture(scope="module")
def tables(mini, catalogue, tmp_path_factory):
    folder = tmp_path_factory.mktemp("turns")
    read_all(catalogue, mini[0], folder)
    return sorted(folder.glob("*.parquet"))


def as_json(turns, folder, layout=MERGED):
    mixture = records(
        kept_by_image(turns), layout=layout, budget=RULES.budget, image_dir="train2017"
    )
    write_mixture(mixture, folder, name="m")
    return (folder / "m.json").read_bytes()


def merged(tables, out, **changes):
    scope = changes.pop("scope", read_scope([], []))
    options = {name: changes.pop(name) for name in ("runner", "part_turns") if name in changes}
    inputs = MergeInputs(rules=RULES, scope=scope, **changes)
    return merge_tables(tables, out=out, inputs=inputs, **options)


def test_the_merge_is_sorted_and_counts_every_turn(tables, tmp_path, mini):
    raw = mini[0]
    scope = read_scope(
        [raw / "annotations/instances_train2017.json"], [raw / "evaluation/qa90_questions.jsonl"]
    )
    report = merged(tables, tmp_path / "turns.parquet", scope=scope)
    turns = pq.read_table(tmp_path / "turns.parquet")
    assert turns.schema.equals(KEPT_SCHEMA)
    keys = list(
        zip(*(turns[n].to_pylist() for n in ("image_id", "record", "position")), strict=True)
    )
    assert keys == sorted(keys)
    total = report.table().groupby("source").turns.sum().to_dict()
    assert total == {p.stem: pq.read_metadata(p).num_rows for p in tables}
    reasons = set(report.table().reason)
    assert {"kept", "duplicate", "conflict", "not_in_train2017", "evaluation_image"} <= reasons
    leaked = {i for i, why in report.refused_images.items() if why == "evaluation_image"}
    assert {scene.image_id for scene in mini[1].train[:3]} <= leaked
    assert not leaked & set(turns["image_id"].to_pylist())


def test_licences_go_along_and_those_not_asked_for_are_counted_as_dropped(tables, tmp_path, mini):
    lists = [mini[0] / "annotations/instances_train2017.json"]
    numbers = {row["id"]: row["license"] for row in json.loads(lists[0].read_bytes())["images"]}
    scope = read_scope(lists, [], licences=["CC BY 2.0", "CC BY-SA 2.0"])
    report = merged(tables, tmp_path / "turns.parquet", scope=scope)
    table = pq.read_table(tmp_path / "turns.parquet").to_pandas()
    assert set(table.licence) == {4, 5}
    assert table.licence.tolist() == table.image_id.map(numbers).tolist()
    assert {numbers[i] for i, why in report.refused_images.items() if why == "licence"} == {
        1, 2, 3, 6, 7, 8
    }  # fmt: skip
    made = json.loads(as_json(tmp_path / "turns.parquet", tmp_path))
    assert all(record["licence"] == numbers[int(record["image"][-16:-4])] for record in made)
    listed = image_licences(tmp_path / "turns.parquet", scope)
    assert listed.name.tolist() == ["CC BY 2.0", "CC BY-SA 2.0"]
    assert listed.images.tolist() == table.groupby("licence").image_id.nunique().tolist()


def test_shuffled_inputs_give_identical_bytes(tables, tmp_path):
    merged(tables, tmp_path / "a.parquet")
    shuffled = []
    for path in random.Random(5).sample(tables, len(tables)):
        table = pq.read_table(path)
        order = random.Random(6).sample(range(table.num_rows), table.num_rows)
        pq.write_table(table.take(order), tmp_path / path.name)
        shuffled.append(tmp_path / path.name)
    merged(shuffled, tmp_path / "b.parquet")
    plain, from_shuffled = (as_json(tmp_path / f"{name}.parquet", tmp_path) for name in "ab")
    assert plain == from_shuffled
    assert len(json.loads(plain)) > 400


def test_neither_the_size_of_parts_nor_the_number_of_processes_shows(tables, tmp_path):
    scope = read_scope([], [])
    single = merged(tables, tmp_path / "single.parquet")
    many = merge_tables(
        tables,
        out=tmp_path / "many.parquet",
        inputs=MergeInputs(rules=RULES, scope=scope),
        part_turns=2_000,
    )
    assert pq.read_metadata(tmp_path / "many.parquet").num_row_groups > 3
    whole = pq.read_table(tmp_path / "single.parquet")
    assert pq.read_table(tmp_path / "many.parquet").equals(whole)
    assert many == single
    given_in_parts = export_mixture(
        tmp_path / "many.parquet", tmp_path, name="parts", layout=MIX, budget=RULES.budget,
        image_dir="train2017",
    )  # fmt: skip
    assert given_in_parts["records"] == len(json.loads((tmp_path / "parts.json").read_bytes()))
    assert (tmp_path / "parts.json").read_bytes() == as_json(
        tmp_path / "single.parquet", tmp_path, MIX
    )


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["spare", "kill"])
def test_a_ray_cluster_gives_the_same_bytes_even_when_a_node_dies(tables, tmp_path, fate):
    merge_tables(
        tables, out=tmp_path / "native.parquet", inputs=MergeInputs(rules=RULES),
        part_turns=500,
    )  # fmt: skip
    out, script = tmp_path / "ray" / "turns.parquet", tmp_path / "on_ray.py"
    script.write_text(ON_RAY)
    command = [sys.executable, str(script), str(out), fate, *map(str, tables)]
    run = subprocess.run(command, check=True, timeout=240, capture_output=True, text=True)
    assert ("killed a node" in run.stdout) == (fate == "kill")
    assert out.read_bytes() == (tmp_path / "native.parquet").read_bytes()
    assert {path.name for path in out.parent.iterdir()} == {"turns.parquet", "dropped.parquet"}


def test_both_layouts_hold_the_same_answers(tables, tmp_path):
    merged(tables, tmp_path / "turns.parquet")

    def answers(layout):
        made = json.loads(as_json(tmp_path / "turns.parquet", tmp_path, layout))
        return sorted(
            (record["image"], m["value"])
            for record in made
            for m in record["conversations"]
            if m["from"] == "gpt"
        )

    assert answers(MERGED) == answers(MIX)


def test_nothing_to_merge_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no turn tables to merge; run notebook 00_setup"):
        merged([], tmp_path / "turns.parquet")


def test_an_unwritable_output_is_an_error_and_nothing_is_left(tables, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot write"):
        merged(tables, tmp_path / "file" / "turns.parquet")


def test_a_broken_merge_leaves_the_earlier_result(tables, tmp_path):
    out = tmp_path / "turns.parquet"
    merged(tables, out)
    before = out.read_bytes()
    with pytest.raises(DataError, match="give a checkpoint's tokenizer"):
        merged(tables, out, tokenizer_file=str(tmp_path / "absent.json"))
    assert out.read_bytes() == before
    assert set(tmp_path.iterdir()) == {out, tmp_path / "dropped.parquet"}
