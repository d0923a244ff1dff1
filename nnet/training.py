"""One step of training: micro-batches, targets, loss, gradients; and what has to be kept to go on after a stop."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.hourglass import feature_size
from models.losses import LossTerms, LossWeights, detection_loss
from sample import Batch, Penalty, corner_targets, normalise


class RunError(RuntimeError):
    """A run that has to stop: its message says why and what to do."""


class Diverged(RunError):
    """The loss is no longer a finite number, so the state is not worth saving."""


class Objective(NamedTuple):
    """What is minimised, apart from the network: how targets are drawn and how the terms are weighted."""

    classes: int
    penalty: Penalty
    weights: LossWeights
    channels_last: bool = False

    def __call__(self, network: nn.Module, batch: Batch) -> LossTerms:
        """Loss of one micro-batch, on the device its tensors are on. Supervises every stack."""
        images = normalise(batch.images, batch.colour)  # (B, 3, H, W)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        size = tuple(images.shape[-2:])
        targets = corner_targets(
            batch.boxes,
            batch.labels,
            batch.image_index,
            len(images),
            self.classes,
            size,
            feature_size(size),
            self.penalty,
        )
        return detection_loss(network(images, every_stack=True), targets, batch.image_index, self.weights)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Within, BatchNorm normalises by its batch as in training, but leaves its running statistics alone."""
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    batches: Sequence[Batch],
    in_all: int,
    processes: int = 1,
) -> Tensor:
    """One update from the mean gradient of `in_all` micro-batches, as if each had its own device.

    batches: those of this process. Each has its own BatchNorm statistics and normalises its own loss; the running
    statistics kept are those of the first. With several processes, `network` is a DistributedDataParallel.
    Returns this process's share of the mean loss terms, (5,), in LossTerms' order, without waiting for the device.
    """
    network.train()
    optimizer.zero_grad(set_to_none=True)
    sums = 0
    for number, batch in enumerate(batches):
        with ExitStack() as stack:
            if number > 0:
                stack.enter_context(kept_statistics(network))
            if processes > 1 and number < len(batches) - 1:
                stack.enter_context(network.no_sync())  # gradients are exchanged once, with the last micro-batch
            terms = objective(network, batch)
            (terms.total * (processes / in_all)).backward()  # the exchange divides by the number of processes
        sums = sums + torch.stack(terms).detach() / in_all
    optimizer.step()
    return sums


@torch.no_grad()
def validation_loss(
    network: nn.Module, objective: Objective, batches: Iterable[Batch], device: torch.device
) -> LossTerms:
    """Mean loss terms over the batches, in evaluation mode, weighted by their number of images."""
    network.eval()
    sums, images = None, 0
    for batch in batches:
        count = len(batch.images)
        values = torch.stack(objective(network, batch.to(device))) * count
        sums = values if sums is None else sums + values
        images += count
    return LossTerms(*(sums / images).tolist())


def learning_rate(iteration: int, base: float, drops: Sequence[int], factor: float, warmup: int) -> float:
    """Learning rate of the step that follows `iteration` finished ones."""
    rate = base * factor ** sum(iteration >= drop for drop in drops)
    return rate * min(1.0, (iteration + 1) / warmup) if warmup else rate


def random_state() -> dict[str, Tensor]:
    """State of PyTorch's generators, to be kept in a checkpoint."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


class Unreadable:
    """Counts the images that could not be read, and ends a run that meets too many.

    The share is judged once a whole epoch or 200 images have been seen, whichever is less.
    """

    LIMIT = 0.01
    JUDGED_FROM = 200

    def __init__(self, images: int):
        self.judged_from = min(images, self.JUDGED_FROM)
        self.seen = 0
        self.failed: dict[str, str] = {}  # path -> reason
        self.failures = 0

    def add(self, batch: Batch) -> list[str]:
        """Count a batch. Returns a line for each image that failed for the first time. RunError past the limit."""
        self.seen += len(batch.images) + len(batch.unreadable)
        self.failures += len(batch.unreadable)
        news = [f"skipped {path}: {reason}" for path, reason in batch.unreadable if path not in self.failed]
        self.failed.update((path, reason) for path, reason in batch.unreadable)
        if self.seen >= self.judged_from and self.failures > self.LIMIT * self.seen:
            paths = list(self.failed)
            raise RunError(
                f"{self.failures} of the {self.seen} images seen could not be read, more than {self.LIMIT:.0%}: "
                f"{'; '.join(f'{p}: {self.failed[p]}' for p in paths[:3])}{', ...' if len(paths) > 3 else ''}. "
                "Repair or remove them, or their entries in the annotation file"
            )
        return news


class Signals:
    """Keeps signals from interrupting a step half way.

    SIGINT and SIGTERM become a request, in `stop`, to end the run after the step that is under way; a second one acts
    at once, as it would have without this. PyTorch's report of a dead worker, which it raises wherever the process is,
    waits for the end of the step.
    """

    def __init__(self):
        self.stop: int | None = None
        self.previous = {s: signal.signal(s, self._request) for s in (signal.SIGINT, signal.SIGTERM)}
        self.holding = False
        self.late = None

    def _request(self, number: int, frame) -> None:
        self.stop = number
        self.restore()

    def watch_workers(self) -> None:
        """To be called once PyTorch has installed its handler, with the first workers."""
        report = signal.getsignal(signal.SIGCHLD)
        if callable(report):
            self.previous[signal.SIGCHLD] = report
            signal.signal(signal.SIGCHLD, self._child)

    def _child(self, number: int, frame) -> None:
        if self.holding:
            self.late = number, frame
        else:
            self.previous[signal.SIGCHLD](number, frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no signal raises an exception."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.late:
            late, self.late = self.late, None
            self.previous[signal.SIGCHLD](*late)

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
