"""Fixtures of the tests against CornerNet-Lite's golden vectors, in the folder that GOLDENS_LITE names."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "goldens_lite"


def golden_folder() -> Path:
    """The environment variable GOLDENS_LITE, else ../shared/goldens_lite if it exists, else tests/goldens_lite."""
    if os.environ.get("GOLDENS_LITE"):
        return Path(os.environ["GOLDENS_LITE"]).resolve()
    return SHARED if (SHARED / "manifest.json").is_file() else ROOT / "tests" / "goldens_lite"


@pytest.fixture(scope="session")
def goldens_lite() -> Path:
    """Folder of golden vectors of CornerNet-Lite. It need not have all files: see `golden_lite`."""
    folder = golden_folder()
    if not (folder / "manifest.json").is_file():
        pytest.fail(f"the folder of golden vectors is {folder}, where there is no manifest.json (see GOLDENS_LITE)")
    return folder


@pytest.fixture(scope="session")
def golden_lite(goldens_lite) -> Callable[[str], Path]:
    """Path of one of these files by its name. The test is skipped where the folder does not have the file."""

    def path(name: str) -> Path:
        if not (goldens_lite / name).is_file():
            pytest.skip(f"no {name} in the folder of golden vectors, {goldens_lite}")
        return goldens_lite / name

    return path


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(items):
    """Mark the tests that read these golden vectors."""
    for item in items:
        if "goldens_lite" in getattr(item, "fixturenames", ()):
            item.add_marker("golden")


def pytest_terminal_summary(terminalreporter):
    """Print the folder that was read."""
    terminalreporter.write_line(f"golden vectors of CornerNet-Lite: {golden_folder()}")
