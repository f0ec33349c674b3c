import json

import pytest

from cocoift.core.files import DataError
from cocoift.tuning import data
from cocoift.tuning.chat import IGNORED, Encoding
from cocoift.tuning.data import (
    check_pictures,
    count_records,
    only_last,
    read_training_set,
    split_images,
)
from cocoift.tuning.model import load_processor
from minicoco import CHAT


def test_a_large_mixture_is_encoded_on_all_cores_as_a_small_one_is_on_this(
    mixture, checkpoint, monkeypatch
):
    path = mixture / "mix.json"
    encoding = Encoding(load_processor(checkpoint).tokenizer, CHAT, 16, 66)
    images = [record["image"] for record in json.loads(path.read_text())]
    small = read_training_set(path, images, encoding)
    monkeypatch.setattr(data, "_CHUNK", 30)
    large = read_training_set(path, images, encoding)
    assert small.too_long and len(small.samples) > 60
    assert (large.records, large.too_long) == (small.records, small.too_long)
    for alone, shared in zip(small.samples, large.samples, strict=True):
        assert alone.input_ids == shared.input_ids
        assert (alone.record_id, alone.image, alone.spans, alone.sources) == (
            shared.record_id, shared.image, shared.spans, shared.sources)  # fmt: skip


def test_both_mixtures_of_the_same_images_are_split_alike(mixture):
    options = {"held_out": 10, "train": 20, "seed": 1}
    merged = split_images(mixture / "merged.json", **options)
    assert merged == split_images(mixture / "mix.json", **options)
    assert len(merged.train) == 20 and len(merged.held_out) == 10
    assert not set(merged.train) & set(merged.held_out)


def test_all_images_but_the_held_out_train_unless_limited(mixture):
    split = split_images(mixture / "merged.json", held_out=10)
    assert len(split.train) == 30


def test_more_training_images_leave_the_held_out_ones_as_they_were(mixture):
    few = split_images(mixture / "merged.json", held_out=10, train=5)
    many = split_images(mixture / "merged.json", held_out=10, train=25)
    assert few.held_out == many.held_out and set(few.train) < set(many.train)


def test_too_few_images_and_an_absent_mixture_are_told(mixture):
    with pytest.raises(DataError, match=r"40 images, of which 40 would be held out"):
        split_images(mixture / "merged.json", held_out=40)
    with pytest.raises(DataError, match=r"absent\.parquet: no such file; run notebook 02_merge"):
        split_images(mixture / "absent.json", held_out=1)


def test_both_mixtures_train_on_the_same_supervised_tokens(mixture, checkpoint):
    images = split_images(mixture / "merged.json", held_out=10).train
    tokenizer = load_processor(checkpoint).tokenizer
    merged, mix = (
        read_training_set(mixture / f"{name}.json", images, Encoding(tokenizer, CHAT, 16, 512))
        for name in ("merged", "mix")
    )
    assert merged.records == count_records(mixture / "merged.json", images) == 30
    assert mix.records == 120
    assert merged.supervised_tokens == mix.supervised_tokens
    assert {sample.image for sample in mix.samples} == set(images)


def test_pictures_that_cannot_train_are_counted_and_named(mixture, tmp_path):
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"2 of 2 images .*half\.jpg: not a whole .*absent\.jpg"):
        check_pictures(["half.jpg", "absent.jpg"], tmp_path)
    names = split_images(mixture / "merged.json", held_out=10).held_out
    assert check_pictures(names * 2, mixture) == 10


def test_with_loss_on_the_last_answer_every_record_trains_its_last_answer_alone(
    mixture, checkpoint
):
    processor = load_processor(checkpoint)
    records = json.loads((mixture / "merged.json").read_text())
    encoding = Encoding(processor.tokenizer, CHAT, 16, 512)
    images = [record["image"] for record in records]
    whole = read_training_set(mixture / "merged.json", images, encoding)
    for record, sample in zip(records, map(only_last, whole.samples), strict=True):
        (span,) = sample.spans
        text = processor.tokenizer.decode(sample.input_ids[slice(*span)])
        assert text.strip() == f"{record['conversations'][-1]['value']}</s>"
        assert sample.sources == record["sources"][-1:]
        assert sum(label != IGNORED for label in sample.labels) == span[1] - span[0]
