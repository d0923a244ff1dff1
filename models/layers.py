"""The building blocks of every network here: convolution block, residual block, prediction head."""

import importlib
from functools import partial
from types import ModuleType

from torch import Tensor, nn
from torch.nn import functional as F


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU: (B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride)).

    The papers' "convolution module" (CornerNet, footnote 1).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def conv1x1_bn(inputs: int, outputs: int) -> nn.Sequential:
    """1x1 convolution and BatchNorm: the projection of every shortcut."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """Residual block of two 3x3 convolutions: (B, inputs, H, W) -> (B, outputs, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else conv1x1_bn(inputs, outputs)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        # The shortcut is subsampled before its 1x1 convolution. On CPUs, the gradient of a strided 1x1 convolution with
        # fewer than 16 channels in channels_last writes past its buffer (github.com/uxlfoundation/oneDNN/issues/6035).
        return F.relu(y + self.skip(x[:, :, :: self.stride, :: self.stride]))


def conv_head(inputs: int, outputs: int, kernel: int = 3, width: int | None = None) -> nn.Sequential:
    """Conv-ReLU-Conv that predicts maps: (B, inputs, H, W) -> (B, outputs, H, W) (CornerNet, Fig. 7).

    width: channels between the two convolutions. None: `inputs`.
    """
    width = inputs if width is None else width
    return nn.Sequential(nn.Conv2d(inputs, width, kernel, padding=kernel // 2), nn.ReLU(), nn.Conv2d(width, outputs, 1))


# The heads that a config names: head(inputs, outputs). The last layer is a convolution with bias.
HEADS = {"conv3x3": conv_head, "conv1x1": partial(conv_head, kernel=1)}


def init_batch_norm(module: nn.Module, how: str) -> None:
    """Draw the weights of every BatchNorm of `module` from U(0, 1) ("uniform") or set them to 1 ("ones").

    The published networks were "randomly initialized under the default setting of PyTorch" (CornerNet, Section 4.1) at
    a time when that default was U(0, 1). It is 1 today. Modules whose class has `own_batch_norm_init` are left as they
    are: they set these weights themselves, and did so then.
    """
    own = {m for part in module.modules() if getattr(part, "own_batch_norm_init", False) for m in part.modules()}
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d) and m not in own:
            if how == "uniform":
                nn.init.uniform_(m.weight)
            elif how == "ones":
                nn.init.ones_(m.weight)
            else:
                raise ValueError(f"BatchNorm initialisation must be 'uniform' or 'ones', not {how!r}")


class MissingPackage(ImportError):
    """A package that a network needs cannot be imported. The message says what to install."""


def torchvision(name: str) -> ModuleType:
    """The module torchvision.`name`, imported on use: only some networks need it. Raises MissingPackage."""
    try:
        return importlib.import_module(f"torchvision.{name}")
    except (ImportError, RuntimeError, OSError) as error:  # RuntimeError: built for another PyTorch
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise MissingPackage(
            "this network needs torchvision (model.backbone.name resnet_fpn, model.detector anchors), which cannot be "
            f"imported ({reason}): pip install torchvision, of the build that goes with this PyTorch"
        ) from error
