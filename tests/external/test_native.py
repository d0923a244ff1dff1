"""What all operators refuse: tensors that are not strided, and forward-mode differentiation."""

import pytest
import torch
from torch.autograd import forward_ad

from external.corner_pool import pool_sum, top_pool
from external.focal_loss import focal_loss

MAP = torch.arange(32.0).reshape(1, 2, 4, 4) / 10
RAW_POOL, RAW_LOSS = torch.ops.corner_pool, torch.ops.focal_loss
OPERATORS = {
    "pool": top_pool,
    "pool_sum, first": lambda x: pool_sum(x, "top", MAP, "left"),
    "pool_sum, second": lambda x: pool_sum(MAP, "top", x, "left"),
    "focal loss, logits": lambda x: focal_loss(x, MAP),
    "focal loss, target": lambda x: focal_loss(MAP, x),
}
RAW = {
    "pool": lambda x: RAW_POOL.pool(x, 2, 0),
    "pool_backward, gradient": lambda x: RAW_POOL.pool_backward(x, MAP, 2, 0),
    "pool_backward, input": lambda x: RAW_POOL.pool_backward(MAP, x, 2, 0),
    "loss_backward": lambda x: RAW_LOSS.loss_backward(torch.tensor(1.0), torch.tensor(1), x, MAP, 2.0, 4.0, 1e-4),
}


@pytest.mark.parametrize("layout", ["to_mkldnn", "to_sparse"])
@pytest.mark.parametrize("operator", [*OPERATORS.values(), *RAW.values()], ids=[*OPERATORS, *(f"raw {k}" for k in RAW)])
def test_tensors_that_are_not_strided_are_refused(operator, layout):
    """pool_backward with an mkldnn gradient was a segmentation fault."""
    with pytest.raises(TypeError, match="expects strided tensors, got layout torch"):
        operator(getattr(MAP, layout)())


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_forward_mode_is_refused(operator):
    """PyTorch would take the tangent for 0, which is wrong."""
    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(operator, (MAP,), (MAP,))
    with forward_ad.dual_level():
        operator(MAP)  # no tangent
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            operator(forward_ad.make_dual(MAP, MAP))


def test_forward_mode_over_the_gradient_is_refused():
    x = MAP.clone().requires_grad_()
    y = top_pool(x)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.autograd.grad(y, x, forward_ad.make_dual(MAP, MAP), create_graph=True)
