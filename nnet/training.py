"""One step of training: micro-batches, targets, loss, gradients; and what has to be kept to go on after a stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.corner_pooling import PredictionModule
from models.hourglass import feature_size
from models.layers import Residual
from models.losses import LossTerms, LossWeights, stack_loss
from nnet.distributed import Group
from sample import CORNERS, Batch, Penalty, box_targets, normalise


class RunError(RuntimeError):
    """A run that has to stop: its message says why and what to do."""


def input_images(batch: Batch, channels_last: bool) -> Tensor:
    """What the network sees of a batch: (B, 3, H, W) float32."""
    images = normalise(batch.images, batch.colour)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


class Objective(NamedTuple):
    """What is minimised, apart from the network: how targets are drawn, how the terms are weighted, in which precision.

    autocast: makes the context in which the network runs; the loss is computed outside it, in float32.
    keypoints: the kinds that the network predicts.
    """

    classes: int
    penalty: Penalty
    weights: LossWeights
    channels_last: bool = False
    autocast: Callable[[], AbstractContextManager] = nullcontext
    keypoints: Sequence[str] = CORNERS

    terms = LossTerms  # what a call returns

    def __call__(self, network: nn.Module, batch: Batch) -> LossTerms:
        """Loss of one micro-batch, on the device its tensors are on; each term is (stacks,)."""
        images = input_images(batch, self.channels_last)
        size = tuple(images.shape[-2:])
        boxes = batch.boxes, batch.labels, batch.image_index
        shape = len(images), self.classes, size, feature_size(size)
        targets = box_targets(self.keypoints, *boxes, *shape, self.penalty)
        with self.autocast():
            outputs = network(images, every_stack=True)
        stacks = [stack_loss(maps, targets, batch.image_index, self.weights) for maps in outputs]
        return LossTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))


class Precision:
    """How a config's `train.precision` is carried out: the context the network runs in, and the scaling of the loss."""

    def __init__(self, name: str, device: torch.device):
        """name: "float32", "bfloat16" or "float16", the latter two by autocast; float16 scales the loss."""
        dtype = getattr(torch, name)
        mixed = dtype != torch.float32
        self.autocast = partial(torch.autocast, device.type, dtype) if mixed else nullcontext
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Within, BatchNorm normalises by its batch as in training, but leaves its running statistics alone."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def checkpoint_activations(network: nn.Module) -> None:
    """Let the blocks of the network compute their activations again in the backward pass instead of keeping them.

    The second time leaves BatchNorm's running statistics alone, so that the result is the same.
    """
    # A backbone of other blocks names their classes.
    kinds = Residual, PredictionModule, *(kind for m in network.modules() for kind in getattr(m, "blocks", ()))
    for block in list(network.modules()):
        if isinstance(block, kinds):
            block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # takes the running statistics out of what it computes again by itself
        return checkpoint(forward, x, use_reentrant=False)
    return checkpoint(forward, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _unmoved_statistics(block)))


