"""Corner pooling (CornerNet, Section 3.4, equations 6 and 7) and center pooling (CenterNet, Section 3.3).

`top_pool`, `bottom_pool`, `left_pool` and `right_pool` are directional maximum pools. `pool` takes the direction as a
name. `pool_sum` pools two maps in two directions and adds the results in one pass over memory, as the prediction
modules need it. Both also accept the directions "column" and "row": the maximum over the whole column or row, which
equals two opposite directional pools in series.

All functions take maps (B, C, H, W) in float32, float64, float16 or bfloat16. The result has the same shape, dtype and
memory format; it is contiguous if the input is neither contiguous nor channels_last. From the first NaN in scan order
on, the result is NaN. +0 and -0 compare equal; the sign of a zero result is unspecified.

The gradient of a maximum goes to the element that attains it. Of several equal elements, or several NaNs, the first in
scan order receives the whole gradient. For "column" and "row" it is the last, as in bottom_pool(top_pool(x)) and
right_pool(left_pool(x)). Gradients are summed in scan order, in float32 for the 16-bit dtypes, so that the result is
deterministic. The functions are twice differentiable. Only the input maps are saved for the backward pass, which scans
them again.

Raises ValueError for an input that is not 4-D, an unknown direction or two maps of different shapes, TypeError for an
unsupported dtype, two maps of different dtypes or a tensor that is not strided, and NotImplementedError under
forward-mode differentiation.

The operators corner_pool::pool, pool_sum and pool_backward have compiled kernels. If these are not built, or not built
for the tensor's device, stock PyTorch computes the same values and gradients, more slowly. One warning says so. On CUDA
it adds up gradients in any order, so that they differ in rounding from run to run.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from external.native import Operator, check_tensor, define_operators, load_kernels

FORWARD, REVERSE, WHOLE = range(3)  # scan modes, equal to `enum class Scan` in csrc/scan.h


class Direction(NamedTuple):
    """The dimension over which a map is scanned (2: height, 3: width), and the scan mode."""

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
    """y[i] = max(x[i], y[i + 1]) along the height: the maximum of each cell and all cells below it.

    x: (B, C, H, W). The result has the same shape.
    """
    return pool(x, "top")


def bottom_pool(x: Tensor) -> Tensor:
    """y[i] = max(x[i], y[i - 1]) along the height: the maximum of each cell and all cells above it.

    x: (B, C, H, W). The result has the same shape.
    """
    return pool(x, "bottom")


def left_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j + 1]) along the width: the maximum of each cell and all cells to its right.

    x: (B, C, H, W). The result has the same shape.
    """
    return pool(x, "left")


def right_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j - 1]) along the width: the maximum of each cell and all cells to its left.

    x: (B, C, H, W). The result has the same shape.
    """
    return pool(x, "right")


def pool(x: Tensor, direction: str) -> Tensor:
    """The directional maximum by name, one of DIRECTIONS. (B, C, H, W) -> same."""
    _check(x)
    return torch.ops.corner_pool.pool(x, *_direction(direction))


def pool_sum(a: Tensor, a_direction: str, b: Tensor, b_direction: str) -> Tensor:
    """pool(a, a_direction) + pool(b, b_direction), fused.

    The two intermediate maps are not stored if one direction is over the height and the other over the width.

    a, b: (B, C, H, W) with the same shape, dtype and device. The result has these as well, and the memory format of the
    map that is scanned over the height.
    """
    _check(a)
    _check(b)
    if a.shape != b.shape:
        raise ValueError(f"pool_sum expects two maps of the same shape, got {list(a.shape)} and {list(b.shape)}")
    if a.dtype != b.dtype:
        raise TypeError(f"pool_sum expects two maps of the same dtype, got {a.dtype} and {b.dtype}")
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
    check_tensor(x, "corner pooling")


def _empty_like(x: Tensor) -> Tensor:
    """An uninitialised output for a map. The compiled kernels choose the same memory format (`layout_of`)."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def _winners(x: Tensor, dim: int, scan: int) -> Tensor:
    """The index along dim of the element that each output takes its value from: int64, with the shape of x.

    x.shape[dim] must be at least 1.
    """
    if scan != FORWARD:
        winners = x.shape[dim] - 1 - _winners(x.flip(dim), dim, FORWARD).flip(dim)
        return winners if scan == REVERSE else winners.narrow(dim, 0, 1).expand_as(x)
    # the indices returned by torch.cummax are not usable here: of equal values they name the last
    best = x.cummax(dim).values
    before, here = best.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
    takes_over = (here > before) | (here.isnan() & ~before.isnan())
    steps = torch.arange(1, x.shape[dim], device=x.device).view([-1 if d == dim else 1 for d in range(4)])
    first = torch.zeros_like(x.narrow(dim, 0, 1), dtype=torch.int64)
    return torch.cat([first, steps * takes_over], dim).cummax(dim).values


# The operators in stock PyTorch, for devices without compiled kernels.


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
    if scan == REVERSE:  # scatter_add_ must add the gradients in scan order
        winners, grad = winners.flip(dim), grad.flip(dim)
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    return grad_x.copy_(torch.zeros_like(x, dtype=wide).scatter_add_(dim, winners, grad.to(wide)))


def _pool_double_backward(ctx, grad: Tensor):
    # pool_backward is linear in the upstream gradient, and its adjoint is a gather
    (x,) = ctx.saved_tensors
    grad_grad = grad if x.numel() == 0 else grad.gather(ctx.dim, _winners(x, ctx.dim, ctx.scan))
    return grad_grad, None, None, None


def _register() -> tuple[str, ...]:
    """Define the operators with their gradients and fake kernels, and load the compiled kernels.

    Returns the device types with compiled kernels.
    """
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
