"""One update of the network: micro-batches, loss, gradients, optimiser step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from db import AnnotationIndex, DataError
from nnet.families.base import Family
from nnet.runtime import checkpoint
from nnet.runtime.distributed import Group
from nnet.runtime.precision import Precision, layout
from nnet.runtime.transfer import Download
from nnet.training.average import WeightAverage
from nnet.training.options import TrainOptions
from sample.colour import normalise
from sample.dataset import Batch


class Objective(NamedTuple):
    """The loss of a family as a function of the network and a batch.

    autocast: makes the context in which the network runs. The loss is computed outside it, in float32.
    """

    family: Family
    memory_format: torch.memory_format = torch.contiguous_format
    autocast: Callable[[], AbstractContextManager] = nullcontext

    def __call__(self, network: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Loss terms (`family.Terms`) of one micro-batch on the device of the network; each term is (stacks,).

        network: the family's, perhaps wrapped for compilation or for several processes.
        """
        images = normalise(batch.images.contiguous(memory_format=self.memory_format), batch.colour)
        with self.autocast():
            outputs = network(images, every_stack=True)
        return self.family.loss(outputs, batch, self.memory_format)


class Update(NamedTuple):
    """What an update reports. It covers all micro-batches of all processes and is the same on each process.

    terms: (terms, stacks), mean loss terms in the order of `family.Terms`. norm: of the gradient.
    """

    terms: Tensor
    norm: Tensor


class NonFinite(Exception):
    """The loss or the gradient of an update is NaN or infinite. The update was not made.

    terms: the loss terms that are not finite; "gradient"; or, where the cause may be another process, "the loss or
    gradient of a process". image_ids: of all images in the affected micro-batches of this process.
    """

    def __init__(self, terms: Sequence[str], image_ids: Sequence[int]):
        super().__init__(f"{', '.join(terms)} not finite")
        self.terms = tuple(terms)
        self.image_ids = tuple(image_ids)

    def describe(self, index: AnnotationIndex) -> str:
        """What is not finite, with the paths of the images."""
        paths = [index.path(int(index.image_ids.searchsorted(i))) for i in self.image_ids[:5]]
        more = ", ..." if len(self.image_ids) > 5 else ""
        return f"{self}, on {', '.join(paths)}{more}" if paths else str(self)  # no image of this process is affected