@contextmanager
def _unmoved_statistics(network: nn.Module) -> Iterator[None]:
    """As `kept_statistics`, but BatchNorm is still given its running statistics, and moves them by nothing.

    What is computed again has to save as many tensors for the backward pass as the first time: these are among them.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked


class NotFinite(NamedTuple):
    """Why a step was not made: what is NaN or infinite in the loss or, where the loss is finite, in the gradients.

    image_ids: those of the micro-batches concerned, on this process.
    """

    terms: tuple[str, ...]
    image_ids: tuple[int, ...]


class Step:
    """Makes the updates of a run.

    network: as built, on its device. in_all: how many micro-batches an update has, those of all processes together.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        group: Group,
        in_all: int,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.network = network
        self.parallel = group.wrap(network)
        self.optimizer = optimizer
        self.objective = objective
        self.group = group
        self.in_all = in_all
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor] | NotFinite:
        """One update from the mean gradient of all micro-batches, as if each had its own device.

        batches: those of this process, on its device. Each has its own BatchNorm statistics and normalises its own
        loss; the running statistics kept are those of the first.

        Returns this process's share of the mean loss terms, (terms, stacks) in the order of the objective's, and the
        norm of the gradient. Where the loss or the gradient of any process is not finite, nothing is changed, running
        statistics included, and NotFinite says what was wrong on this one.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        try:
            shares = torch.stack([self._gradient(n, batch, len(batches)) for n, batch in enumerate(batches)])
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters()])
            # Scaled gradients may overflow: the scaler makes no step then, and scales less from there on.
            overflow = self.scaler.is_enabled() and self.scaler.get_scale() > 1
            good = shares.isfinite().all() & (norm.isfinite() | overflow)
            failed = self.group.any(~good)
        except BaseException:
            self._restore(buffers)
            raise
        if failed:
            self._restore(buffers)
            if self.scaler.is_enabled():  # closes the step, with the scale as it is: it has not made the loss NaN
                self.scaler.update(self.scaler.get_scale())
            return self._not_finite(shares, batches, self.group.size > 1)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return shares.sum(0) / self.in_all, norm

    def _gradient(self, number: int, batch: Batch, count: int) -> Tensor:
        """Add the gradient of micro-batch `number` of the `count` of this process; its loss terms, (terms, stacks)."""
        with ExitStack() as stack:
            if number > 0:
                stack.enter_context(kept_statistics(self.network))
            if self.group.size > 1 and number < count - 1:
                stack.enter_context(self.parallel.no_sync())  # gradients are exchanged once, with the last
            terms = self.objective(self.parallel, batch)
            # The exchange divides by the number of processes.
            self.scaler.scale(terms.total.mean() * (self.group.size / self.in_all)).backward()
        return torch.stack(terms).detach()

    @torch.no_grad()
    def _restore(self, buffers: list[Tensor]) -> None:
        """Undo what a step that is not made has done: running statistics, gradients."""
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)

    def _not_finite(self, shares: Tensor, batches: Sequence[Batch], several: bool) -> NotFinite:
        finite = shares.isfinite().all(-1).cpu()  # (micro-batches, terms)
        if finite.all() and several:  # the gradient is the mean over all: whose is the fault cannot be told here
            return NotFinite(("the loss or gradient of a process",), ())
        names = self.objective.terms._fields
        terms = tuple(name for name, good in zip(names, finite.all(0).tolist(), strict=True) if not good)
        chosen = [b for b, good in zip(batches, finite.all(1).tolist(), strict=True) if not good] or batches
        ids = tuple(i for batch in chosen for i in batch.image_ids.tolist())
        return NotFinite(tuple(t for t in terms if t != "total") or terms or ("gradient",), ids)


@torch.no_grad()
def validation_loss(
    network: nn.Module, objective: Objective, batches: Iterable[Batch], device: torch.device
) -> tuple | None:
    """Mean loss terms (as objective.terms) over the batches, in evaluation mode, weighted by their number of images.

    None without any.
    """
    network.eval()
    sums, images = 0, 0
    for batch in batches:
        count = len(batch.images)
        sums = sums + torch.stack(objective(network, batch.to(device))).mean(1) * count
        images += count
    return objective.terms(*(sums / images).tolist()) if images else None


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


class UnreadableCount:
    """Counts the images that could not be read, and ends a run that meets too many.

    The share is judged once a whole epoch or 200 images have been seen, whichever is less.
    """

    LIMIT = 0.01
    JUDGED_FROM = 200

    def __init__(self, images: int):
        self.judged_from = min(images, self.JUDGED_FROM)
        self.seen = 0
        self.failures = 0
        self.failed: dict[str, str] = {}  # path -> reason

    def add(self, batch: Batch) -> list[str]:
        """Count a batch. Returns a line for each image that failed for the first time."""
        self.seen += len(batch.images) + len(batch.unreadable)
        self.failures += len(batch.unreadable)
        news = [f"skipped {path}: {reason}" for path, reason in batch.unreadable if path not in self.failed]
        self.failed.update((path, reason) for path, reason in batch.unreadable)
        return news

    def judge(self, seen: int, failures: int) -> None:
        """Raise RunError if too many failed; the counts are those of all processes."""
        if seen >= self.judged_from and failures > self.LIMIT * seen:
            some = "; ".join(f"{path}: {reason}" for path, reason in list(self.failed.items())[:3])
            raise RunError(
                f"{failures} of the {seen} images seen could not be read, more than {self.LIMIT:.0%}"
                f"{f' ({some})' if some else ''}: repair or remove them, or their entries in the annotation file"
            )


class Signals:
    """Keeps signals from interrupting a step half way.

    SIGINT, SIGTERM and SIGUSR1 (with which clusters warn before they preempt) become a request, in `stop`, to end the
    run after the step that is under way; another acts at once, as it would have without this, unless it comes in the
    seconds after: torchrun passes on what a cluster has sent to all processes. PyTorch's report of a dead worker, which
    it raises wherever the process is, waits for the end of the step.
    """

    # SIGUSR1 and SIGCHLD are unknown to some systems.
    STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    CHILD = getattr(signal, "SIGCHLD", None)
    SAME = 3.0  # seconds in which signals are taken for one

    def __init__(self):
        self.stop: int | None = None
        self.previous = {s: signal.signal(s, self._request) for s in self.STOP}
        self.holding = False
        self.late = None

    def _request(self, number: int, frame) -> None:
        if self.stop is None:
            self.stop, self.asked = number, time.monotonic()
        elif time.monotonic() - self.asked > self.SAME:
            for s in self.STOP:
                signal.signal(s, self.previous[s])
            signal.raise_signal(number)

    def watch_workers(self) -> None:
        """To be called once PyTorch has installed its handler, with the first workers."""
        report = signal.getsignal(self.CHILD) if self.CHILD else None
        if callable(report):
            self.previous[self.CHILD] = report
            signal.signal(self.CHILD, self._child)

    def _child(self, number: int, frame) -> None:
        if self.holding:
            self.late = number, frame
        else:
            self.previous[number](number, frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no signal raises an exception."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.late:
            (number, frame), self.late = self.late, None
            self.previous[number](number, frame)

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
