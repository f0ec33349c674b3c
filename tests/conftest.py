import os
from pathlib import Path

import pytest

from cocoift.mini.annotate import write_mini_coco
from cocoift.sources import read_catalogue

ROOT = Path(__file__).resolve().parents[1]


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
def real():
    """The folder with the real sample; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("COCOIFT_REAL_DATA", ROOT.parent / "shared" / "real_mini"))
    if not folder.is_dir():
        pytest.skip(f"no real sample in {folder}; set COCOIFT_REAL_DATA to run this test")
    return folder
