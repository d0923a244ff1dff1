"""A network from uint8 images to boxes as one graph of standard operators, for any batch and image size."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from models.keypoints import KINDS, KeypointMaps
from models.standard_ops import LONGEST, StandardPools
from nnet.families.base import Family
from sample.colour import MEAN, STD

# Sizes that are traced. They differ from each other and from 1, so that no two dimensions are taken for one
EXAMPLE = (2, 3, 191, 127)


class Whole(nn.Module):
    """Images (B, 3, H, W) uint8, BGR -> boxes or maps by name.

    Args:
        decoder: maps of the last stack and images -> boxes by name. None: the maps are returned.
        mirror: predict for the mirror images too.
    """

    def __init__(self, network: nn.Module, decoder: nn.Module | None, mirror: bool):
        super().__init__()
        self.network, self.decoder, self.mirror = network, decoder, mirror
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = (images.float() / 255 - self.mean) / self.std  # as sample.colour.normalise
        if self.mirror:
            x = torch.stack([x, x.flip(3)], 1).flatten(0, 1)  # every image is followed by its mirror image
        maps = self.network(x.to(next(self.network.parameters()).dtype))[-1]
        if self.decoder is not None:
            return self.decoder(maps, images)
        return {
            f"{kind}_{name}": v.float() for kind, m in maps.items() for name, v in m._asdict().items() if v is not None
        }


def output_names(family: Family, decoder: nn.Module | None) -> list[str]:
    """Names of the graph's outputs, in order."""
    if decoder is not None:
        return list(decoder.outputs)
    with_embedding = {kind: KINDS[kind].grouped for kind in family.network.keypoints}
    return [
        f"{kind}_{name}"
        for kind, grouped in with_embedding.items()
        for name in KeypointMaps._fields
        if grouped or name != "embedding"
    ]


def trace(family: Family, decoder: nn.Module | None, mirror: bool, dtype: torch.dtype) -> ExportedProgram:
    """The graph of a family's network, with BatchNorm folded into the convolutions and parameters of type `dtype`.

    Tensors are contiguous: in channels_last, PyTorch's tracer compares strides, which it cannot do for all sizes.
    """
    network = copy.deepcopy(family.network).eval()
    fold_batch_norm(network)
    whole = Whole(network.to(dtype, memory_format=torch.contiguous_format), decoder, mirror).eval()
    largest = LONGEST * network.stride
    dynamic = {0: Dim("batch", min=1), 2: Dim("height", min=1, max=largest), 3: Dim("width", min=1, max=largest)}
    example = torch.zeros(EXAMPLE, dtype=torch.uint8)
    # Sizes of 1 are no special case. Otherwise the graph would refuse one image, and images with features of one cell.
    # What cannot be proved of all sizes (that transposed convolutions make maps that are large enough to be cropped) is
    # checked when the graph runs
    with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True), StandardPools():
        return torch.export.export(
            whole, (example,), dynamic_shapes=(dynamic,), prefer_deferred_runtime_asserts_over_guards=True
        )


class Uses(TorchFunctionMode):
    """Records how often each tensor is used to compute others, and which tensors are concatenated to another.

    Tensors are named by their id. They are kept alive, so that no two have the same.
    """

    def __init__(self):
        super().__init__()
        self.count: Counter[int] = Counter()
        self.joined: dict[int, list[Tensor]] = {}
        self.alive: list[Tensor] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.alive.append(result)
            self.count.update(id(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor))
            if function is torch.cat and args[1:] == (1,):
                self.joined[id(result)] = list(args[0])
        return result


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> None:
    """Fold every BatchNorm into the convolution before it, or into those whose results are concatenated before it.

    A convolution is left alone where its result is also used otherwise, or where it is called several times.
    """
    made: dict[int, nn.Conv2d] = {}  # the convolution that made a tensor
    pairs: list[tuple[nn.BatchNorm2d, Tensor]] = []  # with its input
    calls: Counter[nn.Module] = Counter()

    def see(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = module
        else:
            pairs.append((module, inputs[0]))

    modules = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(see) for module in modules]
    with Uses() as uses:
        network(torch.zeros(1, 3, 31, 31))
    for hook in hooks:
        hook.remove()
    names = {module: name for name, module in network.named_modules()}
    for norm, x in pairs:
        parts = uses.joined.get(id(x), [x])
        convolutions = [made.get(id(part)) for part in parts]
        once = all(uses.count[id(value)] == 1 for value in (x, *(part for part in parts if part is not x)))
        if once and None not in convolutions and all(calls[module] == 1 for module in (norm, *convolutions)):
            fold(norm, convolutions)
            network.set_submodule(names[norm], nn.Identity())


def fold(norm: nn.BatchNorm2d, convolutions: Sequence[nn.Conv2d]) -> None:
    """Change the weights of convolutions to those of the convolutions followed by a BatchNorm."""
    start = 0
    for conv in convolutions:
        own = slice(start, start + conv.out_channels)
        start += conv.out_channels
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight,
            conv.bias,
            norm.running_mean[own],
            norm.running_var[own],
            norm.eps,
            norm.weight[own],
            norm.bias[own],
        )
