"""The folder that a run writes to: config.yaml, checkpoints, log, curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nnet.runtime.files import FolderLock, make_folder
from nnet.training.metrics import MetricsLog, NoLog, draw_curves
from nnet.training.monitoring import Trace
from nnet.training.snapshots import Snapshots
from nnet.training.start import Start

logger = logging.getLogger(__name__)


class RunFolder:
    """What rank 0 writes; on the other ranks, nothing is written.

    Attributes:
        path: the folder. snapshots: its checkpoints.
        log: metrics.jsonl and TensorBoard files; open after `open`. trace: a profiler trace, if wanted.
    """

    def __init__(self, path: Path, keep: int, keep_every: int, writes: bool):
        """keep, keep_every: see Snapshots. writes: whether this is rank 0."""
        self.path = path
        self.writes = writes
        self.snapshots = Snapshots(path, keep, keep_every)
        self.log: MetricsLog | NoLog = NoLog()
        self.trace = Trace(None, 0)
        self.lock: FolderLock | None = None

    def open(
        self, config: str, constants: dict[str, Any], start: Start, end: int, terms: Sequence[str], profile: bool
    ) -> None:
        """Start to write.

        Args:
            config: text of config.yaml. constants: what every checkpoint holds besides the run's progress.
            start: where the run starts. end: the last iteration. terms: names of the loss terms. profile: whether to
            write a trace.

        Raises:
            DataError: the folder cannot be written to, or another run writes to it, or has written since this run
            looked for checkpoints.
        """
        self.constants = constants
        if not self.writes:
            return
        make_folder(self.path)
        self.lock = FolderLock(self.path)
        self.snapshots.check_unchanged()
        if removed := self.snapshots.clear():
            logger.info("removed the snapshots of later iterations: %s", ", ".join(removed))
        (self.path / "config.yaml").write_text(config, encoding="utf-8")
        self.log = MetricsLog(self.path, start.iteration, end, terms)
        self.trace = Trace(self.path / "trace.json" if profile else None, end - start.iteration)
        self.snapshots.best = max((ap or 0.0 for ap in self.log.logged("val_AP").values()), default=-1.0)

    def save(self, progress: dict[str, Any], report_progress: Callable[[], None]) -> None:
        """Write a checkpoint. A failure is reported, and `snapshots.failure` is its reason."""
        if not self.snapshots.save({**progress, **self.constants}, report_progress):
            logger.warning("iteration %d: not saved: %s", progress["iteration"], self.snapshots.failure)

    def keep_best(self, iteration: int, precision: float) -> None:
        """Make this iteration's checkpoint best.pt if its validation AP is the best. A failure is reported."""
        try:
            self.snapshots.keep_best(iteration, precision)
        except OSError as error:
            logger.warning("iteration %d: best.pt is unchanged: %s", iteration, error)

    def close(self) -> None:
        """Close the files, and draw the curves. Raises OSError."""
        try:
            self.trace.stop()
            self.log.close()
            if self.writes:
                draw_curves(self.path)
        finally:
            if self.lock:
                self.lock.release()
