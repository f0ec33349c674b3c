import json
import shutil

import numpy as np
import pytest

from cocoift.core.files import DataError
from cocoift.tuning import data as training_set
from cocoift.tuning.chat import IGNORED
from cocoift.tuning.chat_formats import ChatFormat
from cocoift.tuning.data import check_pictures, count_records, read_training_set, split_images
from cocoift.tuning.model import load_processor
from cocoift.tuning.samples import only_last
from minicoco import CHAT


def test_a_large_mixture_is_encoded_on_all_cores_once_and_then_read(
    mixture, checkpoint, tmp_path, monkeypatch
):
    shutil.copytree(mixture, tmp_path / "m")
    path, processor = tmp_path / "m/mix.json", load_processor(checkpoint)
    images = [record["image"] for record in json.loads(path.read_text())]
    options = {"tokenizer": processor.tokenizer, "image_tokens": 16, "context_tokens": 66,
               "chat": CHAT}  # fmt: skip
    small = training_set.read_training_set(path, images, **options)
    monkeypatch.setattr(training_set, "_CHUNK", 30)
    large = training_set.read_training_set(path, images, **options)
    monkeypatch.setattr(training_set, "ordered", lambda *args: pytest.fail("encodes again"))
    again = training_set.read_training_set(path, images, **options)
    assert small.too_long and len(small.samples) > 60
    for other in (large, again):
        assert (other.records, other.too_long) == (small.records, small.too_long)
        for one, two in zip(small.samples, other.samples, strict=True):
            assert list(one.input_ids) == list(two.input_ids) and two.input_ids.dtype == np.int32
            assert two.input_ids.flags.writeable  # torch warns of others
            assert (one.record_id, one.image, one.spans, one.sources) == (
                two.record_id, two.image, two.spans, two.sources)  # fmt: skip
    with pytest.raises(pytest.fail.Exception, match="encodes again"):
        training_set.read_training_set(
            path, images, **options | {"chat": ChatFormat(system="Be short.")}
        )


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
        read_training_set(
            mixture / f"{name}.json",
            images,
            tokenizer=tokenizer,
            image_tokens=16,
            context_tokens=512,
            chat=CHAT,
        )
        for name in ("merged", "mix")
    )
    assert merged.records == count_records(mixture / "merged.json", images) == 30
    assert mix.records == 120
    assert merged.supervised_tokens == mix.supervised_tokens
    assert {sample.image for sample in mix.samples} == set(images)


def test_pictures_that_cannot_train_are_counted_and_named(mixture, tmp_path):
    (tmp_path / "half.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError, match=r"2 of 2 pictures .*half\.jpg: not a whole .*absent\.jpg"):
        check_pictures(["half.jpg", "absent.jpg"], tmp_path)
    names = split_images(mixture / "merged.json", held_out=10).held_out
    assert check_pictures(names * 2, mixture) == 10


def test_with_loss_on_the_last_answer_every_record_trains_its_last_answer_alone(
    mixture, checkpoint
):
    processor = load_processor(checkpoint)
    records = json.loads((mixture / "merged.json").read_text())
    options = {"tokenizer": processor.tokenizer, "image_tokens": 16, "context_tokens": 512,
               "chat": CHAT}  # fmt: skip
    images = [record["image"] for record in records]
    whole = read_training_set(mixture / "merged.json", images, **options)
    for record, sample in zip(records, map(only_last, whole.samples), strict=True):
        (span,) = sample.spans
        told = processor.tokenizer.decode(sample.input_ids[slice(*span)])
        assert told.strip() == f"{record['conversations'][-1]['value']}</s>"
        assert sample.sources == record["sources"][-1:]
        assert sum(label != IGNORED for label in sample.labels) == span[1] - span[0]
