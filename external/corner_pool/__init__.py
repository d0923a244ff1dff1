"""Corner pooling's directional maxima (CornerNet, section 3.3, equations 1 and 2): `top_pool`, `bottom_pool`,
`left_pool`, `right_pool`.

Each takes (B, C, H, W) in float32, float64, float16 or bfloat16 and returns the same shape, dtype and memory format
(strides that are neither contiguous nor channels_last become contiguous). A NaN, once met by the scan, stays. The
gradient of a maximum goes to the element that reached it first in scan direction: of equal values, and of NaNs, the
first met has it all. Deterministic, differentiable twice.

Raises ValueError for another rank, TypeError for another dtype.

The work is done by the compiled operators `corner_pool::directional_max` and `directional_max_backward`. Where they are
not built, or not for the tensor's device, stock PyTorch does it: same values and gradients, slower, with one warning.
"""

from pathlib import Path

import torch
from torch import Tensor

from external.native import load_kernels


def _check(x: Tensor, dim: int) -> None:
    if x.dim() != 4:
        raise ValueError(f"corner pooling expects a 4-D tensor (B, C, H, W), got {x.dim()}-D of shape {list(x.shape)}")
    if dim not in (2, 3):
        raise ValueError(f"corner pooling scans dim 2 (height) or 3 (width), got dim {dim}")
    if x.dtype not in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        raise TypeError(f"corner pooling expects float32, float64, float16 or bfloat16, got {x.dtype}")


def _layout(x: Tensor) -> torch.memory_format:
    """Memory format of the output; the compiled operators decide alike."""
    channels_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


@torch.no_grad()
def _winners(x: Tensor, dim: int) -> Tensor:
    """Index along dim of the element that holds the maximum at each step of a forward scan, int64, shape of x."""
    # torch.cummax's own indices are of no use: they name the last of equal values
    best = x.cummax(dim).values
    before, here = (
        best.narrow(dim, 0, max(x.shape[dim] - 1, 0)),
        x.narrow(dim, min(1, x.shape[dim]), max(x.shape[dim] - 1, 0)),
    )
    takes_over = (here > before) | (here.isnan() & ~before.isnan())
    steps = torch.arange(1, x.shape[dim], device=x.device).view([-1 if d == dim else 1 for d in range(4)])
    first = torch.zeros_like(x.narrow(dim, 0, min(1, x.shape[dim])), dtype=torch.int64)
    return torch.cat([first, steps * takes_over], dim).cummax(dim).values


def _stock_directional_max(x: Tensor, dim: int, reverse: bool) -> Tensor:
    """corner_pool::directional_max in stock PyTorch."""
    _check(x, dim)
    if x.numel() == 0:
        return x.clone(memory_format=_layout(x))
    scanned = x.flip(dim) if reverse else x
    wide = scanned.float() if x.dtype in (torch.float16, torch.bfloat16) else scanned  # sums gradients in float32
    y = wide.gather(dim, _winners(scanned, dim)).to(x.dtype)
    return (y.flip(dim) if reverse else y).contiguous(memory_format=_layout(x))


def _register() -> None:
    """Define the operators: schemas, fake kernels (for torch.compile) and gradients."""
    name, backward_name = "corner_pool::directional_max", "corner_pool::directional_max_backward"
    tags = (torch.Tag.pt2_compliant_tag,)
    torch.library.define(name, "(Tensor x, int dim, bool reverse) -> Tensor", tags=tags)
    torch.library.define(backward_name, "(Tensor grad, Tensor x, int dim, bool reverse) -> Tensor", tags=tags)

    @torch.library.register_fake(name)
    def fake(x: Tensor, dim: int, reverse: bool) -> Tensor:
        _check(x, dim)
        return torch.empty_like(x, memory_format=_layout(x))

    @torch.library.register_fake(backward_name)
    def fake_backward(grad: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
        _check(x, dim)
        return torch.empty_like(x, memory_format=_layout(x))

    def setup(ctx, inputs, output) -> None:
        # the input is kept, not the winners (twice to four times as large): the backward pass scans again
        *_, x, ctx.dim, ctx.reverse = inputs
        ctx.save_for_backward(x)

    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        return torch.ops.corner_pool.directional_max_backward(grad, x, ctx.dim, ctx.reverse), None, None

    def double_backward(ctx, grad: Tensor):
        # the first gradient is a sum of upstream ones, so linear in them
        (x,) = ctx.saved_tensors
        if not ctx.reverse:
            return grad.gather(ctx.dim, _winners(x, ctx.dim)), None, None, None
        return grad.flip(ctx.dim).gather(ctx.dim, _winners(x.flip(ctx.dim), ctx.dim)).flip(ctx.dim), None, None, None

    torch.library.register_autograd(name, backward, setup_context=setup)
    torch.library.register_autograd(backward_name, double_backward, setup_context=setup)


_register()
_DEVICES = load_kernels(Path(__file__).parent, "corner pooling")


def _directional_max(x: Tensor, dim: int, reverse: bool) -> Tensor:
    if x.device.type in _DEVICES:
        _check(x, dim)
        return torch.ops.corner_pool.directional_max(x, dim, reverse)
    return _stock_directional_max(x, dim, reverse)


def top_pool(x: Tensor) -> Tensor:
    """y[i] = max(x[i], y[i + 1]) along the height: what each cell sees looking down from a top border. (B, C, H, W) ->
    same.
    """
    return _directional_max(x, 2, True)


def bottom_pool(x: Tensor) -> Tensor:
    """y[i] = max(x[i], y[i - 1]) along the height: what each cell sees looking up from a bottom border. (B, C, H, W) ->
    same.
    """
    return _directional_max(x, 2, False)


def left_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j + 1]) along the width: what each cell sees looking right from a left border. (B, C, H, W) ->
    same.
    """
    return _directional_max(x, 3, True)


def right_pool(x: Tensor) -> Tensor:
    """y[j] = max(x[j], y[j - 1]) along the width: what each cell sees looking left from a right border. (B, C, H, W) ->
    same.
    """
    return _directional_max(x, 3, False)
