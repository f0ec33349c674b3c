import os

if "PYTEST_XDIST_WORKER" in os.environ:  # two workers share two cores, also in what they start
    os.environ["OMP_NUM_THREADS"] = "1"

import random
from pathlib import Path

import pytest
from hypothesis import settings

from cocoift.sources import read_catalogue
from minicoco.annotate import write_mini_coco

# A busy machine fails no test: by default Hypothesis asserts that an example takes 200 ms at most.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
ROOT = Path(__file__).resolve().parents[1]
# Tests that use one of these train, run notebooks or start a browser.
# Their files, the longest first: with two workers none is left alone with a long file at the end.
LONGEST = ("test_notebooks", "test_presets", "test_served", "test_study", "test_train",
           "test_interrupts", "test_real_data", "test_candidates", "test_partitioned",
           "test_readme", "test_train_all")  # fmt: skip
SLOW = {"checkpoint", "smoke", "published", "project", "make", "trainings", "local", "run"}


def pytest_collection_modifyitems(items):
    for item in items:
        if SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def catalogue():
    return read_catalogue(ROOT / "data" / "sources.yaml")


@pytest.fixture(scope="session")
def mini(tmp_path_factory):
    """A mini-COCO on disk, with the scenes it shows: (raw folder, world)."""
    raw = tmp_path_factory.mktemp("mini")
    return raw, write_mini_coco(raw, train=400, held_out=20, seed=3)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A LLaVA that has learnt next to nothing, in the files of a published checkpoint."""
    from minicoco import Recipe
    from minicoco.llava import build_tiny_llava

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    recipe = Recipe(scenes=96, tower_steps=1, language_steps=1, width=64, layers=2, vocabulary=300)
    build_tiny_llava(folder, recipe)
    return folder


@pytest.fixture(scope="session")
def mixture(tmp_path_factory):
    """Two mixtures of the same questions on 40 drawn images: the folder that holds them.

    `merged.json` has a record per image, `mix.json` one per question; images in `train2017/`.
    """
    from cocoift.core.schema import Turn, to_record
    from cocoift.merge.export import write_mixture
    from minicoco.draw import draw
    from minicoco.facts import sample_facts
    from minicoco.scenes import sample_scenes

    folder, rng = tmp_path_factory.mktemp("mixture"), random.Random(0)
    (folder / "train2017").mkdir()
    merged, mix = [], []
    for scene in sample_scenes(40, seed=11):
        name, turns = f"{scene.image_id:012d}", []
        draw(scene).save(folder / "train2017" / f"{name}.jpg")
        for n, fact in enumerate(sample_facts(scene, rng, 4)):
            source, answer = (("vqav2", fact.short), ("llava_instruct", fact.sentence))[n % 2]
            turns.append(
                Turn(scene.image_id, source, "", n, fact.question, fact.question, answer, "")
            )
        image = f"train2017/{name}.jpg"
        merged.append(to_record(turns, record_id=name, image=image))
        mix += [to_record([turn], record_id=f"{name}-{turn.round}", image=image) for turn in turns]
    write_mixture(merged, folder, name="merged")
    write_mixture(mix, folder, name="mix")
    return folder


@pytest.fixture(scope="session")
def real():
    """The folder with the real sample; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("COCOIFT_REAL_DATA", ROOT.parent / "shared" / "real_mini"))
    if not folder.is_dir():
        pytest.skip(f"no real sample in {folder}; set COCOIFT_REAL_DATA to run this test")
    return folder
