"""The focal loss for heatmaps (CornerNet, Section 3.2, equation 1): `focal_loss`.

The forward and the backward pass each read the maps once. The backward pass recomputes the scores: the logits, the
target and the number of positives are saved for it. The number of positives stays on the tensors' device, so that there
is no host synchronisation.

The operators focal_loss::loss and loss_backward have compiled kernels. If these are not built, or not built for the
tensors' device, stock PyTorch computes the same values and gradients, more slowly. One warning says so.
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from external.native import Operator, check_tensor, define_operators, load_kernels

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0, eps: float = 1e-4) -> Tensor:
    """The focal loss (equation 1) of one batch of heatmaps, a scalar.

    The sum over all elements is divided by the number of positives: the elements whose target is 1. Without positives
    it is not divided, and consists of the negative terms only. Scores are clamped to [eps, 1 - eps] as in the released
    code, and elements with a clamped score get a gradient of 0. The result is deterministic and twice differentiable.
    Exponents other than the published ones are slower on the CPU.

    A negative target masks its element, which then adds nothing to the sum and gets a gradient of 0. A masked element
    counts as a positive if its target is -1. `masked` makes such a target.

    Args:
        logits: any shape, (B, classes, h, w) from a network; float32, float64, float16 or bfloat16. Their gradient has
            the same dtype, and the same memory format if that is contiguous or channels_last; else it is contiguous.
        target: the same shape, any dtype; fastest in float32 and in the logits' memory format. It gets no gradient.
        alpha, beta: exponents, finite and at least 0.
        eps: at least 1e-30 and less than 0.5.

    Returns a float64 scalar if logits or target are float64, else float32. All arithmetic is done in that dtype, except
    that the terms are summed in float64.

    Raises ValueError for different shapes or devices, exponents or eps out of range, or a target that requires a
    gradient; TypeError for logits of an unsupported dtype or tensors that are not strided; NotImplementedError under
    forward-mode differentiation.
    """
    if logits.dtype not in FLOATING:
        raise TypeError(f"focal loss expects logits in float32, float64, float16 or bfloat16, got {logits.dtype}")
    for x in (logits, target):
        check_tensor(x, "focal loss")
    if logits.shape != target.shape:
        raise ValueError(
            f"focal loss expects a target of the logits' shape, got {list(target.shape)} for {list(logits.shape)}"
        )
    if logits.device != target.device:
        raise ValueError(f"focal loss expects a target on the logits' device, got {target.device}, {logits.device}")
    if target.requires_grad:
        raise ValueError("focal loss has no gradient with respect to the target; detach it")
    if not 1e-30 <= eps < 0.5:  # below about 1e-38, eps is not a normal float32
        raise ValueError(f"focal loss expects eps from 1e-30 to below 0.5, got {eps}")
    if not (0 <= alpha < math.inf and 0 <= beta < math.inf):
        raise ValueError(f"focal loss expects finite exponents of at least 0, got alpha {alpha} and beta {beta}")
    if torch.float64 in (logits.dtype, target.dtype):
        logits = logits.double()
    # converted here, so that the forward and the backward pass share one copy
    target = target.to(_wide(logits)).contiguous(memory_format=_layout(logits))
    return torch.ops.focal_loss.loss(logits, target, alpha, beta, eps)[0]


def masked(target: Tensor, where: Tensor) -> Tensor:
    """A target (values 0 to 1) whose elements are masked where the bool tensor `where` is true; see focal_loss.

    Positives become -1 and other elements -2: exact in every dtype, so that no other element is counted as a positive.
    """
    return target.masked_fill(where, -2).masked_fill_(where & (target == 1), -1)


def _wide(logits: Tensor) -> torch.dtype:
    """The dtype in which the loss is computed."""
    return torch.promote_types(logits.dtype, torch.float32)


def _layout(x: Tensor) -> torch.memory_format:
    """The memory format of the gradient. The compiled kernels choose the same (`layout_of`)."""
    channels_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


# The operators in stock PyTorch, for devices without compiled kernels. csrc/terms.h derives the formulas.


class _Elements(NamedTuple):
    """The terms of the loss, per element. All have the shape of the logits; csrc/terms.h defines them."""

    sign: Tensor  # sign of the derivative: -1 at positives, 1 elsewhere
    clamped: Tensor  # bool: the score is clamped, so that the derivative is 0
    weight: Tensor  # w * u^alpha
    u: Tensor
    v: Tensor  # 1 - u
    softplus: Tensor  # -log(v)


def _elements(logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float) -> _Elements:
    positive, limit, exact = target.abs() == 1, math.log((1 - eps) / eps), logits.to(_wide(logits))
    y = torch.where(positive, -exact, exact).clamp(-limit, limit)
    sign, u = torch.where(positive, -1, 1), y.sigmoid()
    weight = (torch.where(positive, 1, (1 - target).pow(beta)) * u.pow(alpha)).masked_fill(target < 0, 0)
    return _Elements(sign, exact.abs() > limit, weight, u, (-y).sigmoid(), -F.logsigmoid(-y))


def _stock_loss(logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float) -> tuple[Tensor, Tensor]:
    x, positives = _elements(logits, target, alpha, beta, eps), (target.abs() == 1).sum()
    return (x.weight * x.softplus).sum() / positives.clamp(min=1), positives


def _stock_loss_backward(
    grad: Tensor, positives: Tensor, logits: Tensor, target: Tensor, alpha: float, beta: float, eps: float
) -> Tensor:
    x = _elements(logits, target, alpha, beta, eps)
    slope = torch.where(x.clamped, 0, grad / positives.clamp(min=1) * _slope(x, alpha))
    return slope.to(logits.dtype).contiguous(memory_format=_layout(logits))


def _slope(x: _Elements, alpha: float) -> Tensor:
    """The derivative of the undivided sum over all elements with respect to logits that are not clamped."""
    return x.sign * x.weight * (x.u + alpha * x.v * x.softplus)


def _loss_double_backward(ctx, grad: Tensor):
    upstream, positives, logits, target = ctx.saved_tensors
    alpha, *_ = ctx.terms
    x = _elements(logits, target, *ctx.terms)
    grad = torch.where(x.clamped, 0, grad.to(upstream.dtype)) / positives.clamp(min=1)
    curvature = x.weight * x.v * (x.u * (1 + 2 * alpha - alpha * x.softplus) + alpha**2 * x.v * x.softplus)
    return (grad * _slope(x, alpha)).sum(), None, (grad * upstream * curvature).to(logits.dtype), *[None] * 4


def _register() -> tuple[str, ...]:
    """Define the operators with their gradients and fake kernels, and load the compiled kernels.

    Returns the device types with compiled kernels.
    """

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
