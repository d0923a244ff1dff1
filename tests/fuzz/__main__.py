"""Random hostile input, as many cases as wanted:

python -m tests.fuzz [AREA ...] [--cases N] [--first N]

AREA: configs, annotations, images, checkpoints, operators (default: all). Case n of an area is the same each time.
Prints a row per area, and exits with code 1 if a case raised something else than the area's errors, took longer than
10 seconds, or if the memory grew by more than 1.5 GB. --first gives the number of the first case.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
from pathlib import Path

import cv2

from tests.fuzz.areas import AREAS
from tests.fuzz.runner import HEADER, run_cases


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random hostile input.")
    parser.add_argument("areas", nargs="*", metavar="AREA", help=f"any of {', '.join(AREAS)}")
    parser.add_argument("--cases", type=int, default=1000, help="of each area (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (%(default)s)")
    args = parser.parse_args(argv)
    if unknown := set(args.areas) - AREAS.keys():
        parser.error(f"no area {', '.join(sorted(unknown))}; areas are {', '.join(AREAS)}")
    faulthandler.enable()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # no messages about the damage
    failures = []
    print(HEADER, flush=True)
    for area in args.areas or AREAS:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            outcome = run_cases(area, range(args.first, args.first + args.cases), Path(folder))
            print(outcome.row(area, time.perf_counter() - begun), flush=True)
            failures += outcome.failures
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
