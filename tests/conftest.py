"""Fixtures, markers and the summary line that all tests share."""

import ctypes
import fcntl
import gc
import platform
import subprocess
import tempfile
from pathlib import Path
from typing import IO

import pytest

from db.toy import draw_toy
from nnet.runtime.memory import GIGABYTE, available_memory
from tests.golden_files import ROOT, Golden, existing_folder, finder, golden_folder
from tests.processes import started_programs

SHARED = ROOT.parent / "shared"
LARGE = 5  # gigabytes
LOCK: pytest.StashKey[IO[str]] = pytest.StashKey()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Folder of golden vectors. It need not have all files: see `golden`."""
    return existing_folder("goldens")


@pytest.fixture(scope="session")
def golden(goldens) -> Golden:
    """Path of a file of golden vectors by its name. The test is skipped where the folder does not have the file."""
    return finder(goldens)


@pytest.fixture(scope="session")
def goldens_lite() -> Path:
    """Folder of golden vectors of CornerNet-Lite. It need not have all files: see `golden_lite`."""
    return existing_folder("goldens_lite")


@pytest.fixture(scope="session")
def golden_lite(goldens_lite) -> Golden:
    """Path of one of these files by its name. The test is skipped where the folder does not have the file."""
    return finder(goldens_lite)


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
    """Path of a config: tests/tiny.yaml on the toy data, changed by the test module's TINY (YAML)."""
    folder = tmp_path_factory.mktemp("config")
    (folder / "base.yaml").write_text(f"base: {ROOT / 'tests' / 'tiny.yaml'}\ndata: {{root: {toy}}}\n")
    (folder / "tiny.yaml").write_text("base: base.yaml\n" + request.module.TINY)
    return str(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def checkpoint(config, tmp_path_factory) -> Path:
    """The last checkpoint of a finished run of the test module's config."""
    from tests.runs import main

    output = tmp_path_factory.mktemp("trained") / "run"
    assert main(config, output) == 0
    return output / "last.pt"


@pytest.fixture(scope="session")
def shipped() -> list[str]:
    """Paths of the repository's own files, as far as git knows them. Other files are the user's."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not (ROOT / ".git").exists():
        pytest.skip("not a git repository: which files are its own is not known")
    return done.stdout.splitlines()


@pytest.fixture
def start():
    """Starts programs of the repository as processes; what is left of them at the end of the test is killed."""
    with started_programs(ROOT) as start:
        yield start


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marker
def pytest_collection_modifyitems(items):
    """Mark the tests that read golden vectors."""
    for item in items:
        if {"goldens", "goldens_lite"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("golden")


def pytest_runtest_setup(item):
    """Skip a test that needs more memory than is available at its start.

    Of the large ones, only one runs at a time over all workers: two that start together would both see enough memory.
    """
    for marker in item.iter_markers("needs_memory"):
        (gigabytes,) = marker.args
        return_freed_memory()
        if gigabytes >= LARGE:
            item.stash[LOCK] = open(Path(tempfile.gettempdir()) / "tests_with_much_memory.lock", "w")
            fcntl.flock(item.stash[LOCK], fcntl.LOCK_EX)
        available = available_memory() / GIGABYTE
        if available < gigabytes:
            pytest.skip(f"needs {gigabytes:g} GB of memory, {available:.1f} GB are available")


def pytest_runtest_teardown(item):
    """Return the memory of such a test, for the tests that run at the same time."""
    if item.get_closest_marker("needs_memory"):
        return_freed_memory()
    if LOCK in item.stash:
        item.stash[LOCK].close()


def return_freed_memory():
    """Return freed memory to the system, now and from here on.

    Tests that run train.py in this process make the C library keep it (nnet.runtime.devices.keep_freed_memory). A large
    test after them would then take more memory, because of fragmentation.
    """
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_threshold, mmap_max = -1, -2, -3, -4  # from malloc.h
        for option in ((mmap_max, 2**16), (mmap_threshold, 2**20), (trim_threshold, 2**20), (top_pad, 2**17)):
            library.mallopt(*option)
        library.malloc_trim(0)


def pytest_terminal_summary(terminalreporter):
    """Print how many golden comparisons were run and skipped."""

    def golden(*outcomes: str) -> set[str]:
        reports = [report for outcome in outcomes for report in terminalreporter.getreports(outcome)]
        return {report.nodeid for report in reports if "golden" in getattr(report, "keywords", ())}

    failed, skipped = golden("failed", "error"), golden("skipped")
    run = golden("passed") | failed
    if run or skipped:
        failures = f" ({len(failed)} failed)" if failed else ""
        counts = f"golden comparisons: {len(run)} run{failures}, {len(skipped)} skipped"
        folders = f"{golden_folder('goldens')} and {golden_folder('goldens_lite')}"
        terminalreporter.write_line(f"{counts}; golden vectors of {folders}")
