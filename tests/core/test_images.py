import io
import random

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers import CLIPImageProcessorPil

from cocoift.core.files import DataError
from cocoift.core.images import (
    bad_images,
    mean_colour,
    open_image,
    pad_to_square,
    pixel_values,
    place_labels,
    read_image,
)
from cocoift.tuning.data import check_pictures

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_clips_mean_colour_is_llavas():
    # LLaVA's mm_utils.py: tuple(int(x * 255) for x in processor.image_mean)
    assert mean_colour(CLIP_MEAN) == (122, 116, 104)


@pytest.mark.parametrize(("size", "box"), [((4, 2), (0, 1, 4, 3)), ((1, 4), (1, 0, 2, 4))])
def test_an_image_is_centred_on_a_square_of_the_mean_colour(size, box):
    square = pad_to_square(Image.new("RGB", size, (255, 0, 0)), (122, 116, 104))
    expected = Image.new("RGB", (4, 4), (122, 116, 104))
    expected.paste((255, 0, 0), box)
    assert square.tobytes() == expected.tobytes()


def test_pixels_are_the_hand_computed_values():
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 4}, crop_size={"height": 4, "width": 4}
    )
    values = pixel_values([Image.new("RGB", (4, 2), (255, 0, 51))], processor)
    assert values.shape == (1, 3, 4, 4) and values.dtype == np.float32
    for channel, (inner, padding) in enumerate(zip((255, 0, 51), (122, 116, 104), strict=True)):
        mean, std = CLIP_MEAN[channel], CLIP_STD[channel]
        assert np.allclose(values[0, channel, 1:3], (inner / 255 - mean) / std, atol=1e-5)
        assert np.allclose(values[0, channel, [0, 3]], (padding / 255 - mean) / std, atol=1e-5)


def test_missing_corrupt_and_climbing_images_are_named_before_training(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "good.jpg")
    whole = (tmp_path / "good.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    names = ["good.jpg", "half.jpg", "text.jpg", "absent.jpg", "../x.jpg", "half.jpg"]
    found = {bad.name: bad.reason for bad in bad_images(names, tmp_path)}
    assert list(found) == ["half.jpg", "text.jpg", "absent.jpg", "../x.jpg"]
    assert "not a whole image" in found["half.jpg"]
    assert "no image on disk" in found["absent.jpg"]
    assert "leaves its root" in found["../x.jpg"]


def test_a_linked_train2017_is_as_good_as_a_folder(tmp_path):
    root, disk = tmp_path / "images", tmp_path / "datasets/coco/train2017"
    root.mkdir()
    disk.mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(disk / "000000000009.jpg")
    (root / "train2017").symlink_to(disk)
    assert check_pictures(["train2017/000000000009.jpg"], root) == 1
    (disk / "000000000010.jpg").symlink_to(tmp_path / "x.jpg")
    refusal = r"leaves its root .*: train2017/000000000010.jpg is a link to .*/x.jpg; only a link"
    with pytest.raises(DataError, match=refusal):
        check_pictures(["train2017/000000000010.jpg"], root)


def test_a_link_to_itself_is_no_image(tmp_path):
    (tmp_path / "deep").mkdir()
    for link in (tmp_path / "loop", tmp_path / "deep/loop"):
        link.symlink_to(link)
    assert len(bad_images(["loop/1.jpg", "deep/loop/1.jpg"], tmp_path)) == 2


def png(size=(4, 4), **chunks):
    """Return an image as PNG with these text chunks."""
    buffer, texts = io.BytesIO(), PngInfo()
    for name, text in chunks.items():
        texts.add_text(name, text, zip=True)
    Image.new("RGB", size).save(buffer, "png", pnginfo=texts)
    return buffer.getvalue()


def test_an_image_with_a_huge_text_in_it_is_refused_in_one_line(tmp_path):
    # 3 kB in the file, 3 MB unpacked: Pillow raises a plain ValueError.
    path = tmp_path / "mine.png"
    path.write_bytes(png(Comment="x" * 3_000_000))
    assert path.stat().st_size < 10_000
    with pytest.raises(DataError, match=r"^mine\.png: not a whole image \(Decompressed data"):
        open_image(path)
    with pytest.raises(DataError, match=r"^mine\.png: not a whole image \(Decompressed data"):
        read_image(io.BytesIO(path.read_bytes()), "mine.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_images_of_any_mode_become_rgb(tmp_path, mode):
    name = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (3, 2)).save(name)
    assert open_image(name).mode == "RGB"


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cocoift.core.images.LARGEST_PIXELS", 99)
    Image.new("RGB", (10, 10)).save(tmp_path / "big.png")
    with pytest.raises(DataError, match="10 x 10 px is too large"):
        open_image(tmp_path / "big.png")


@pytest.mark.parametrize("seed", range(5))
def test_labels_lie_in_the_image_and_on_no_other_label(seed):
    rng = random.Random(seed)
    boxes = [(rng.uniform(-5, 95), rng.uniform(-5, 75), rng.uniform(1, 60), rng.uniform(1, 60))
             for _ in range(40)]  # fmt: skip
    labels = [(rng.uniform(5, 30), 6) for _ in boxes]
    places = place_labels(boxes, labels, (100, 80))
    drawn = [(*place, *label) for place, label in zip(places, labels, strict=True) if place]
    assert 5 < len(drawn) < 40
    for number, (x, y, wide, high) in enumerate(drawn):
        assert 0 <= x <= 100 - wide and 0 <= y <= 80 - high
        for a, b, width, height in drawn[:number]:
            assert x + wide <= a or a + width <= x or y + high <= b or b + height <= y


def test_the_larger_box_is_named_and_a_single_label_stands_at_its_box():
    assert place_labels([(10, 20, 30, 30)], [(15, 6)], (100, 80)) == [(10, 20)]
    places = place_labels([(0, 0, 9, 6), (0, 0, 10, 6)], [(10, 6), (10, 6)], (10, 6))
    assert places == [None, (0, 0)]
    assert place_labels([(0, 0, 5, 5)], [(11, 6)], (10, 6)) == [None]
