"""The building blocks of the networks."""

import torch
from torch import nn

from models.layers import HEADS, Residual, conv_head


def test_heads_by_name():
    for name, kernel in (("conv3x3", 3), ("conv1x1", 1)):
        first, relu, last = HEADS[name](6, 4)
        assert (first.kernel_size, first.padding, last.kernel_size) == ((kernel,) * 2, (kernel // 2,) * 2, (1, 1))
        assert isinstance(relu, nn.ReLU) and last.bias is not None
        assert HEADS[name](6, 4)(torch.randn(2, 6, 5, 7)).shape == (2, 4, 5, 7)
    assert HEADS["conv3x3"] is conv_head


def test_shortcut_of_few_channels_in_channels_last():
    """oneDNN's gradient of a strided 1x1 convolution of so few channels writes past its buffer: this may crash."""
    torch.manual_seed(0)
    block, x = Residual(2, 2, stride=2), torch.randn(1, 2, 128, 128)
    block(x).sum().backward()
    expected = [p.grad.clone() for p in block.parameters()]
    block = block.to(memory_format=torch.channels_last)
    for _ in range(20):
        block.zero_grad()
        block(x.to(memory_format=torch.channels_last)).sum().backward()
    for gradient, parameter in zip(expected, block.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)
