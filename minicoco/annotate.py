"""Write a mini-COCO to disk: images, COCO's own annotations, and the files of every source."""

import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from cocoift.core.bars import tqdm
from cocoift.core.files import DataError, inside, write_bytes, write_text
from minicoco import dialog_sets, genome_sets, mix_file, qa_sets
from minicoco.benchmark import benchmark_scenes
from minicoco.benchmark import files as benchmark_files
from minicoco.corpus import single_round
from minicoco.draw import box, flock_outlines, jpeg, outline
from minicoco.facts import caption
from minicoco.scenes import CATEGORY_IDS, SUPERCATEGORIES, Scene, World, make_world, sample_scenes
from minicoco.scenes import name_2017 as file_name

# COCO's outlines and boxes have two decimals.
_DECIMALS = 2
# Scenes of no study and of no tiny LLaVA, whose seeds are smaller or start at 1,000,003.
_PRETRAINING = 4_000_037
# Lists what was drawn; the study's runner ignores it too.
STAMP = "MINI_COCO.txt"
_STAMP_HEAD = "Drawn by minicoco and drawn again by each run; other files here stay as they are:"
# As in COCO's own files.
_CC = "http://creativecommons.org/licenses"
_LICENCES = [
    {"url": url, "id": number, "name": name}
    for number, (url, name) in enumerate(
        [
            (f"{_CC}/by-nc-sa/2.0/", "Attribution-NonCommercial-ShareAlike License"),
            (f"{_CC}/by-nc/2.0/", "Attribution-NonCommercial License"),
            (f"{_CC}/by-nc-nd/2.0/", "Attribution-NonCommercial-NoDerivs License"),
            (f"{_CC}/by/2.0/", "Attribution License"),
            (f"{_CC}/by-sa/2.0/", "Attribution-ShareAlike License"),
            (f"{_CC}/by-nd/2.0/", "Attribution-NoDerivs License"),
            ("http://flickr.com/commons/usage/", "No known copyright restrictions"),
            ("http://www.usa.gov/copyright.shtml", "United States Government Work"),
        ],
        start=1,
    )
]


def write_mini_coco(
    root: Path,
    *,
    train: int,
    held_out: int,
    seed: int,
    pixels: int = 64,
    benchmark: int = 40,
    pretraining: int = 0,
) -> World:
    """Write a mini-COCO below `root` and return the scenes it shows.

    `root/images/{train2017,val2017}` holds `pixels` x `pixels` JPEGs, its other folders those of
    the collections that LLaVA's mixture has besides COCO; the annotation files have
    the names and formats of the catalogue, quirks of upstream included.  The same arguments give
    the same bytes.
    """
    world = make_world(train=train, held_out=held_out, seed=seed, pixels=pixels)
    for split, scenes in (("train2017", world.train), ("val2017", world.held_out)):
        for scene in tqdm(scenes, desc=f"drawing {split}", unit=" images", leave=False):
            write_bytes(root / "images" / split / file_name(scene), jpeg(scene))
    for name, scene in mix_file.pictures(world):
        write_bytes(root / "images" / name, jpeg(scene))
    for files in (coco_files, qa_sets.files, genome_sets.files, dialog_sets.files, mix_file.files):
        _write(root, files(world))
    write_benchmarks(root, seed=seed, pixels=pixels, count=benchmark)
    if pretraining:
        write_pretraining(root / "llava_pretrain", count=pretraining, seed=seed, pixels=pixels)
    return world


def write_pretraining(folder: Path, *, count: int, seed: int, pixels: int) -> None:
    """Write conversations of single rounds about further scenes, as LLaVA-Pretrain comes.

    `blip_laion_cc_sbu_558k.json` beside `images`, in folders of a thousand, with the conversations
    of `corpus.single_round`.  Format: huggingface.co/datasets/liuhaotian/LLaVA-Pretrain.
    """
    rng, rows = random.Random(f"pretraining/{seed}"), []
    scenes = sample_scenes(count, seed=_PRETRAINING + seed, pixels=pixels)
    for scene in tqdm(scenes, desc="drawing for stage one", unit=" images", leave=False):
        name = f"{scene.image_id:09d}"
        image = f"{name[:5]}/{name}.jpg"
        write_bytes(folder / "images" / image, jpeg(scene))
        rows.append({"id": name, "image": image, "conversations": single_round(scene, rng)})
    write_bytes(folder / "blip_laion_cc_sbu_558k.json", msgspec.json.encode(rows))


