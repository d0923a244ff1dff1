"""Corner pooling (CornerNet, section 3.3, equations 1 and 2) and center pooling (CenterNet, section 3.3).

`top_pool`, `bottom_pool`, `left_pool`, `right_pool` are the directional maxima; `pool_sum` is the sum of two, of two
maps, in one pass over memory: what a prediction module needs. In it, directions can also be "column" and "row": the
maximum of the whole line, which is two opposite directional pools in series.

Each takes maps (B, C, H, W) in float32, float64, float16 or bfloat16 and returns the same shape, dtype and memory
format (strides that are neither contiguous nor channels_last become contiguous). A NaN, once met by the scan, stays.
Zeros of either sign are equal: which of the two comes out is left open.
The gradient of a maximum goes to the element that reached it first in scan direction: of equal values, and of NaNs, the
first met has it all; of a whole line, the last (as in bottom_pool(top_pool(x)), right_pool(left_pool(x))). Gradients
are added up in scan order, in float32 for the 16-bit types: deterministic. Differentiable twice. For the backward pass
the maps are kept, nothing else: it scans again.

Raises ValueError for another rank, direction or two different shapes, TypeError for another dtype.

The work is done by the compiled kernels of the operators corner_pool::pool, pool_sum and pool_backward. Where they are
not built, or not for the tensor's device, stock PyTorch does it: same values and gradients, slower, with one warning.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from external.native import Operator, define_operators, load_kernels

FORWARD, REVERSE, WHOLE = range(3)  # the scans; as in csrc/scan.h


class Direction(NamedTuple):
    """The dimension a map is scanned over, and how."""

    dim: int
    scan: int


DIRECTIONS = {
    "top": Direction(2, REVERSE),
    "bottom": Direction(2, FORWARD),
    "left": Direction(3, REVERSE),
    "right": Direction(3, FORWARD),
    "column": Direction(2, WHOLE),
    "row": Direction(3, WHOLE),
}


def top_pool(x: Tensor) -> Tensor:
    """y[i] = max(x[i], y[i + 1]) along the height: what each cell sees looking down from a top border. (B, C, H, W) ->
    same.
    """
    return pool(x, "top")


def bottom_pool(x: Tensor) -> Tensor:
    """y[i] = max(x[i], y[i - 1]) along the height: what each cell sees looking up from a bottom border. (B, C, H, W) ->
    same.
    """
    return pool(x, "bottom")


def left_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j + 1]) along the width: what each cell sees looking right from a left border. (B, C, H, W) ->
    same.
    """
    return pool(x, "left")


def right_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j - 1]) along the width: what each cell sees looking left from a right border. (B, C, H, W) ->
    same.
    """
    return pool(x, "right")


def pool(x: Tensor, direction: str) -> Tensor:
    """The directional maximum by name, one of DIRECTIONS. (B, C, H, W) -> same."""
    _check(x)
    return torch.ops.corner_pool.pool(x, *_direction(direction))


def pool_sum(a: Tensor, a_direction: str, b: Tensor, b_direction: str) -> Tensor:
    """pool(a, a_direction) + pool(b, b_direction), without the two maps in between where one of the directions is over
    the height and one over the width. Two (B, C, H, W) of one shape, dtype and device -> same, in the memory format of
    the map that is scanned over the height.
    """
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise ValueError(f"pool_sum expects maps of one shape, got {list(a.shape)} and {list(b.shape)}")
    if a.dtype != b.dtype:
        raise TypeError(f"pool_sum expects maps of one dtype, got {a.dtype} and {b.dtype}")
    first, second = _direction(a_direction), _direction(b_direction)
    if first.dim == second.dim:
        return pool(a, a_direction) + pool(b, b_direction)
    if first.dim == 3:
        a, first, b, second = b, second, a, first
    return torch.ops.corner_pool.pool_sum(a, first.scan, b, second.scan)


def _direction(name: str) -> Direction:
    if name not in DIRECTIONS:
        raise ValueError(f"unknown direction {name!r}, expected one of {', '.join(DIRECTIONS)}")
    return DIRECTIONS[name]


def _check(x: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"corner pooling expects a 4-D tensor (B, C, H, W), got {x.dim()}-D of shape {list(x.shape)}")
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"corner pooling expects float32, float64, float16 or bfloat16, got {x.dtype}")


def _empty_like(x: Tensor) -> Tensor:
    """The output for a map, not filled; the compiled kernels choose its memory format alike."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _winners(x: Tensor, dim: int, scan: int) -> Tensor:
    """Index along dim of the element whose value each output has, int64, shape of x (no empty lines)."""
    if scan != FORWARD:
        winners = x.shape[dim] - 1 - _winners(x.flip(dim), dim, FORWARD).flip(dim)
        return winners if scan == REVERSE else winners.narrow(dim, 0, 1).expand_as(x)
    # torch.cummax's own indices are of no use: they name the last of equal values
    best = x.cummax(dim).values
    before, here = best.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
    takes_over = (here > before) | (here.isnan() & ~before.isnan())
    steps = torch.arange(1, x.shape[dim], device=x.device).view([-1 if d == dim else 1 for d in range(4)])
    first = torch.zeros_like(x.narrow(dim, 0, 1), dtype=torch.int64)
    return torch.cat([first, steps * takes_over], dim).cummax(dim).values


