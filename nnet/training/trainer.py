"""The state of a training run, and the steps of its loop. train.py shows the order in which they are made."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from db import AnnotationIndex
from nnet.detection.detector import Detector
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError
from nnet.runtime.signals import Signals
from nnet.runtime.transfer import Upload
from nnet.training.faults import Guard, NonFiniteCount, UnreadableCount
from nnet.training.folder import RunFolder
from nnet.training.metrics import Window
from nnet.training.options import TrainOptions
from nnet.training.start import Start, random_state, restore_random_state
from nnet.training.step import NonFinite, UpdateStep, learning_rate
from nnet.training.validation import Validation
from sample.dataset import Batch
from sample.loader import Batches

logger = logging.getLogger(__name__)


class Trainer:
    """Makes updates, logs, saves and validates.

    Attributes:
        iteration: number of finished iterations.
        signals: what asks the run to stop.
    """

    def __init__(
        self,
        update: UpdateStep,
        window: Window,
        folder: RunFolder,
        start: Start,
        index: AnnotationIndex,
        options: TrainOptions,
        group: Group,
    ):
        """index: the training split."""
        self.update = update
        self.window = window
        self.folder = folder
        self.start = start
        self.iteration = start.iteration
        self.options = options
        self.group = group
        self.signals = Signals()
        self.upload = Upload(group.device)
        self.unreadable = UnreadableCount(len(index))
        self.non_finite = NonFiniteCount(options.nan, index)
        self.validation: Validation | None = None
        self.batches: Iterator[Batch] = iter(())
        self.micro_batches_per_iteration = 0  # of this process
        self.lr = options.lr  # of the last update

    def guarded(self) -> Guard:
        """Context of the loop: handles signals and errors, and saves at the end."""
        return Guard(self)

    def validate_on(self, index: AnnotationIndex, detector: Detector, batch: int) -> None:
        """Set the validation split and its detector, whose network is validated.

        batch: images per batch when the validation loss is measured.
        """
        self.validation = Validation(
            index,
            detector,
            self.update.objective._replace(family=detector.family),
            self.options.validate_images,
            batch,
            self.group,
            self.folder.log,
            self.signals,
            workers=self.options.workers,
            timeout=self.options.worker_timeout,
        )

    def load_batches(self, loader: Iterable[Batch], count: int) -> None:
        """Start the workers. A resumed run then restores its random state, and repeats a validation that was due but
        not logged.

        count: number of micro-batches per iteration.
        """
        self.micro_batches_per_iteration = count
        self.batches = iter(loader)
        self.signals.watch_workers()
        if self.start.random:
            restore_random_state(self.start.random)  # starting the workers has drawn from it
            self.save()  # writes if this folder lacks the checkpoint, as after --resume PATH from another folder
            due = self.due(self.options.validate_every), self.due(self.options.ap_every)
            # Only rank 0 has the log, so it decides what is missing, and the sum tells the others.
            missing = [
                self.group.first and self.iteration not in self.folder.log.logged(k) for k in ("val_loss", "val_AP")
            ]
            self.validate(*(a and b for a, b in zip(due, self.group.sum_counts(*missing), strict=True)))

    def wait_for_batches(self) -> list[Batch]:
        """The micro-batches of the next iteration that this process computes, on their way to its device.

        Raises DataError and RuntimeError.
        """
        with self.window.waiting():
            micro_batches = [next(self.batches) for _ in range(self.micro_batches_per_iteration)]
        for message in [message for batch in micro_batches for message in self.unreadable.add(batch)]:
            logger.warning(message)
        return [batch.map(self.upload) for batch in micro_batches]

    def asked_to_stop(self) -> bool:
        """Whether a signal asked any process to stop. All processes agree on it before each step.

        This exchange also detects a process that has died or hangs. Raises RunError where too many images cannot be
        read.
        """
        counts = self.signals.stop is not None, self.unreadable.seen, self.unreadable.failures
        stop, seen, failures = self.group.sum_counts(*counts)
        if not stop:
            self.unreadable.check(seen, failures)
        return stop > 0

    def step(self, micro_batches: Sequence[Batch]) -> None:
        """Make the next update. With a non-finite loss or gradient, it is skipped or ends the run by RunError
        (train.nan)."""
        self.lr = learning_rate(self.iteration, self.options)
        self.update.set_learning_rate(self.lr)
        try:
            self.window.add(self.update(micro_batches))
            self.update.average_weights(self.iteration)
            self.non_finite.finite()
        except NonFinite as error:
            self.non_finite.skip(self.iteration + 1, error)
        self.iteration += 1

    def log(self) -> None:
        """Advance the progress bar and the profiler, and log a row if one is due."""
        self.folder.log.step()
        self.folder.trace.step()
        if self.iteration % self.options.log_every == 0 or self.iteration == self.options.iterations:
            self.window.log_to(self.folder.log, self.iteration, self.lr)

    def save_if_due(self) -> None:
        """Save if a checkpoint is due. The validation comes after it: it may take longer than the grace period in
        which a cluster kills a job."""
        with self.window.paused():
            at_end = self.iteration == self.options.iterations
            if at_end or self.due(self.options.snapshot_every) or self.due(self.options.ap_every):
                self.save()

    def validate_if_due(self) -> None:
        """Measure the validation loss and AP if they are due."""
        with self.window.paused():
            self.validate(self.due(self.options.validate_every), self.due(self.options.ap_every))

    def due(self, every: int) -> bool:
        """Whether something that happens every `every` iterations (0: never) is due; also at the last iteration of a
        run that is longer than `every`."""
        end = self.options.iterations
        return every > 0 and (self.iteration % every == 0 or self.iteration == end > every)

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores of the run's progress."""
        return {
            "iteration": self.iteration,
            **self.update.state(),
            "window": self.window.state(),
            "random": random_state(),
        }

    def save(self, wait: bool = True) -> None:
        """Save the state, unless it is saved already. A full disk is reported; training continues.

        wait: whether the other processes wait until the file is written, which may take longer than the timeout of a
        step.
        """
        if self.group.first and self.iteration > self.folder.snapshots.saved:
            self.folder.save(self.state(), self.group.report_progress)
        if wait:
            self.group.barrier()

    def validate(self, loss: bool, precision: bool) -> None:
        """Measure the validation loss and the AP, as wanted."""
        if loss:
            self.validation.loss(self.iteration)
        if precision and (figures := self.validation.precision()):
            self.folder.keep_best(self.iteration, figures["AP"] or 0.0)
            # Logged last, so that a run killed before this repeats the validation when it is resumed.
            self.folder.log.row(self.iteration, **{f"val_{name}": value for name, value in figures.items()})
            shown = ", ".join(f"{name} {figures[name] or 0.0:.3f}" for name in ("AP", "AP50"))
            logger.info("iteration %d: validation %s", self.iteration, shown)

    def saved(self) -> str:
        """Text for messages: which state is saved."""
        saved = self.folder.snapshots.saved
        return f"the state after iteration {saved} is saved: continue with --resume" if saved else "nothing is saved"

    def close(self) -> None:
        """End the data loading processes, close the files of the run, and draw its curves. Raises OSError."""
        try:
            if isinstance(self.batches, Batches):
                self.batches.close()
        finally:
            self.folder.close()

    def finish(self) -> int:
        """Report how the run ended. Returns the exit code. Raises RunError where the state could not be saved."""
        stopped = self.iteration < self.options.iterations
        number = self.signals.stop or Signals.DEFAULT  # the signal may have reached another process
        ended = f"stopped by signal {number} after iteration {self.iteration}" if stopped else "all iterations are done"
        if self.group.first:
            snapshots = self.folder.snapshots
            if snapshots.saved < self.iteration:
                raise RunError(f"{ended}, but the state could not be saved ({snapshots.failure}); {self.saved()}")
            curves: Path = self.folder.path / "curves.png"
            logger.info(
                "%s: %s", ended, self.saved() if stopped else f"weights in {snapshots.last}, curves in {curves}"
            )
        return 128 + number if stopped else 0
