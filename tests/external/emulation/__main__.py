"""Runs pytest with emulated CUDA kernels in place of the operators' CPU kernels, in the repository's root:

    python -m tests.external.emulation --order random --max-blocks 2 tests/external/test_corner_pool.py -k "not stock"

Without arguments for pytest, it runs check_kernels.py, next to this file.
"""

import argparse
import os
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

from external import native
from tests.external.emulation import faults
from tests.external.emulation.build import HERE, ROOT, build_all

ORDERS = ("forward", "reverse", "random")


def load_emulated_kernels(libraries: dict[str, Path]):
    """Patch external.native so that the packages in `libraries` load these instead of their compiled kernels."""

    def load(folder: Path, name: str) -> str | None:
        if name != "_C" or folder.name not in libraries:
            return "not loaded, because CUDA kernels are emulated"
        torch.ops.load_library(libraries[folder.name])
        return None

    return mock.patch.object(native, "_load", load)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.external.emulation", description=__doc__)
    parser.add_argument("--order", choices=ORDERS, default="forward", help="order of the threads between two barriers")
    parser.add_argument("--max-blocks", type=int, help="upper limit of the grid size")
    parser.add_argument("--fault", choices=faults.NAMES, help="put a fault into the kernels")
    parser.add_argument("--libraries", type=Path, default=ROOT / "build" / "emulation", help="where they are built")
    options, arguments = parser.parse_known_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["EMULATED_ORDER"] = options.order
    if options.max_blocks is not None:
        os.environ["EMULATED_MAX_BLOCKS"] = str(options.max_blocks)
    libraries = build_all(options.libraries, faults.changes(options.fault) if options.fault else None)
    os.environ["EMULATED_LIBRARIES"] = os.pathsep.join(map(str, libraries.values()))
    with load_emulated_kernels(libraries):
        # the messages of a process that is aborted are not captured
        always = ["-q", "-rf", "-p", "no:cacheprovider", "--capture=sys"]
        return pytest.main([*always, *(arguments or ["-x", "--tb=short", str(HERE / "check_kernels.py")])])


if __name__ == "__main__":
    sys.exit(main())
