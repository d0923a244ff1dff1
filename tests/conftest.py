"""Fixtures all tests share: the folders of golden vectors and of real images, which lie outside the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of golden vectors: the environment variable GOLDENS, else ../shared/goldens."""
    folder = Path(os.environ.get("GOLDENS") or SHARED / "goldens")
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
