"""RefCOCO: every expression is used, and no round gives the answer of a later one away."""

import json
import pickle
import tracemalloc
from collections import defaultdict

import pytest

from cocoift.core.schema import Turn
from cocoift.core.text import estimate_tokens
from cocoift.merge.rules import Rules, merge_image
from cocoift.sources import read_source
from cocoift.sources.base import Dialog
from cocoift.sources.refcoco import DESCRIBE, LOCATE, refcoco
from cocoift.sources.scope import Scope


def write(folder, regions):
    """Write regions `{(image, annotation): (box, expressions)}` in upstream's two files."""
    refs = [
        {"ref_id": ann, "ann_id": ann, "image_id": image, "split": "train",
         "sentences": [{"sent": text} for text in expressions]}
        for (image, ann), (_, expressions) in regions.items()
    ]  # fmt: skip
    images = [{"id": image, "width": 640, "height": 480} for image in {i for i, _ in regions}]
    boxes = [{"id": ann, "bbox": list(box)} for (_, ann), (box, _) in regions.items()]
    paths = folder / "refs(unc).p", folder / "instances.json"
    paths[0].write_bytes(pickle.dumps(refs, protocol=2))
    paths[1].write_text(json.dumps({"images": images, "annotations": boxes}))
    return {"refs": paths[0], "instances": paths[1]}


def given_away(dialogs):
    """Return the rounds whose answer is an earlier question of their dialog."""
    return [
        (later, earlier)
        for dialog in dialogs
        for place, later in enumerate(dialog.rounds)
        for earlier in dialog.rounds[:place]
        if later.answer == earlier.question
    ]


BOXES = [(10 * n, 20, 60, 80) for n in range(4)]


def test_regions_of_an_image_alternate_and_each_is_found_before_it_is_described(tmp_path):
    texts = ["left man", "guy in red", "man"], ["the dog"], ["cup"], ["bag", "her bag"]
    regions = {(9, n): (box, text) for n, (box, text) in enumerate(zip(BOXES, texts, strict=True))}
    (dialog,) = refcoco(**write(tmp_path, regions))
    asked = [(qa.template, qa.question if qa.template == LOCATE else qa.answer)
             for qa in dialog.rounds]  # fmt: skip
    assert asked == [
        (LOCATE, "left man"), (LOCATE, "the dog"), (DESCRIBE, "cup"), (LOCATE, "bag"),
        (LOCATE, "man"), (DESCRIBE, "her bag"),
        (DESCRIBE, "guy in red"),
    ]  # fmt: skip
    assert not given_away([dialog])


def test_a_dialog_that_describes_a_box_and_then_asks_for_it_would_be_noticed(tmp_path):
    (dialog,) = refcoco(**write(tmp_path, {(9, 1): (BOXES[1], ["a", "the b"])}))
    assert given_away([dialog._replace(rounds=dialog.rounds[::-1])])


def test_no_answer_of_mini_is_given_away_and_regions_have_one_to_four_expressions(mini):
    files = {"refs": mini[0] / "refcoco/refs(unc).p",
             "instances": mini[0] / "refcoco/instances.json"}  # fmt: skip
    dialogs = [found for found in refcoco(**files) if isinstance(found, Dialog)]
    assert len(dialogs) > 50 and not given_away(dialogs)
    counts = {len(ref["sentences"]) for ref in pickle.loads(files["refs"].read_bytes())}
    assert counts == {1, 2, 3, 4}


def test_real_expressions_are_all_kept_by_the_merge(real, tmp_path):
    rows = json.loads((real / "refcoco_derived/testA_refcoco_unc_dets.json").read_text())
    texts = defaultdict(list)
    for row in rows:
        image = int(row["pred_boxes_img_id"][0].split("_")[2])
        texts[image, tuple(row["gt_box"])].append(row["sent"])
    assert max(map(len, texts.values())) == 3
    regions = {(image, n): (box, sentences)
               for n, ((image, box), sentences) in enumerate(texts.items())}  # fmt: skip
    found = list(refcoco(**write(tmp_path, regions)))
    dialogs = [item for item in found if isinstance(item, Dialog)]
    repeated = sum(item.turns for item in found if item not in dialogs)
    assert not given_away(dialogs)
    for dialog in dialogs:
        turns = [
            Turn(dialog.image_id, "refcoco", dialog.dialog_id, n, qa.question,
                 qa.template.format(question=qa.question), qa.answer, "phrase")
            for n, qa in enumerate(dialog.rounds)
        ]  # fmt: skip
        merged = merge_image(
            dialog.image_id, turns, rules=Rules(), scope=Scope(), count_tokens=estimate_tokens
        )
        assert merged.drops == []
    rounds = sum(len(dialog.rounds) for dialog in dialogs)
    assert rounds + repeated == len(rows) and repeated == 1  # one region is a "red shirt" twice


@pytest.mark.parametrize("source", ["coco_qa", "visdial"])
def test_questions_without_a_mark_upstream_get_one(source, mini, catalogue):
    turns = read_source(source, catalogue[source], mini[0]).turns.to_pylist()
    assert len(turns) > 100 and all(turn["question"].endswith("?") for turn in turns)
    assert not any(" ?" in turn["question"] for turn in turns)


def test_a_pickle_of_eight_bytes_cannot_take_gigabytes(tmp_path):
    paths = write(tmp_path, {(1, 1): ((0, 0, 9, 9), ["a man"])})
    paths["refs"].write_bytes(b"\x80\x02]r\xff\xff\xff\x0f.")  # memo entry 268,435,455
    tracemalloc.start()
    try:
        assert list(refcoco(**paths)) == []
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
