"""Prediction modules: from the features of a backbone to the heads of one kind of keypoint."""

from torch import Tensor, nn
from torch.nn import functional as F

from external.corner_pool import pool, pool_sum
from models.layers import ConvBlock, conv1x1_bn


class PoolSum(nn.Module):
    """Sum of two maps (B, C, H, W), each pooled along a direction of its own.

    Corner pooling with the directions of a corner (CornerNet, equations 6 and 7). Center pooling with "column" and
    "row", the maxima of whole lines, which are two opposite directional pools in series (CenterNet, Section 3.3).
    """

    def __init__(self, first: str, second: str):
        super().__init__()
        self.directions = first, second

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = self.directions
        return pool_sum(a, first, b, second)

    def extra_repr(self) -> str:
        return ", ".join(self.directions)


class NoPool(nn.Module):
    """Sum of two maps without pooling: the ablation with the same parameters (CornerNet, Table 1)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class CascadeBranch(ConvBlock):
    """A branch that looks inside the object before it is pooled along the boundary (CenterNet, Fig. 5b).

    (B, inputs, H, W) -> (B, outputs, H, W). `inside` is the direction of the pool that looks inside. The convolution
    that joins its result with the branch has neither bias nor BatchNorm, as released.
    """

    def __init__(self, inputs: int, outputs: int, inside: str):
        super().__init__(inputs, outputs, 3)
        self.inside = inside
        self.look = ConvBlock(inputs, outputs, 3)
        self.join = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(super().forward(x) + pool(self.look(x), self.inside))


class PredictionModule(nn.Module):
    """A residual block that starts with two branches and a pool of both: (B, width, H, W) -> the same shape.

    Figure 7 of CornerNet up to the heads. `first` and `second` map the features to pool_width channels; `pool` joins
    them.
    """

    def __init__(self, width: int, pool_width: int, first: nn.Module, second: nn.Module, pool: nn.Module):
        super().__init__()
        self.first = first
        self.second = second
        self.pool = pool
        self.conv = nn.Conv2d(pool_width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.skip = conv1x1_bn(width, width)
        self.out = ConvBlock(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(self.first(x), self.second(x))  # (B, pool_width, H, W)
        return self.out(F.relu(self.bn(self.conv(pooled)) + self.skip(x)))


def prediction_module(width: int, pool_width: int, pool: nn.Module) -> PredictionModule:
    """CornerNet's prediction module with any pool: each branch is one 3x3 convolution block."""
    return PredictionModule(width, pool_width, ConvBlock(width, pool_width, 3), ConvBlock(width, pool_width, 3), pool)


def cascade_module(width: int, pool_width: int, first: str, second: str) -> PredictionModule:
    """Cascade corner pooling (CenterNet, Section 3.3) of a corner with these pooling directions.

    Each branch first looks inside the object, along the direction of the other branch.
    """
    branches = CascadeBranch(width, pool_width, inside=second), CascadeBranch(width, pool_width, inside=first)
    return PredictionModule(width, pool_width, *branches, PoolSum(first, second))
