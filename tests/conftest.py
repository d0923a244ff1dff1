"""Fixtures all tests share: the folders of golden vectors and of real images, which lie outside the repository."""

import os
from pathlib import Path

import pytest

from db.toy import draw_toy

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of golden vectors: the environment variable GOLDENS, else ../shared/goldens."""
    folder = Path(os.environ.get("GOLDENS") or SHARED / "goldens")
    if "GOLDENS" in os.environ and not (folder / "manifest.json").is_file():
        pytest.fail(f"GOLDENS is {folder}, where there is no manifest.json")
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"no golden vectors in {folder} (set GOLDENS to their folder)")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of small real data sets, ../shared/data."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}")
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """Toy data of 16 images to train on and 4 to test, not to be changed."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    draw_toy(folder, seed=1, images=20, size=95)
    return folder


@pytest.fixture(scope="module")
def config(request, toy, tmp_path_factory) -> str:
    """Path of tiny.yaml on the toy data, with what the module's TINY (YAML) say differently."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "base.yaml").write_text(f"base: {ROOT / 'tests' / 'tiny.yaml'}\ndata: {{root: {toy}}}\n")
    (folder / "tiny.yaml").write_text("base: base.yaml\n" + request.module.TINY)
    return str(folder / "tiny.yaml")
