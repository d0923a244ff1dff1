"""Runs the parts of a long measurement so that no result is lost: each result is saved as soon as it is there.

The parts run one after another in a child process. If it crashes, as after an illegal memory access on a GPU, or takes
longer than a part's limit, that part is recorded as failed, and a new child process runs the parts that remain.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Figures = dict[str, Any]
# A part returns its figures, or yields all that it has so far, again and again
Part = Callable[[], Figures | Iterator[Figures]]


class Results:
    """The results of all parts, in a JSON file that is replaced atomically.

    Each part has a "status": running, ok, failed or skipped. Parts that ran have "seconds", failed ones an "error" and
    what they have measured until then.
    """

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> Figures:
        return json.loads(self.path.read_text()) if self.path.is_file() else {}

    def set(self, part: str, **figures: Any) -> None:
        written = self.read()
        written[part] = figures
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(written, indent=1) + "\n")
        os.replace(new, self.path)


def run_here(parts: Mapping[str, Part], names: Sequence[str], results: Results) -> None:
    """Run parts in this process, a child of `run_apart`. An exception fails its part and ends the process."""
    for name in names:
        begun, figures = time.time(), {}
        results.set(name, status="running", begun=begun)
        try:
            made = parts[name]()
            for figures in [made] if isinstance(made, dict) else made:
                results.set(name, status="running", begun=begun, **figures)
        except (Exception, SystemExit) as error:
            seconds, message = round(time.time() - begun, 1), f"{type(error).__name__}: {error}"[:2000]
            results.set(name, status="failed", seconds=seconds, error=message, **figures)
            raise
        results.set(name, status="ok", seconds=round(time.time() - begun, 1), **figures)


def run_apart(
    limits: Mapping[str, float],
    command: Callable[[Sequence[str]], Sequence[str]],
    results: Results,
    seconds: float,
    report: Callable[[str, Figures], None],
) -> None:
    """Run parts in child processes.

    Args:
        limits: seconds that each part may take, in the order in which the parts run.
        command: the child's command line for the parts that are left, which calls `run_here`.
        seconds: for all parts together. What is left then is skipped.
        report: called with each part's result as soon as it is there.
    """
    end, reported = time.time() + seconds, set()

    def report_new() -> None:
        for name, figures in results.read().items():
            if name in limits and name not in reported and figures["status"] != "running":
                reported.add(name)
                report(name, figures)

    while left := [name for name in limits if results.read().get(name, {}).get("status") in (None, "running")]:
        if time.time() >= end:
            for name in left:
                results.set(name, status="skipped", error="no time was left")
            report_new()
            return
        # a process group of its own, so that the processes that a part starts are ended with it
        child = subprocess.Popen(command(left), start_new_session=True)
        try:
            reason = _watch(child, limits, results, end, report_new)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        running = [name for name, figures in results.read().items() if figures["status"] == "running"]
        ended = [name for name in left if results.read().get(name, {}).get("status") in ("ok", "failed")]
        # a child that ends before its first part is not started again
        for name in running or ([] if ended else left[:1]):
            figures = results.read().get(name, {})
            seconds = round(time.time() - figures.pop("begun", time.time()), 1)
            results.set(name, **(figures | {"status": "failed", "seconds": seconds, "error": reason}))
        report_new()


def _watch(
    child: subprocess.Popen, limits: Mapping[str, float], results: Results, end: float, report_new: Callable[[], None]
) -> str:
    """Wait until the child ends, or one of its parts takes too long. Returns why a part that is running then failed."""
    while child.poll() is None:
        time.sleep(0.1)
        report_new()
        for name, figures in results.read().items():
            if figures["status"] == "running" and time.time() > min(figures["begun"] + limits[name], end):
                return f"stopped after {time.time() - figures['begun']:.0f} s"
        if time.time() > end + 5:
            return "no time was left"
    code = child.returncode
    return f"the process was ended by {signal.Signals(-code).name}" if code < 0 else f"the process ended with {code}"
