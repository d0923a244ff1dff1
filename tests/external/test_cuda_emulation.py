"""The CUDA kernels in external/, compiled for the CPU and run by an emulation of CUDA's threads and barriers.

The operators' own tests and emulation/check_kernels.py run on these kernels, in other processes. Faults put into the
kernels show that the checks find errors; `python -m tests.external.emulation.faults` tests more of them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from tests.external.emulation.build import HERE, build_all, missing_requirement
from tests.external.emulation.faults import find
from tests.external.emulation.runs import RUNS, start
from tests.external.emulation.translate import translate

CHECKS = (HERE / "check_kernels.py", *(HERE.parent / f"test_{name}.py" for name in ("corner_pool", "focal_loss")))
# Tests that do not test the compiled kernels of this process, or are too slow for emulated kernels
LEFT_OUT = (
    "stock-cpu or instruction_sets or library or long_lines or opcheck or gradients or compile_and or compiles_into"
)
SANITIZED = "-fsanitize" in os.environ.get("CXXFLAGS", "")  # by `make sanitize`

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing_requirement() is not None, reason=str(missing_requirement())),
]


@pytest.fixture(scope="module")
def folder(request, tmp_path_factory) -> Path:
    """Folder of the compiled kernels. It is kept for the next run in pytest's cache, if that is used."""
    cache = getattr(request.config, "cache", None)
    return cache.mkdir("emulation") if cache else tmp_path_factory.mktemp("emulation")


@pytest.fixture(scope="module")
def processes(folder: Path) -> Iterator[dict[str, Popen]]:
    """A process for each of RUNS that tests the operators. They run at the same time."""
    build_all(folder)
    processes = {}
    try:
        for run, options in RUNS.items():
            processes[run] = start(*options, "--libraries", folder, *CHECKS, "-k", f"not ({LEFT_OUT})")
        yield processes
    finally:
        for process in processes.values():
            with process:
                process.kill()


@pytest.mark.parametrize("run", RUNS)
def test_operators(processes: dict[str, Popen], run: str) -> None:
    output, _ = processes[run].communicate()
    assert processes[run].returncode == 0 and " passed" in output, output


@pytest.mark.parametrize(
    "fault, run",
    [
        ("no barrier before the next tile is loaded", "forward"),
        ("lines beyond the first grid are not computed", "random"),
    ],
)
def test_fault_is_found(folder: Path, fault: str, run: str) -> None:
    assert find(fault, run, folder) is not None


@pytest.mark.skipif(not SANITIZED, reason="run by make sanitize")
def test_access_out_of_bounds_is_found(folder: Path) -> None:
    assert find("reads beyond the end of a row", "random", folder).startswith("AddressSanitizer")


def test_unknown_code_is_rejected() -> None:
    with pytest.raises(ValueError, match="a.cu: the emulation does not support __shfl_up_sync"):
        translate("__shfl_up_sync(1)", Path("a.cu"))
    with pytest.raises(ValueError, match="a.cu: nothing matches"):
        translate("", Path("a.cu"))
