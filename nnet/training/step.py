"""One step of training: micro-batches, targets, loss, gradients; and what has to be kept to go on after a stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from db import CocoIndex, DataError
from models.anchors import AnchorNetwork, AnchorTerms, anchor_loss
from models.corner_pooling import PredictionModule
from models.cornernet import KeypointNetwork
from models.hourglass import feature_size
from models.layers import Residual
from models.losses import LossTerms, LossWeights, stack_loss
from nnet import checkpoint
from nnet.distributed import Group
from nnet.precision import Precision, layout
from sample import CORNERS, Batch, Penalty, box_targets, normalise


def input_images(batch: Batch, channels_last: bool) -> Tensor:
    """What the network sees of a batch: (B, 3, H, W) float32."""
    return normalise(batch.images.contiguous(memory_format=layout(channels_last)), batch.colour)


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
        targets = box_targets(self.keypoints, *boxes, *shape, self.penalty, layout(self.channels_last))
        with self.autocast():
            outputs = network(images, every_stack=True)
        stacks = [stack_loss(maps, targets, batch.image_index, self.weights) for maps in outputs]
        return LossTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))


class AnchorObjective(NamedTuple):
    """The objective of a network with anchors; see Objective, whose other fields are about keypoints."""

    channels_last: bool = False
    autocast: Callable[[], AbstractContextManager] = nullcontext

    terms = AnchorTerms
    keypoints = ()

    def __call__(self, network: nn.Module, batch: Batch) -> AnchorTerms:
        """Loss of one micro-batch, on the device its tensors are on; each term is (stacks,)."""
        images = input_images(batch, self.channels_last)
        with self.autocast():
            outputs = network(images, every_stack=True)
        stacks = anchor_loss(outputs, batch.boxes, batch.labels, batch.image_index, tuple(images.shape[-2:]))
        return AnchorTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))


def make_objective(
    network: KeypointNetwork | AnchorNetwork, classes: int, penalty: Penalty, weights: LossWeights, *args
) -> Objective | AnchorObjective:
    """The objective of a network, by what it predicts. args: channels_last and autocast, as of Objective."""
    if isinstance(network, AnchorNetwork):
        return AnchorObjective(*args)
    return Objective(classes, penalty, weights, *args, keypoints=network.keypoints)


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
    for block in network.modules():
        if isinstance(block, kinds):
            block.forward = partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    options = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in these networks is random
    if not torch.compiler.is_compiling():  # it takes the running statistics out of what it computes again by itself
        options["context_fn"] = lambda: (nullcontext(), _unmoved_statistics(block))
    return recompute(forward, x, **options)


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

    def on(self, index: CocoIndex) -> str:
        """In words, with the images' paths."""
        paths = [index.path(int(index.image_ids.searchsorted(i))) for i in self.image_ids[:5]]
        more = ", ..." if len(self.image_ids) > 5 else ""
        images = f", on {', '.join(paths)}{more}" if paths else ""  # those of another process are named there
        return f"{', '.join(self.terms)} not finite{images}"


class StepOptions(NamedTuple):
    """How the steps are made: the options of the same names in a config's `train:`."""

    lr: float = 2.5e-4
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: bool = False
    fused_adam: bool = False
    sync_batch_norm: bool = False


def build_step(
    network: nn.Module,
    classes: int,
    penalty: Penalty,
    weights: LossWeights,
    options: StepOptions,
    in_all: int,
    group: Group,
) -> Step:
    """Put a network together with all that trains it, on the group's device.

    network: as built; it is changed in place. in_all: how many micro-batches an update has, over all processes.
    Raises DataError where the options do not go together.
    """
    device = group.device
    if options.sync_batch_norm:
        if device.type != "cuda":
            raise DataError("train.sync_batch_norm needs CUDA: PyTorch has it for GPUs alone")
        if in_all % group.size or options.checkpointing:
            raise DataError(
                "train.sync_batch_norm needs the same number of micro-batches on each process, and no "
                "train.checkpointing"
            )
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network.to(device)
    if options.channels_last:
        network.to(memory_format=torch.channels_last)
    if options.checkpointing:
        checkpoint_activations(network)
    # False would forbid PyTorch its choice, on CUDA a loop over tensors by one kernel.
    optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, fused=options.fused_adam or None)
    precision = Precision(options.precision, device)
    objective = make_objective(network, classes, penalty, weights, options.channels_last, precision.autocast)
    return Step(network, optimizer, objective, group, in_all, precision.scaler, options.compile)


class Step:
    """Makes the updates of a run.

    network: as built, on its device. in_all: how many micro-batches an update has, those of all processes together.
    compile: whether the steps, not what else uses the network, run it by torch.compile.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective | AnchorObjective,
        group: Group,
        in_all: int,
        scaler: torch.amp.GradScaler | None = None,
        compile: bool = False,
    ):
        self.network = network
        self.parallel = group.wrap(torch.compile(network) if compile else network)
        self.optimizer = optimizer
        self.objective = objective
        self.group = group
        self.in_all = in_all
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        parts = {"model": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part.state_dict() for name, part in parts.items()}

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """Go on from a state, whatever its options were; path: whose it is. Raises CheckpointError."""
        checkpoint.load_weights(self.network, state["model"], path)
        for parameters in state["optimizer"]["param_groups"]:
            parameters["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # in the layout that the parameters have now
            moments.update((k, torch.empty_like(parameter).copy_(v)) for k, v in moments.items() if v.ndim)
        if state["scaler"]:  # empty, unless the run was in float16
            self.scaler.load_state_dict(state["scaler"])

    def __call__(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor] | NotFinite:
        """One update from the mean gradient of all micro-batches, as if each had its own device.

        batches: those of this process, on its device. Each has its own BatchNorm statistics and normalises its own
        loss; the running statistics kept are those of the first.

        Returns the loss terms, (terms, stacks) in the order of the objective's, and the norm of the gradient, both of
        the whole update and the same on each process. Where the loss or the gradient of any process is not finite,
        nothing is changed, running statistics included, and NotFinite says what was wrong on this one.
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
            # In one exchange: whether any process has failed, and the mean of the loss.
            told = self.group.sum(torch.cat([(~good).to(shares).reshape(1), shares.sum(0).flatten()]))
            failed = told[0].item() > 0
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
        return told[1:].view(shares.shape[1:]) / self.in_all, norm

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
