import json
import random
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from cocoift.engine import KEPT_SCHEMA, kept_by_image, merge_tables
from cocoift.export import write_mixture
from cocoift.files import DataError
from cocoift.merge import Rules
from cocoift.mixtures import MERGED, MIX, records
from cocoift.sources import read_all
from cocoift.sources.coco import read_scope

RULES = Rules(context_tokens=300, image_tokens=16)

# Run in a process of its own: Daft's runner can be chosen once per process.
ON_RAY = """
import sys
from pathlib import Path
import ray
from cocoift.engine import merge_tables
from cocoift.merge import Rules
from cocoift.sources.coco import Scope
if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    tables = [Path(name) for name in sys.argv[2:]]
    rules = Rules(context_tokens=300, image_tokens=16)
    merge_tables(tables, out=Path(sys.argv[1]), rules=rules, scope=Scope(), runner="ray")
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
    return merge_tables(tables, out=out, rules=RULES, scope=scope, **changes)


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


def test_shuffled_inputs_give_identical_bytes(tables, tmp_path):
    merged(tables, tmp_path / "a.parquet")
    shuffled = []
    for path in random.Random(5).sample(tables, len(tables)):
        table = pq.read_table(path)
        order = random.Random(6).sample(range(table.num_rows), table.num_rows)
        pq.write_table(table.take(order), tmp_path / path.name)
        shuffled.append(tmp_path / path.name)
    merged(shuffled, tmp_path / "b.parquet")
    one, other = (
        as_json(tmp_path / "a.parquet", tmp_path),
        as_json(tmp_path / "b.parquet", tmp_path),
    )
    assert one == other
    assert len(json.loads(one)) > 400


def test_native_and_ray_runners_give_identical_bytes(tables, tmp_path):
    merged(tables, tmp_path / "native.parquet")
    script = tmp_path / "on_ray.py"
    script.write_text(ON_RAY)
    command = [sys.executable, str(script), str(tmp_path / "ray.parquet"), *map(str, tables)]
    subprocess.run(command, check=True, timeout=180, capture_output=True)
    assert as_json(tmp_path / "native.parquet", tmp_path) == as_json(
        tmp_path / "ray.parquet", tmp_path
    )


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


def test_nothing_to_merge_is_told(tmp_path):
    with pytest.raises(DataError, match="no turn tables to merge; run notebook 00_setup"):
        merged([], tmp_path / "turns.parquet")


def test_an_unwritable_output_is_told_and_nothing_is_left(tables, tmp_path):
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
