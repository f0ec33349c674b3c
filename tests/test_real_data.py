"""The same readers, merge and notebooks on a small sample of the real upstream files."""

import json
import os
import re
from collections import Counter
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO

from cocoift import study
from cocoift.core.answers import vqa_answer
from cocoift.core.text import tidy
from cocoift.inspector.cards import LAYERS, drawn_image
from cocoift.inspector.data import ByImage, open_inspection
from cocoift.inspector.raw_annotations import raw_annotations
from cocoift.sources import read_catalogue, read_source
from cocoift.sources.instances import INSTANCE_SCHEMA, read_instances, read_listed, write_instances

HERE = Path(__file__).parent / "real_mini"
PYTHON_PATH = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module")
def readings(real):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        catalogue = read_catalogue(HERE / "sources.yaml")
        return {name: read_source(name, entry, real) for name, entry in catalogue.items()}


def load(real, name):
    return json.loads((real / name).read_text(encoding="utf-8"))


def test_every_source_of_the_sample_is_read(readings):
    assert len(readings) >= 10
    assert all(reading is not None for reading in readings.values())


def test_the_counts_are_those_the_sample_states(readings, real):
    assert readings["vqav2"].turns.num_rows == 371
    assert readings["okvqa"].turns.num_rows == 500
    assert readings["coco_captions"].turns.num_rows == 400 + 332 + 215
    vsr = readings["vsr"]
    assert vsr.turns.num_rows + vsr.drops["repeated_id"] == 530
    explained = readings["vqa_x"]
    unknown = explained.drops["explanation_without_question"]
    assert explained.turns.num_rows + unknown == 291 + 60 + 60
    assert readings["visual_genome_qa"].drops == {"no_coco_id": 397}
    assert readings["visdial"].drops == {"no_coco_id": 300}


def test_vsr_statements_repeated_between_splits_are_found(readings, real):
    seen = Counter()
    for path in real.glob("vsr/*/*.jsonl"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            seen[row["image"], row["caption"], row["label"]] += 1
    repeated = sum(count - 1 for count in seen.values())
    assert readings["vsr"].drops == ({"repeated_id": repeated} if repeated else {})


def test_vqav2_answers_are_the_most_common_of_ten(readings, real):
    annotations = load(real, "vqav2/v2_mscoco_train2014_annotations.json")["annotations"]
    chosen = {str(row["question_id"]): row for row in annotations}
    ties = respelt = 0
    for row in readings["vqav2"].turns.to_pylist():
        upstream = chosen[row["dialog_id"]]
        ten = [answer["answer"] for answer in upstream["answers"]]
        votes = Counter(map(vqa_answer, ten))
        tied = {text for text, count in votes.items() if count == max(votes.values())}
        ties += len(tied) > 1
        preferred = upstream["multiple_choice_answer"]
        assert row["answer"] in ten
        assert vqa_answer(row["answer"]) in tied
        if vqa_answer(preferred) in tied:
            assert vqa_answer(row["answer"]) == vqa_answer(preferred)
        respelt += len(votes) < len(set(ten))
    assert ties and respelt


@pytest.mark.parametrize(
    ("file", "count"),
    [("coco_instances/instances_train2017.json", 939), ("coco_mini/instances_train2017.json", 739)],
)
def test_boxes_agree_with_pycocotools(real, file, count):
    coco = COCO(str(real / file))
    found = read_instances(real / file).by_image()
    assert sum(map(len, found.values())) == count == len(coco.getAnnIds())
    for image_id, instances in found.items():
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        assert [list(instance.bbox) for instance, _ in instances] == [a["bbox"] for a in theirs]
        names = [coco.loadCats(a["category_id"])[0]["name"] for a in theirs]
        assert [name for _, name in instances] == names


def test_masks_lie_in_their_boxes_and_crowds_are_run_lengths(real):
    coco = COCO(str(real / "coco_instances/instances_train2017.json"))
    crowds = 0
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation)
        rows, columns = np.nonzero(mask)
        if annotation["iscrowd"]:
            crowds += 1
            height, width = annotation["segmentation"]["size"]
            runs = annotation["segmentation"]["counts"]
            flat = np.repeat(np.arange(len(runs)) % 2, runs)
            assert (mask == flat.reshape(width, height).T).all()
        if rows.size:
            x, y, width, height = annotation["bbox"]
            assert x - 1 <= columns.min() and columns.max() <= x + width + 1
            assert y - 1 <= rows.min() and rows.max() <= y + height + 1
    assert crowds == 10