def write_benchmarks(root: Path, *, seed: int, pixels: int, count: int) -> None:
    """Write the benchmarks' questions, images and instances below `root`."""
    scenes = benchmark_scenes(seed, pixels=pixels, count=count)
    _write(root, [("mm_vet/instances.json", benchmark_instances(scenes))])
    _write(root, benchmark_files(scenes, seed))


def _write(root: Path, files: Iterable[tuple[str, Any]]) -> None:
    for name, content in files:
        raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
        write_bytes(root / name, raw)


def replace_mini_coco(root: Path, **sizes: int) -> World:
    """Write a mini-COCO in place of the one in `root`, which stays until the new one is drawn.

    `sizes` are those of `write_mini_coco`.  Only files that an earlier call wrote are replaced or
    removed; other files beside them stay.
    Raises `DataError` when those are in the way: real data is never overwritten, nor mixed with
    drawn data.
    """
    with _beside(root) as unfinished:
        world = write_mini_coco(unfinished, **sizes)
        folders = [root / folder.name for folder in unfinished.iterdir()]
        if not (root / STAMP).exists() and any(folder.exists() for folder in folders):
            raise DataError(f"{root} holds files that are not a mini-COCO; choose another raw_dir")
        before = drawn_files(root)
        names = _take_place(unfinished, root)
        for name in before - names:
            inside(root, name).unlink(missing_ok=True)
        write_text(root / STAMP, _list_of(names))
    return world


def add_benchmarks(root: Path, *, seed: int, pixels: int, count: int) -> None:
    """Write the benchmarks alone below `root`, beside whatever is there.

    A mini-COCO drawn there later replaces them.  Raises `DataError` if another file is in the way.
    """
    with _beside(root) as unfinished:
        write_benchmarks(unfinished, seed=seed, pixels=pixels, count=count)
        _take_place(unfinished, root)


