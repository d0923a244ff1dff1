"""Benchmarks of corner pooling, compared with a copy of the pooled tensor and with torch.cummax."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import Row, Setting, Work, limit_row, timed_row
from external.corner_pool import pool
from models.corner_pooling import PoolSum
from models.keypoints import CORNERS, KINDS

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SCANS = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}  # dim, reverse
LINES = {"column": ("top", "bottom"), "row": ("left", "right")}
# Tensors that are read and written. Backward: reads the input and the gradient, writes one. Corner: forward reads 2 and
# writes 1; then each of two backward passes reads 2 and writes 1. The gradient is read twice, because one kernel for
# both directions would have to hold back open sums along the height and along the width.
PASSES = {"pool_forward": 2, "pool_backward": 3, "corner_pooling": 9}
# Targets as multiples of the time of a copy, which reads and writes the tensor once. On CUDA: 70% of the bandwidth of a
# copy, for these passes.
TARGETS = {
    "cpu": {"pool_forward": 2.5, "pool_backward": 5.0, "corner_pooling": 10.0},
    "cuda": {name: passes / 2 / 0.7 for name, passes in PASSES.items()},
}


def cummax_pool(x: Tensor, direction: str) -> Tensor:
    """A directional pool by torch.cummax, without a custom operator. The gradients of ties go to other elements."""
    dim, reverse = SCANS[direction]
    return x.flip(dim).cummax(dim).values.flip(dim) if reverse else x.cummax(dim).values


def cummax_line_pool(x: Tensor, direction: str) -> Tensor:
    """As cummax_pool. The maximum of a whole "column" or "row" takes two opposite pools in series."""
    for part in LINES.get(direction, (direction,)):
        x = cummax_pool(x, part)
    return x


class CummaxPoolSum(PoolSum):
    """PoolSum by torch.cummax."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = self.directions
        return cummax_line_pool(a, first) + cummax_line_pool(b, second)


def draw(setting: Setting, layout: torch.memory_format) -> Tensor:
    """Features as after a ReLU, (4, 128, 128, 128), half of them ties at 0."""
    size = (1, 8, 12, 12) if setting.small else (4, 128, 128, 128)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, generator=generator).relu().to(setting.device, memory_format=layout)


def copying(x: Tensor) -> tuple[str, Callable]:
    """A copy of the tensor into memory that is already allocated, as the name and function of a baseline."""
    into = torch.empty_like(x)
    return "copy", lambda: into.copy_(x)


def pool_row(
    setting: Setting,
    name: str,
    case: str,
    ours: Work,
    base: tuple[str, Work],
    others: dict[str, Work],
    judged: bool = True,
) -> Row:
    """`timed_row` of a benchmark of PASSES. On CUDA its note is the bandwidth, relative to that of the copy."""
    target = TARGETS[setting.device.type][name] if judged else None
    row = timed_row(setting, name, case, ours, base, target, others, from_memory=True)
    share = PASSES[name] / 2 / row.ratio.median
    return row if setting.device.type == "cpu" else replace(row, note=f"{share:.0%} of the copy's bandwidth")


def pool_forward(setting: Setting) -> Iterator[Row]:
    for layout, memory_format in LAYOUTS.items():
        x = draw(setting, memory_format)
        for name in SCANS:
            others = {"torch.cummax": lambda x=x, name=name: cummax_pool(x, name)}
            ours = lambda x=x, name=name: pool(x, name)  # noqa: E731
            yield pool_row(setting, "pool_forward", f"{name}, {layout}", ours, copying(x), others)


def pool_backward(setting: Setting) -> Iterator[Row]:
    for layout, memory_format in LAYOUTS.items():
        x = draw(setting, memory_format).requires_grad_()
        gradient = torch.randn_like(x)
        for name in SCANS:
            ours, cummax = (backward(y, (x,), gradient) for y in (pool(x, name), cummax_pool(x, name)))
            base, others = copying(x.detach()), {"torch.cummax": cummax}
            yield pool_row(setting, "pool_backward", f"{name}, {layout}", ours, base, others)


def backward(y: Tensor, inputs: tuple[Tensor, ...], gradient: Tensor) -> Callable:
    """A function that runs the backward pass of y, any number of times."""
    return lambda: torch.autograd.grad(y, inputs, gradient, retain_graph=True)


def corner_pooling(setting: Setting) -> Iterator[Row]:
    """Forward and backward pass of the sum of two pools. Center pooling is also measured, without a target."""
    names = {" + ".join(KINDS[corner].pools): corner for corner in CORNERS} | {"center": "center"}
    pools = {name: (PoolSum(*KINDS[kind].pools), CummaxPoolSum(*KINDS[kind].pools)) for name, kind in names.items()}
    # Memory is measured by PyTorch's profiler, which slows down its process afterwards; so it has a separate process
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        for layout, memory_format in LAYOUTS.items():
            a, b, gradient = draw_maps(setting, memory_format)
            for name, (own, cummax) in pools.items():
                ours, others = both_ways(own, a, b, gradient), {"torch.cummax": both_ways(cummax, a, b, gradient)}
                case = f"{name}, {layout}"
                base = copying(a.detach())
                yield pool_row(setting, "corner_pooling", case, ours, base, others, judged=name != "center")
                extra = apart.submit(extra_memory, own, setting, memory_format).result() / 1e6
                limit, judged = 2 * a.numel() / 1e6, name != "center"
                against = "a byte per element and map"
                yield limit_row(setting, "corner_pooling", f"{case}: extra memory", "MB", extra, limit, against, judged)


def both_ways(pools: Callable, a: Tensor, b: Tensor, gradient: Tensor) -> Callable:
    """A function that runs forward and backward pass."""
    return lambda: torch.autograd.grad(pools(a, b), (a, b), gradient)


def draw_maps(setting: Setting, layout: torch.memory_format) -> tuple[Tensor, Tensor, Tensor]:
    """Two maps to pool, and an upstream gradient."""
    a = draw(setting, layout).requires_grad_()
    b = a.detach().flip(1).contiguous(memory_format=layout).requires_grad_()
    return a, b, torch.randn_like(a)


def extra_memory(pools: Callable, setting: Setting, layout: torch.memory_format) -> int:
    """Peak memory in bytes of either pass beyond its inputs and outputs, including the saved tensors."""
    a, b, gradient = draw_maps(setting, layout)
    made, whole = [], []
    forward = peak_bytes(a.device, lambda: made.append(pools(a, b))) - made[0].nbytes
    peak = peak_bytes(a.device, lambda: whole.append(torch.autograd.grad(pools(a, b), (a, b), gradient)))
    return max(forward, peak - made[0].nbytes - sum(g.nbytes for g in whole[0]), 0)


def peak_bytes(device: torch.device, work: Callable) -> int:
    """Peak memory in bytes of the tensors that the work allocates."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak
