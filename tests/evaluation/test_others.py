"""Text-only records and other pictures in the merged mixture: which, how many, how they train."""

import json

import pytest
import torch

from cocoift.core.files import DataError
from cocoift.core.schema import TEXT_ONLY, Message, Record, check_record, read_records
from cocoift.evaluation.others import other_records, write_diluted
from cocoift.evaluation.variants import Variant
from cocoift.tuning.batches import Collator
from cocoift.tuning.chat import Encoding, encode
from cocoift.tuning.data import check_pictures, samples
from cocoift.tuning.loss import model_inputs
from cocoift.tuning.model import load_model, load_processor
from minicoco import CHAT

SEA = Record(
    "0-sea",
    TEXT_ONLY,
    [Message("human", "What is a cup for?"), Message("gpt", "A cup is for drinking.")] * 3,
    ["text-only"] * 3,
)


def upstream(tmp_path):
    """A LLaVA-format file of a COCO picture, two others, one of them absent, and two texts."""
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cup."}]
    asked = [{"from": "human", "value": "Who are you?"}, {"from": "gpt", "value": "A model."}]
    empty = [asked[0], {"from": "gpt", "value": ""}]
    rows = [
        {"id": "9", "image": "coco/train2017/000000000009.jpg", "conversations": said},
        {"id": "a", "image": "vg/VG_100K/7.jpg", "conversations": said},
        {"id": "b", "image": "vg/VG_100K/8.jpg", "conversations": said},
        {"id": "c", "conversations": asked},
        {"id": "d", "conversations": empty},
    ]
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(rows))
    (tmp_path / "vg/VG_100K").mkdir(parents=True)
    (tmp_path / "vg/VG_100K/7.jpg").write_bytes(b"")
    return path


def test_others_are_texts_with_an_answer_and_pictures_that_are_there_and_not_cocos(tmp_path):
    path = upstream(tmp_path)
    (text,) = other_records(path, "text-only", image_root=tmp_path)
    assert (text.image, text.conversations[0].value) == (TEXT_ONLY, "Who are you?")
    (picture,) = other_records(path, "non-COCO", image_root=tmp_path)
    assert picture.image == "vg/VG_100K/7.jpg"
    assert picture.conversations[0].value == "<image>\nWhat is it?"
    with pytest.raises(DataError, match=r"mix.json: no non-COCO records whose pictures are below"):
        other_records(path, "non-COCO", image_root=tmp_path / "vg")


def test_a_share_of_the_merged_records_is_replaced_by_as_many_others(mixture, tmp_path):
    merged = mixture / "merged.json"
    images = sorted({record.image for record in read_records(merged)})[:30]
    whole = [record for record in read_records(merged) if record.image in images]
    kept = {}
    for share in (0.3, 0.5):
        variant = Variant(name=f"text-{share}", others="text-only", share=share)
        path, names = write_diluted(variant, merged, images, [SEA], folder=tmp_path)
        found = read_records(path)
        assert len(found) == len(whole)
        kept[share] = {record.image for record in found} - {TEXT_ONLY}
        assert set(names) == kept[share] | {TEXT_ONLY} and kept[share] < set(images)
    assert kept[0.5] < kept[0.3]


def test_a_text_only_record_has_no_image_marker_and_no_other_record_lacks_one():
    check_record(SEA)
    with pytest.raises(DataError, match="message 0 must hold 1 image markers"):
        check_record(Record("x", "a.jpg", SEA.conversations, SEA.sources))


def test_text_and_pictures_train_in_one_batch_and_each_is_predicted_as_if_alone(
    checkpoint, mixture
):
    processor = load_processor(checkpoint)
    encoding = Encoding(processor.tokenizer, CHAT, 16, 512)
    pictured = encode(read_records(mixture / "merged.json")[0], encoding)
    text = encode(SEA, encoding)
    assert "<image>" not in processor.tokenizer.decode(text.input_ids)
    model = load_model(checkpoint, four_bit=False).eval()

    def logits(*found):
        batch = Collator(processor, mixture, {})([list(found)])
        del batch["labels"], batch["forms"]
        with torch.inference_mode():
            return model(**model_inputs(batch), use_cache=False).logits

    both = logits(text, pictured)
    for row, sample in enumerate((text, pictured)):
        assert torch.allclose(both[row, : len(sample)], logits(sample)[0], atol=1e-4)


def test_a_text_that_exceeds_the_context_is_split_without_an_image(checkpoint):
    tokenizer = load_processor(checkpoint).tokenizer
    whole = encode(SEA, Encoding(tokenizer, CHAT, 16, 512))
    parts, _ = samples([SEA], Encoding(tokenizer, CHAT, 16, len(whole) - 1))
    assert len(parts) == 2 and {part.image for part in parts} == {TEXT_ONLY}
    assert sum(len(part) for part in parts) < len(whole) + 4


def test_a_text_needs_no_picture_on_disk(mixture):
    assert check_pictures([TEXT_ONLY], mixture) == 0