class UpdateStep:
    """Makes the updates of a run: network, optimiser, loss scaling and the process group.

    Attributes:
        network: on its device. parallel: the same, wrapped for compilation and for several processes.
        average: of the network's weights, with train.ema.
        tested: the family to validate, with the averaged weights if there are any.
    """

    def __init__(self, family: Family, options: TrainOptions, micro_batches_per_update: int, group: Group):
        """micro_batches_per_update: of all processes together. Raises DataError."""
        network = family.network
        if options.sync_batch_norm:
            network = synchronised(network, options, micro_batches_per_update, group)
        network.to(group.device)
        if options.channels_last:
            network.to(memory_format=torch.channels_last)
        if options.checkpointing:
            checkpoint_activations(network, family.network.recomputed)
        precision = Precision(options.precision, group.device)
        self.network = network
        self.average = WeightAverage(family, options.ema) if options.ema else None
        self.tested = self.average.family if self.average else family
        self.parallel = group.wrap(torch.compile(network) if options.compile else network)
        # The fused kernel skips the step on the device if it is told so, and the host need not wait for the decision.
        self.fused = options.fused_adam or group.device.type == "cuda"
        # None lets PyTorch choose. False would also disable its multi-tensor implementation.
        decay = {"weight_decay": options.weight_decay, "decoupled_weight_decay": options.weight_decay > 0}
        self.optimizer = torch.optim.Adam(network.parameters(), lr=options.lr, fused=self.fused or None, **decay)
        self.scaler = precision.scaler
        self.objective = Objective(family, layout(options.channels_last), precision.autocast)
        self.group = group
        self.micro_batches_per_update = micro_batches_per_update

    def average_weights(self, iteration: int) -> None:
        """With train.ema, add the weights after `iteration` iterations to their average."""
        if self.average:
            self.average.add(self.network, iteration)

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        parts = {"model": self.network, "optimizer": self.optimizer, "scaler": self.scaler}
        parts |= {"average": self.tested.network} if self.average else {}
        return {name: part.state_dict() for name, part in parts.items()}

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """Continue from a state; its run may have had other options. path: its checkpoint. Raises CheckpointError."""
        checkpoint.load_weights(self.network, state["model"], path)
        if self.average:  # a run without one goes on with an average that begins at its weights
            checkpoint.load_weights(self.tested.network, state.get("average", state["model"]), path)
        with checkpoint.taking("optimizer", path):
            self._load_optimizer(state["optimizer"])
        if state["scaler"]:  # empty unless the run was in float16
            with checkpoint.taking("scaler", path):
                self.scaler.load_state_dict(state["scaler"])

    def _load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Load the moments of Adam. Its options are this run's. Raises ValueError and others."""
        for parameters in state["param_groups"]:
            parameters.update(self.optimizer.defaults)
        self.optimizer.load_state_dict(state)
        for parameter, moments in self.optimizer.state.items():
            if moments.keys() != {"step", "exp_avg", "exp_avg_sq"} or not 0 <= moments["step"].item() < 2**31:
                raise ValueError("expected step, exp_avg and exp_avg_sq of each parameter")
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape != parameter.shape or not moments[name].isfinite().all():
                    raise ValueError(f"{name} of a parameter is of another shape, or not finite")
                # in the memory format of the parameters
                moments[name] = torch.empty_like(parameter).copy_(moments[name])

    def set_learning_rate(self, lr: float) -> None:
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr

    def __call__(self, batches: Sequence[Batch]) -> Update:
        """One update from the mean gradient of all micro-batches.

        Each micro-batch has its own BatchNorm statistics, and its loss is divided by its own numbers of objects. Only
        the first one of each process updates the running statistics; those of rank 0 are saved and tested. So one GPU
        computes the same update as the released code on one GPU per micro-batch.

        Args:
            batches: micro-batches of this process, on its device.

        Raises:
            NonFinite: the loss or the gradient of any process is not finite. Nothing has changed then, running
                statistics included. A gradient that overflows in float16 does not raise: the scaler skips the
                optimiser step and lowers its scale.
        """
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        buffers, first = [buffer.clone() for buffer in self.network.buffers()], not self.optimizer.state
        try:
            terms = torch.stack([self.forward_backward(n, batch, len(batches)) for n, batch in enumerate(batches)])
            self.scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.network.parameters()])
            # Scaled gradients may overflow: the scaler then skips the step and lowers its scale.
            overflow = self.scaler.scale(torch.ones_like(norm)) > 1
            good = terms.isfinite().all() & (norm.isfinite() | overflow)
            # One all-reduce for both: whether any process has failed, and the mean of the loss terms.
            total = self.group.sum(torch.cat([(~good).to(terms).reshape(1), terms.sum(0).flatten()]))
        except BaseException:
            self._undo(buffers)
            raise
        failed = Download(total[0])
        if self.fused:
            self._step_unless((total[0] > 0).float())
        # The only host synchronisation of an update. The optimiser step is queued already, if it is fused.
        if failed.item() > 0:
            self._undo(buffers)
            if first:
                self.optimizer.state.clear()
            if self.scaler.is_enabled():  # the scaler must finish its step, but keep its scale
                self.scaler.update(self.scaler.get_scale())
            raise self._non_finite(terms, batches)
        if not self.fused:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        return Update(total[1:].view(terms.shape[1:]) / self.micro_batches_per_update, norm)

    def _step_unless(self, failed: Tensor) -> None:
        """Make the optimiser step on the device, unless `failed` (0 or 1) or the scaler's own flag is 1."""

        def set_flag(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            optimizer.found_inf = torch.maximum(failed, getattr(optimizer, "found_inf", failed))

        hook = self.optimizer.register_step_pre_hook(set_flag)
        self.scaler.step(self.optimizer)
        hook.remove()
        vars(self.optimizer).pop("found_inf", None)  # an enabled scaler has removed it

    def forward_backward(self, number: int, batch: Batch, count: int) -> Tensor:
        """Add the gradient of micro-batch `number` of `count`. Returns its loss terms (terms, stacks)."""
        with ExitStack() as stack:
            if number > 0:
                stack.enter_context(without_statistics_update(self.network))
            if self.group.size > 1 and number < count - 1:
                stack.enter_context(self.parallel.no_sync())  # gradients are reduced once, with the last micro-batch
            terms = self.objective(self.parallel, batch)
            # The all-reduce of the gradients divides by the number of processes.
            scale = self.group.size / self.micro_batches_per_update
            self.scaler.scale(terms.loss.mean() * scale).backward()
        return torch.stack(terms).detach()

    @torch.no_grad()
    def _undo(self, buffers: list[Tensor]) -> None:
        """Restore the running statistics and drop the gradients of an update that is not made."""
        for buffer, before in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(before)
        self.optimizer.zero_grad(set_to_none=True)

    def _non_finite(self, terms: Tensor, batches: Sequence[Batch]) -> NonFinite:
        """terms: (micro-batches, terms, stacks) of this process."""
        finite = terms.isfinite().all(-1).cpu()  # (micro-batches, terms)
        if finite.all() and self.group.size > 1:  # the loss of another process, or the mean gradient
            return NonFinite(("the loss or gradient of a process",), ())
        names = self.objective.family.Terms._fields
        bad = [name for name, good in zip(names, finite.all(0).tolist(), strict=True) if not good]
        chosen = [b for b, good in zip(batches, finite.all(1).tolist(), strict=True) if not good] or batches
        ids = [i for batch in chosen for i in batch.image_ids.tolist()]
        # The total is named only if none of its terms is non-finite.
        return NonFinite([name for name in bad if name != names[0]] or bad or ["gradient"], ids)


def synchronised(network: nn.Module, options: TrainOptions, micro_batches_per_update: int, group: Group) -> nn.Module:
    """The network with BatchNorm statistics over all processes. Raises DataError where that is impossible."""
    if group.device.type != "cuda":
        raise DataError("train.sync_batch_norm needs CUDA: PyTorch implements it for GPUs only")
    if micro_batches_per_update % group.size or options.checkpointing:
        raise DataError(
            "train.sync_batch_norm needs the same number of micro-batches on each process, and no train.checkpointing"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """The BatchNorm layers of a network."""
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def without_statistics_update(network: nn.Module) -> Iterator[None]:
    """Within the block, BatchNorm normalises by its batch as in training, but keeps its running statistics."""
    layers = [layer for layer in batch_norms(network) if layer.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def checkpoint_activations(network: nn.Module, kinds: tuple[type, ...]) -> None:
    """Make the modules of these classes recompute their activations in the backward pass instead of keeping them.

    The recomputation leaves BatchNorm's running statistics unchanged, so the result is the same.
    """
    for block in network.modules():
        if isinstance(block, kinds):
            block.__class__ = _checkpointing(type(block))


@cache
def _checkpointing(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass whose forward pass is recomputed.

    A `forward` in the block's own attributes would refer to the block. Such a cycle keeps parameters in memory until
    the garbage collector runs.
    """

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        options = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in these networks is random
        if not torch.compiler.is_compiling():  # torch.compile itself excludes running statistics from the recomputation
            options["context_fn"] = lambda: (nullcontext(), _with_zero_momentum(self))
        return recompute(partial(kind.forward, self), x, **options)

    return type(kind.__name__, (kind,), {"forward": forward})


@contextmanager
def _with_zero_momentum(network: nn.Module) -> Iterator[None]:
    """As `without_statistics_update`, but BatchNorm still receives its running statistics, with a momentum of 0.

    A recomputation must save as many tensors for the backward pass as the first computation, and the running statistics
    are among them.
    """
    layers = batch_norms(network)
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, tracked) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, tracked


def learning_rate(iteration: int, options: TrainOptions) -> float:
    """Learning rate of the next update, after `iteration` finished iterations."""
    if options.lr_schedule == "cosine":
        rate = options.lr * (1 + math.cos(math.pi * iteration / options.iterations)) / 2
    else:
        rate = options.lr * options.lr_factor ** sum(iteration >= drop for drop in options.lr_drops)
    return rate * min(1.0, (iteration + 1) / options.warmup) if options.warmup else rate
