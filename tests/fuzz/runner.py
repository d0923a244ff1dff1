"""Runs random cases of an area, and gathers what goes wrong."""

from __future__ import annotations

import resource
import shutil
import signal
import traceback
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.areas import AREAS

SECONDS = 10  # of a case, at most
GIGABYTES = 1.5  # that the memory may grow by
HEADER = "| area | cases | read | refused | failed | seconds | GB |\n| --- | --- | --- | --- | --- | --- | --- |"


@dataclass
class Outcome:
    """Counts of cases, and a text for each that failed."""

    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)
    gigabytes: float = 0.0

    def row(self, area: str, seconds: float) -> str:
        failed = len(self.failures)
        counts = f"{self.read + self.refused + failed:,} | {self.read:,} | {self.refused:,} | {failed}"
        return f"| {area} | {counts} | {seconds:.0f} | {self.gigabytes:.1f} |"


def run_cases(area: str, numbers: Iterable[int], folder: Path) -> Outcome:
    """Run cases of an area by their numbers, in files below `folder`."""
    outcome, before = Outcome(), peak_memory()
    for number in numbers:
        here = folder / str(number)
        here.mkdir()
        try:
            with limited():
                read = AREAS[area](Random(f"{area} {number}"), here)
        except Exception as error:
            lines = traceback.format_exception(error)
            outcome.failures.append(f"{area} --first {number} --cases 1\n{''.join(lines[-12:])}")
        else:
            outcome.read += read
            outcome.refused += not read
        shutil.rmtree(here, ignore_errors=True)
    outcome.gigabytes = peak_memory() - before
    if outcome.gigabytes > GIGABYTES:
        outcome.failures.append(f"{area}: the memory grew by {outcome.gigabytes:.1f} GB")
    return outcome


def peak_memory() -> float:
    """Peak memory of this process in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


@contextmanager
def limited():
    """The block may take SECONDS."""

    def late(number, frame):
        raise TimeoutError(f"a case took longer than {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
