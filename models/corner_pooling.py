"""Prediction modules: what stands between a backbone's features and the heads of one kind of keypoint."""

from torch import Tensor, nn
from torch.nn import functional as F

from external.corner_pool import pool, pool_sum
from models.layers import ConvBlock, conv1x1_bn


class CornerPool(nn.Module):
    """Sum of the directional max pools of two maps of one shape (B, C, H, W) (CornerNet, equations 6 and 7)."""

    def __init__(self, first: str, second: str):
        super().__init__()
        self.directions = first, second

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = self.directions
        return pool_sum(a, first, b, second)

    def extra_repr(self) -> str:
        return ", ".join(self.directions)


class NoPool(nn.Module):
    """Sum of two maps, unpooled: the ablation of corner pooling, with the same parameters (CornerNet, Table 1)."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class CenterPool(nn.Module):
    """Sum of two maps (B, C, H, W), one pooled over its whole columns and one over its whole rows.

    Center pooling (CenterNet, Section 3.3): two opposite directional pools in series are the maximum of the line.
    """

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return pool_sum(a, "column", b, "row")


class CascadeBranch(ConvBlock):
    """A branch that has looked inside the object before it is pooled along the boundary (CenterNet, Fig. 5b).

    (B, inputs, H, W) -> (B, outputs, H, W). `inside` is the direction of the pool that looks inside. The convolution
    that joins what it saw with the branch has neither bias nor BatchNorm, as released.
    """

    def __init__(self, inputs: int, outputs: int, inside: str):
        super().__init__(inputs, outputs, 3)
        self.inside = inside
        self.look = ConvBlock(inputs, outputs, 3)
        self.join = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(super().forward(x) + pool(self.look(x), self.inside))


class PredictionModule(nn.Module):
    """A residual block whose first convolution is two branches and a pool of both: (B, width, H, W) -> the same shape.

    Figure 7 of CornerNet up to the heads. `first` and `second` map features to pool_width channels, `pool` joins them.
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
    """The module of CornerNet, whose branches are one 3x3 convolution block each, with any pool."""
    return PredictionModule(width, pool_width, ConvBlock(width, pool_width, 3), ConvBlock(width, pool_width, 3), pool)


def cascade_module(width: int, pool_width: int, pool: CornerPool) -> PredictionModule:
    """Cascade corner pooling (CenterNet, Section 3.3): each branch first looks inside, along the other's direction."""
    first, second = pool.directions
    branches = CascadeBranch(width, pool_width, inside=second), CascadeBranch(width, pool_width, inside=first)
    return PredictionModule(width, pool_width, *branches, pool)