# The operators in stock PyTorch.


def _stock_pool(x: Tensor, dim: int, scan: int) -> Tensor:
    y = _empty_like(x)
    return y if x.numel() == 0 else y.copy_(x.gather(dim, _winners(x, dim, scan)))


def _stock_pool_sum(a: Tensor, a_scan: int, b: Tensor, b_scan: int) -> Tensor:
    return _stock_pool(a, 2, a_scan).add_(_stock_pool(b, 3, b_scan))


def _stock_pool_backward(grad: Tensor, x: Tensor, dim: int, scan: int) -> Tensor:
    grad_x = _empty_like(x)
    if x.numel() == 0:
        return grad_x
    winners = _winners(x, dim, scan)
    if scan == REVERSE:  # so that gradients are added up in scan order
        winners, grad = winners.flip(dim), grad.flip(dim)
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return grad_x.copy_(torch.zeros_like(x, dtype=wide).scatter_add_(dim, winners, grad.to(wide)))


def _pool_double_backward(ctx, grad: Tensor):
    # the first gradient is a sum of upstream ones, so linear in them
    (x,) = ctx.saved_tensors
    grad_grad = grad if x.numel() == 0 else grad.gather(ctx.dim, _winners(x, ctx.dim, ctx.scan))
    return grad_grad, None, None, None


def _register() -> tuple[str, ...]:
    """Define the operators, with fake kernels (for torch.compile) and gradients; the devices with compiled kernels."""
    ops = torch.ops.corner_pool

    def setup_pool(ctx, inputs, output) -> None:
        *_, x, ctx.dim, ctx.scan = inputs
        ctx.save_for_backward(x)

    def pool_gradient(ctx, grad: Tensor):
        return ops.pool_backward(grad, *ctx.saved_tensors, ctx.dim, ctx.scan), None, None

    def setup_pool_sum(ctx, inputs, output) -> None:
        a, ctx.a_scan, b, ctx.b_scan = inputs
        ctx.save_for_backward(a, b)

    def pool_sum_gradient(ctx, grad: Tensor):
        a, b = ctx.saved_tensors
        needs_a, _, needs_b, _ = ctx.needs_input_grad
        return (
            ops.pool_backward(grad, a, 2, ctx.a_scan) if needs_a else None,
            None,
            ops.pool_backward(grad, b, 3, ctx.b_scan) if needs_b else None,
            None,
        )

    operators = [
        Operator(
            "pool(Tensor x, int dim, int scan) -> Tensor",
            _stock_pool,
            lambda x, dim, scan: _empty_like(x),
            setup_pool,
            pool_gradient,
        ),
        Operator(
            "pool_sum(Tensor a, int a_scan, Tensor b, int b_scan) -> Tensor",
            _stock_pool_sum,
            lambda a, a_scan, b, b_scan: _empty_like(a),
            setup_pool_sum,
            pool_sum_gradient,
        ),
        Operator(
            "pool_backward(Tensor grad, Tensor x, int dim, int scan) -> Tensor",
            _stock_pool_backward,
            lambda grad, x, dim, scan: _empty_like(x),
            setup_pool,
            _pool_double_backward,
        ),
    ]
    define_operators("corner_pool", operators)
    return load_kernels(Path(__file__).parent, "corner pooling")


_DEVICES = _register()
