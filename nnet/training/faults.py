"""What can go wrong in a training run: signals, unreadable images, non-finite losses, dead peers, full disks."""

from __future__ import annotations

import logging
import sys

from db import AnnotationIndex, DataError
from nnet.detection.images import UNREADABLE_LIMIT
from nnet.runtime.errors import RunError, stopping_reason
from nnet.runtime.signals import Signals
from nnet.training.step import NonFinite
from sample.dataset import Batch

logger = logging.getLogger(__name__)

NON_FINITE_LIMIT = 10  # consecutive non-finite steps that end the run, even with train.nan=skip


class UnreadableCount:
    """Counts the images that could not be read, and ends a run that meets too many.

    The fraction is checked once a whole epoch or 200 images have been seen, whichever is less.
    """

    CHECKED_FROM = 200

    def __init__(self, images: int):
        """images: number of images of an epoch."""
        self.checked_from = min(images, self.CHECKED_FROM)
        self.seen = 0
        self.failures = 0
        self.failed: dict[str, str] = {}  # path -> reason

    def add(self, batch: Batch) -> list[str]:
        """Count a batch. Returns a message for each image that failed for the first time."""
        self.seen += len(batch.images) + len(batch.unreadable)
        self.failures += len(batch.unreadable)
        new = [f"skipped {path}: {reason}" for path, reason in batch.unreadable if path not in self.failed]
        self.failed.update((path, reason) for path, reason in batch.unreadable)
        return new

    def check(self, seen: int, failures: int) -> None:
        """Raise RunError if too many failed. The counts are those of all processes."""
        if seen >= self.checked_from and failures > UNREADABLE_LIMIT * seen:
            some = "; ".join(f"{path}: {reason}" for path, reason in list(self.failed.items())[:3])
            raise RunError(
                f"{failures} of the {seen} images seen could not be read, more than {UNREADABLE_LIMIT:.0%}"
                f"{f' ({some})' if some else ''}: repair or remove them, or their entries in the annotation file"
            )


class NonFiniteCount:
    """Counts consecutive non-finite steps, and ends the run when it has to stop."""

    def __init__(self, policy: str, index: AnnotationIndex):
        """policy: train.nan. index: names the images of a step."""
        self.policy = policy
        self.index = index
        self.consecutive = 0

    def finite(self) -> None:
        """Record a finite step."""
        self.consecutive = 0

    def skip(self, iteration: int, error: NonFinite) -> None:
        """Report a step that was not made. Raises RunError where the run has to stop."""
        self.consecutive += 1
        what = f"iteration {iteration}: {error.describe(self.index)}"
        if self.policy == "stop" or self.consecutive == NON_FINITE_LIMIT:
            raise RunError(f"{what}: try a lower train.lr, train.warmup, or train.nan=skip") from error
        logger.warning("%s: the step is skipped", what)


class Guard:
    """Context of the training loop: whatever ends it, the state after the last step is saved and files are closed.

    A signal ends the loop after the current step (see Signals). An error ends it at once; what the user can mend
    becomes a RunError that also says what is saved.
    """

    def __init__(self, trainer):
        """trainer: a Trainer."""
        self.trainer = trainer
        self.signals: Signals = trainer.signals

    def __enter__(self) -> Guard:
        return self

    def uninterrupted(self):
        """Context in which the death of a worker does not raise: a step is made, logged and saved as one."""
        return self.signals.held()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback) -> bool:
        """Save and close. Returns whether the error is handled: a signal ended the loop."""
        try:
            if error is None:
                self._save_at_end()
                return False
            return isinstance(error, Exception) and self._handle(error)
        finally:
            self._close()

    def _save_at_end(self) -> None:
        """Save together with the other processes: torchrun ends all of them soon after the first has stopped."""
        try:
            with self.signals.held():
                self.trainer.save()
        except Exception as error:  # another process is missing, or a worker has died in the meantime
            if not self._handle(error):
                raise

    def _handle(self, error: Exception) -> bool:
        self.signals.deferring = True
        self.trainer.save(wait=False)
        # Clusters signal all processes of a run, workers too: their death is then part of the stop.
        if self.signals.stop is not None and not isinstance(error, (DataError, RunError)):
            return True
        reason = stopping_reason(error)
        if reason is None:
            return False
        raise RunError(f"{reason}; {self.trainer.saved()}" if self.trainer.group.first else reason) from error

    def _close(self) -> None:
        try:
            self.trainer.close()
        except OSError as error:
            print(f"no curves: {error}", file=sys.stderr)
        finally:
            self.signals.restore()