def upstream(readings, real, source, number):
    """Yield some turns of a source with what the inspector shows as their upstream records."""
    entry = read_catalogue(HERE / "sources.yaml")[source]
    rows = readings[source].turns.to_pylist()
    for turn in rows[:: -(-len(rows) // number)]:
        found = raw_annotations(entry, real, turn)
        yield turn, {name: json.loads(text) for name, text in found.items()}


def test_the_upstream_record_of_a_vsr_turn_is_its_statement_on_its_image(readings, real):
    shown = 0
    for turn, found in upstream(readings, real, "vsr", 100):
        shown += bool(found)
        for record in found.values():
            assert record["caption"].split() == turn["question"].split()
            assert record["image"] == f"{turn['image_id']:012d}.jpg" and record["image_link"]
            assert ("no", "yes")[record["label"]] == turn["answer"]
    assert shown > 80 and shown == len(list(upstream(readings, real, "vsr", 100)))


def test_the_upstream_records_of_a_vqa_x_turn_are_explanation_question_and_answers(readings, real):
    for turn, found in upstream(readings, real, "vqa_x", 60):
        (explanations,) = [file for name, file in found.items() if name.startswith("vqa_x/")]
        assert list(explanations) == [turn["dialog_id"]]
        assert turn["answer"].endswith(explanations[turn["dialog_id"]][0].strip())
        (question,) = [file for name, file in found.items() if name.endswith("questions.json")]
        assert question["question"] == turn["question"]
        assert len(found) == 3


@pytest.fixture(scope="module")
def run(real, root, tmp_path_factory):
    """Run notebooks 00 to 03 on the sample; return the folders of work and reports."""
    folder = tmp_path_factory.mktemp("real")
    changes = {"raw_dir": str(real), "image_dir": str(real / "images")}
    changes |= {"work_dir": str(folder / "work"), "report_dir": str(folder / "reports")}
    changes |= {"curation": str(folder / "work/curation.jsonl")}
    options = {"preset": str(HERE / "preset.yaml"), "changes": changes}
    with study.environment(PYTHONPATH=PYTHON_PATH):
        for notebook in study.notebooks(root)[:4]:
            study.run_notebook(notebook, **options, reports=folder / "reports")
    return folder / "work", folder / "reports"


@pytest.mark.slow
def test_setup_files_the_boxes_of_every_image_list_that_has_some(real, root, tmp_path):
    lists = ["coco_captions/captions_val2017.json", "coco_mini/instances_train2017.json",
             "coco_instances/instances_train2017.json"]  # fmt: skip
    changes = {"raw_dir": str(real), "image_dir": str(real / "images"), "image_lists": lists}
    changes |= {"work_dir": str(tmp_path / "work"), "report_dir": str(tmp_path / "reports")}
    options = {"preset": str(HERE / "preset.yaml"), "changes": changes}
    with study.environment(PYTHONPATH=PYTHON_PATH):
        study.run_notebook(study.notebooks(root)[0], **options, reports=tmp_path / "reports")
    filed = ByImage(tmp_path / "work/interim/instances.parquet", INSTANCE_SCHEMA)
    images = {entry["image_id"] for name in lists[1:] for entry in load(real, name)["annotations"]}
    assert set(filed.ids) == images and filed.bounds[-1] == 939 + 739
    assert f"1,678 COCO instances on {len(images)} images" in (
        tmp_path / "reports/00_setup.html").read_text()  # fmt: skip


def test_no_page_of_the_sample_has_a_warning_a_nan_or_a_bare_table_head(run):
    _, reports = run
    for path in sorted(reports.glob("0*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr", output.text
                data = output.get("data", {})
                text = output.get("text", "") + data.get("text/markdown", "")
                text += re.sub(r"data:image[^\"]*", "", data.get("text/html", ""))
                assert not re.search(r"\bnan\b|\b1 (round|source|turn|image|record)s\b", text), (
                    cell.id
                )
                for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
                    assert "<td" in table, cell.id


def test_the_sample_merges_through_the_notebook(run):
    work, reports = run
    drops = pd.read_csv(reports / "tables/merge_drops.csv")
    print(drops.pivot_table(index="source", columns="reason", values="turns", fill_value=0))
    records = json.loads((work / "merged/merged.json").read_text())
    assert sum(len(r["sources"]) for r in records) == drops[drops.reason == "kept"].turns.sum()


def mixture_files(real):
    """Real conversations as LLaVA's files have them: (records, what notebook 01 says of them)."""
    lines = (real / "llava/coco2014_val_gpt4_qa_30x3.jsonl").read_text().splitlines()
    single = [
        {"id": row["id"], "image": row["image"],
         "conversations": [{"from": "human", "value": f"{row['instruction']}\n<image>"},
                           {"from": "gpt", "value": row["output"]}]}
        for row in map(json.loads, lines)
    ]  # fmt: skip
    several = load(real, "transcribed_examples/llava_instruct_conversation.json")
    names = {"human": "user", "gpt": "bot"}
    other = [
        {"id": row["id"], "image": [row["image"]],
         "conversations": [{"from": names[message["from"]], "value": message["value"]}
                           for message in row["conversations"]]}
        for row in several
    ]  # fmt: skip
    none = "0% of the multi-round conversations state the format"
    return {
        "detail_23k.json": (single, "Every conversation of <code>detail_23k.json</code> has one"),
        "conversation_58k.json": (several, none),
        "other_trainer.json": ([*other, {"conversations": []}], "1 of 2 conversations cannot be"),
    }


@pytest.mark.parametrize("name", ["detail_23k.json", "conversation_58k.json", "other_trainer.json"])
def test_any_file_in_llavas_format_is_analysed_as_the_mixture(run, real, root, tmp_path, name):
    work, _ = run
    records, sentence = mixture_files(real)[name]
    (tmp_path / name).write_text(json.dumps(records))
    changes = {"raw_dir": str(tmp_path), "work_dir": str(work), "mix_file": name}
    changes |= {"report_dir": str(tmp_path / "reports")}
    options = {"preset": str(HERE / "preset.yaml"), "changes": changes}
    with study.environment(PYTHONPATH=PYTHON_PATH):
        study.run_notebook(study.notebooks(root)[1], **options, reports=tmp_path / "reports")
    assert sentence in (tmp_path / "reports/01_dataset_analysis.html").read_text()
    (row,) = pd.read_csv(tmp_path / "reports/tables/llava_mix.csv").to_dict("records")
    assert row["records"] == sum(bool(record["conversations"]) for record in records)
    rounds = sum(len(record["conversations"]) // 2 for record in records)
    assert row["records"] * row["rounds_per_record"] == rounds


def test_an_image_of_several_sources_becomes_one_record(run, readings):
    work, _ = run
    records = json.loads((work / "merged/merged.json").read_text())
    assert len({record["id"] for record in records}) == len(records)
    assert len({record["image"] for record in records}) == len(records)
    several = sum(len(set(record["sources"])) >= 2 for record in records)
    evaluated = {row["image"] for row in map(json.loads, open_lines(work, readings))}
    images = Counter()
    for reading in readings.values():
        images.update(set(reading.turns["image_id"].to_pylist()))
    shared = {f"{i:012d}.jpg" for i, sources in images.items() if sources >= 2}
    assert several == len(shared - evaluated) > 300


def open_lines(work, readings):
    drops = pd.read_csv(work.parent / "reports/tables/leaked_images.csv")
    return [json.dumps({"image": f"{image:012d}.jpg"}) for image in drops.image_id]


def test_evaluation_images_are_found_and_kept_out(run, real):
    work, reports = run
    leaked = set(pd.read_csv(reports / "tables/leaked_images.csv").image_id)
    asked = {
        int(json.loads(line)["image"][:12])
        for line in (real / "llava/qa90_questions.jsonl").read_text().splitlines()
    }
    assert leaked and leaked <= asked
    images = {r["image"] for r in json.loads((work / "merged/merged.json").read_text())}
    assert not images & {f"train2017/{image:012d}.jpg" for image in asked}


def test_real_text_survives_but_for_stray_blanks(run, readings):
    work, _ = run
    answers = {tidy(text) for r in readings.values() for text in r.turns["answer"].to_pylist()}
    for record in json.loads((work / "merged/merged.json").read_text()):
        for message in record["conversations"][1::2]:
            assert message["value"] in answers


def test_the_inspector_shows_merged_records_on_real_photographs_unstretched(run, real, tmp_path):
    work, reports = run
    listed = read_listed([real / "coco_instances/instances_train2017.json"])
    write_instances(listed, tmp_path / "i.parquet")
    opened = open_inspection(
        work / "merged",
        image_root=real / "images",
        instances=tmp_path / "i.parquet",
    )
    shown = 0
    for image_id in map(int, opened.turns.ids):
        view = opened.view(image_id)
        path = real / "images" / view.file
        if path.is_file():
            with Image.open(path) as photograph:
                width, height = photograph.size
            drawn = drawn_image(opened, view, layers=LAYERS, categories=None)
            assert f'viewBox="0 0 {width} {height}"' in drawn
            assert drawn.count("<g>") == len(view.instances)
            shown += bool(view.instances)
    assert shown > 50
    assert "data:image/jpeg" in (reports / "03_inspect.html").read_text()