@contextmanager
def _beside(root: Path) -> Iterator[Path]:
    folder = root.resolve()  # it may be a link to another disk
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        yield unfinished
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(drawn: Path, root: Path) -> set[str]:
    """Move drawn files below `root`, in place of those drawn before; return their names."""
    names = {path.relative_to(drawn).as_posix() for path in drawn.rglob("*") if path.is_file()}
    before = drawn_files(root)
    unlisted = (root / STAMP).exists() and not before  # by an older version
    foreign = sorted(name for name in names - before if (root / name).exists())
    if foreign and not unlisted:
        raise DataError(
            f"{root / foreign[0]} is in the way of a file that the study draws; move it and give "
            "its new place in the catalogue"
        )
    # Listed first, so that after a kill at any point every drawn file is known as such.
    write_text(root / STAMP, _list_of(names | before))
    for name in sorted(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (drawn / name).replace(root / name)
    return names


def _list_of(names: Iterable[str]) -> str:
    return f"{_STAMP_HEAD}\n" + "".join(f"{name}\n" for name in sorted(names))


def drawn_files(root: Path) -> set[str]:
    """Return the files below `root` that make up a mini-COCO.

    None without a mini-COCO, or with a mini-COCO of an older version, which listed nothing.
    """
    stamp = root / STAMP
    head, *names = stamp.read_text(encoding="utf-8").splitlines() if stamp.is_file() else [""]
    return set(names) if head == _STAMP_HEAD else set()


def coco_files(world: World) -> Iterator[tuple[str, Any]]:
    """Yield COCO's instance and caption files for both splits.

    Format: cocodataset.org/#format-data.
    """
    for split, scenes in (("train2017", world.train), ("val2017", world.held_out)):
        images = [_image(scene, split) for scene in scenes]
        yield f"annotations/instances_{split}.json", _instance_file(split, images, scenes)
        rows = list(_captions(world, scenes, split))
        yield f"annotations/captions_{split}.json", {**_head(split, images), "annotations": rows}


def benchmark_instances(scenes: Mapping[str, Scene]) -> dict[str, Any]:
    """Return the instances of the benchmarks' images as a COCO file with their file names."""
    images = [_image(scene, "benchmark") | {"file_name": name} for name, scene in scenes.items()]
    return _instance_file("benchmark", images, list(scenes.values()))


def _head(split: str, images: list[dict[str, Any]]) -> dict[str, Any]:
    return {"info": {"description": f"mini-COCO {split}"}, "licenses": _LICENCES, "images": images}


def _instance_file(
    split: str, images: list[dict[str, Any]], scenes: Sequence[Scene]
) -> dict[str, Any]:
    categories = [
        {"supercategory": SUPERCATEGORIES[name], "id": number, "name": name}
        for name, number in CATEGORY_IDS.items()
    ]
    rows = [row for scene in scenes for row in _instances(scene)]
    return {**_head(split, images), "annotations": rows, "categories": categories}


def _image(scene: Scene, split: str) -> dict[str, Any]:
    name = file_name(scene)
    return {
        "license": 1 + scene.image_id % len(_LICENCES),
        "file_name": name,
        "coco_url": f"http://images.cocodataset.org/{split}/{name}",
        "height": scene.pixels,
        "width": scene.pixels,
        "date_captured": "2013-11-14 11:18:45",
        "flickr_url": "",
        "id": scene.image_id,
    }


def _instances(scene: Scene) -> Iterator[dict[str, Any]]:
    """Yield polygons for things and, as upstream, one uncompressed RLE for a crowd."""
    for number, thing in enumerate(scene.things):
        points = [(round(x, _DECIMALS), round(y, _DECIMALS))
                  for x, y in outline(thing, pixels=scene.pixels)]  # fmt: skip
        polygon = [value for point in points for value in point]
        rle = coco_mask.merge(coco_mask.frPyObjects([polygon], scene.pixels, scene.pixels))
        yield {
            "segmentation": [polygon],
            "area": float(coco_mask.area(rle)),
            "iscrowd": 0,
            "image_id": scene.image_id,
            "bbox": [round(value, _DECIMALS) for value in box(points)],
            "category_id": CATEGORY_IDS[thing.category],
            "id": scene.image_id * 10 + number,
        }
    if scene.flock:
        yield _crowd(scene)


def _crowd(scene: Scene) -> dict[str, Any]:
    polygons = [[v for xy in polygon for v in xy] for polygon in flock_outlines(scene)]
    rles = coco_mask.frPyObjects(polygons, scene.pixels, scene.pixels)
    mask = coco_mask.decode(coco_mask.merge(rles))
    return {
        "segmentation": {"counts": _runs(mask), "size": [scene.pixels, scene.pixels]},
        "area": int(mask.sum()),
        "iscrowd": 1,
        "image_id": scene.image_id,
        "bbox": [float(v) for v in coco_mask.toBbox(coco_mask.merge(rles))],
        "category_id": CATEGORY_IDS["bird"],
        "id": 900_000_000_000 + scene.image_id,
    }


def _runs(mask: np.ndarray) -> list[int]:
    """Return run lengths down the columns, zeros first: COCO's uncompressed RLE."""
    flat = mask.flatten(order="F")
    borders = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate(([0], borders, [flat.size]))).tolist()
    return [0, *runs] if flat[0] else runs


def _captions(world: World, scenes: tuple[Scene, ...], split: str) -> Iterator[dict[str, Any]]:
    """Yield five captions per image; some have stray spaces or line breaks, some no full stop."""
    rng = world.rng(f"captions/{split}")
    for scene in scenes:
        for number in range(5):
            text = caption(scene, rng)
            stray = rng.random()
            if stray < 0.14:
                text = f"{text} "
            elif stray < 0.16:
                text = text.replace(" ", "  ", 1)
            elif stray < 0.17:
                text = f"{text}\n"
            elif stray < 0.42:
                text = text.removesuffix(".")
            yield {"image_id": scene.image_id, "id": scene.image_id * 10 + number, "caption": text}
