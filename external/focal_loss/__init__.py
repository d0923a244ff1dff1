"""The focal loss of heatmaps (CornerNet, section 3.2, equation 1): `focal_loss`.

One pass over memory forward and one backward, which recomputes the scores: for it the logits and the target are kept,
and the number of positives, on their device; the host waits for nothing.

The work is done by the compiled kernels of the operators focal_loss::loss and loss_backward. Where they are not built,
or not for the tensors' device, stock PyTorch does it: same values and gradients, slower, with one warning.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from external.native import Operator, define_operators, load_kernels

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0, eps: float = 1e-4) -> Tensor:
    """Equation 1 on one batch of heatmaps: a scalar.

    Divided by the number of positives, the elements whose target is 1; without any it is the negative term alone,
    undivided. Scores are clamped to [eps, 1 - eps] as in the released code, which gives a score beyond them no
    gradient. Deterministic, differentiable twice. Exponents other than the published ones are slower on the CPU.

    Args:
        logits: any shape, (B, classes, h, w) from a network; float32, float64, float16 or bfloat16. The gradient has
            its dtype, and its memory format if that is contiguous or channels_last; else it is contiguous.
        target: the same shape, any dtype; quickest in float32 and in the logits' memory format. It gets no gradient.
        alpha, beta: finite, at least 0.
        eps: from 1e-30 to below 0.5.

    The result is float64 if one of the two is, else float32; all arithmetic is in that dtype, the sum in float64.

    Raises ValueError for different shapes or devices, exponents or eps out of range, or a target that requires a
    gradient; TypeError for logits of another dtype.
    """
    if logits.dtype not in FLOATING:
        raise TypeError(f"focal loss expects logits in float32, float64, float16 or bfloat16, got {logits.dtype}")
    if logits.shape != target.shape:
        raise ValueError(
            f"focal loss expects a target of the logits' shape, got {list(target.shape)} for {list(logits.shape)}"
        )
    if logits.device != target.device:
        raise ValueError(f"focal loss expects a target on the logits' device, got {target.device}, {logits.device}")
    if target.requires_grad:
        raise ValueError("focal loss has no gradient with respect to the target; detach it")
    if not 1e-30 <= eps < 0.5:  # from about 1e-38 on a score of float32 could not be told from 0
        raise ValueError(f"focal loss expects eps from 1e-30 to below 0.5, got {eps}")
    if not (0 <= alpha < math.inf and 0 <= beta < math.inf):
        raise ValueError(f"focal loss expects finite exponents of at least 0, got alpha {alpha} and beta {beta}")
    if torch.float64 in (logits.dtype, target.dtype):
        logits = logits.double()
    # brought into the logits' layout here, once for both passes
    target = target.to(_wide(logits)).contiguous(memory_format=_layout(logits))
    return torch.ops.focal_loss.loss(logits, target, alpha, beta, eps)[0]


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)


def _layout(x: Tensor) -> torch.memory_format:
    """The gradient's memory format; the compiled kernels decide alike."""
    channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


# The operators in stock PyTorch, by the formulas of csrc/terms.h.


class _Elements(NamedTuple):
    sign: Tensor  # of the slope
    clamped: Tensor  # where it is 0
    weight: Tensor  # penalty u^alpha
    u: Tensor
    v: Tensor  # 1 - u
    softplus: Tensor  # -log(v)


def _elements(logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float) -> _Elements:
    positive, limit, exact = target == 1, math.log((1 - eps) / eps), logits.to(_wide(logits))
    y = torch.where(positive, -exact, exact).clamp(-limit, limit)
    sign, u = torch.where(positive, -1, 1), y.sigmoid()
    weight = torch.where(positive, 1, (1 - target).pow(beta)) * u.pow(alpha)
    return _Elements(sign, exact.abs() > limit, weight, u, (-y).sigmoid(), -F.logsigmoid(-y))


def _stock_loss(logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float) -> tuple[Tensor, Tensor]:
    x, positives = _elements(logits, target, alpha, beta, eps), (target == 1).sum()
    return (x.weight * x.softplus).sum() / positives.clamp(min=1), positives


def _stock_loss_backward(
    grad: Tensor, positives: Tensor, logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float
) -> Tensor:
    x = _elements(logits, target, alpha, beta, eps)
    slope = torch.where(x.clamped, 0, grad / positives.clamp(min=1) * _slope(x, alpha))
    return slope.to(logits.dtype).contiguous(memory_format=_layout(logits))


def _slope(x: _Elements, alpha: float) -> Tensor:
    """Derivative of the loss, undivided, with respect to the logits where they are not clamped."""
    return x.sign * x.weight * (x.u + alpha * x.v * x.softplus)


def _loss_double_backward(ctx, grad: Tensor):
    upstream, positives, logits, target = ctx.saved_tensors
    alpha, *_ = ctx.terms
    x = _elements(logits, target, *ctx.terms)
    grad = torch.where(x.clamped, 0, grad.to(upstream.dtype)) / positives.clamp(min=1)
    curvature = x.weight * x.v * (x.u * (1 + 2 * alpha - alpha * x.softplus) + alpha**2 * x.v * x.softplus)
    return (grad * _slope(x, alpha)).sum(), None, (grad * upstream * curvature).to(logits.dtype), *[None] * 4


def _register() -> tuple[str, ...]:
    """Define the operators, with fake kernels (for torch.compile) and gradients; the devices with compiled kernels."""

    def setup_loss(ctx, inputs, output) -> None:
        logits, target, *ctx.terms = inputs
        _, positives = output
        ctx.mark_non_differentiable(positives)
        ctx.save_for_backward(positives, logits, target)

    def loss_gradient(ctx, grad: Tensor, _):
        return torch.ops.focal_loss.loss_backward(grad, *ctx.saved_tensors, *ctx.terms), *[None] * 4

    def setup_loss_backward(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:4])
        ctx.terms = inputs[4:]

    operators = [
        Operator(
            "loss(Tensor logits, Tensor target, float alpha, float beta, float eps) -> (Tensor, Tensor)",
            _stock_loss,
            lambda logits, target, *terms: (
                logits.new_empty((), dtype=_wide(logits)),
                logits.new_empty((), dtype=torch.int64),
            ),
            setup_loss,
            loss_gradient,
        ),
        Operator(
            "loss_backward(Tensor grad, Tensor positives, Tensor logits, Tensor target, float alpha, float beta, "
            "float eps) -> Tensor",
            _stock_loss_backward,
            lambda grad, positives, logits, *_: torch.empty_like(logits, memory_format=_layout(logits)),
            setup_loss_backward,
            _loss_double_backward,
        ),
    ]
    define_operators("focal_loss", operators)
    return load_kernels(Path(__file__).parent, "focal loss")


_DEVICES = _register()
