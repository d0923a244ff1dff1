"""What a network costs: parameters, floating-point operations and activation memory, computed on meta tensors.

Nothing is allocated and nothing is computed, so this takes seconds for any network on any machine.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class Part(NamedTuple):
    """A part of a network."""

    name: str  # as in named_modules
    parameters: int
    testing: float  # FLOP of the forward pass in testing, per image
    training: float  # FLOP of the forward pass in training, per image


class Cost(NamedTuple):
    """The cost of a network at a size of images. Two FLOP are one multiply-add. Memory is in bytes, in float32.

    Memory is that of activations: tensors that a pass allocates. Parameters, their gradients, the images and the
    workspace of convolution algorithms are not included.
    """

    parts: list[Part]
    parameters: int
    testing: float  # FLOP of the forward pass in testing, per image
    training: float  # FLOP of the forward pass in training, which predicts from every stack, per image
    step: float  # FLOP of forward and backward pass, per image
    testing_memory: int  # peak of the forward pass in testing with one image
    training_memory: int  # peak of the forward and backward pass with `images` images
    images: int


def measure(network: nn.Module, size: tuple[int, int], images: int = 1, depth: int = 2) -> Cost:
    """The cost of a network.

    Args:
        network: maps images (B, 3, H, W) to predictions, see KeypointNetwork.forward. It is moved to the meta device,
            which drops its weights, and left in training mode.
        size: (height, width) of the images.
        images: number of images of the training pass.
        depth: parts are the modules at this depth of the network, 1 for its children.
    """
    network.to("meta")
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter)  # allocated before the pass, so that they are not counted
    testing, testing_memory, _ = run(network.eval(), size, 1, step=False)
    training, training_memory, step = run(network.train(), size, images, step=True)
    parts = [
        Part(
            name,
            sum(p.numel() for p in module.parameters()),
            flops_of(name, module, testing),
            flops_of(name, module, training) / images,
        )
        for name, module in modules_at(network, depth)
    ]
    total = sum(p.numel() for p in network.parameters())
    whole = flops_of("", network, testing), flops_of("", network, training) / images
    return Cost(parts, total, *whole, step / images, testing_memory, training_memory, images)


def run(network: nn.Module, size: tuple[int, int], images: int, step: bool) -> tuple[dict[str, int], int, int]:
    """Run the network on meta images: FLOP of the forward pass by name of module, peak memory in bytes, FLOP in all.

    step: also run the backward pass.
    """
    x = torch.empty(images, 3, *size, device="meta")
    with FlopCounterMode(display=False) as counter, MemoryCounter() as memory, torch.set_grad_enabled(step):
        outputs = [leaf for leaf in tree_leaves(network(x)) if isinstance(leaf, Tensor)]
        root = type(network).__name__
        counts = {
            name.removeprefix(root).removeprefix("."): sum(operators.values())
            for name, operators in counter.get_flop_counts().items()
            if name != "Global"
        }
        if step:
            torch.autograd.backward(outputs, [torch.empty_like(output) for output in outputs])
    return counts, memory.peak, counter.get_total_flops()


def flops_of(name: str, module: nn.Module, counts: Mapping[str, int]) -> int:
    """FLOP of a module with all that it contains. counts: of the modules that were called, by name.

    A ModuleList is not called itself: it has the sum of its children.
    """
    if name in counts:
        return counts[name]
    return sum(flops_of(f"{name}.{key}" if name else key, child, counts) for key, child in module.named_children())


def modules_at(module: nn.Module, depth: int, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules at this depth, and those above it that contain no others."""
    children = [(key, child) for key, child in module.named_children() if not is_empty_list(child)]
    if not depth or (name and not children):
        yield name, module
    else:
        for key, child in children:
            yield from modules_at(child, depth - 1, f"{name}.{key}" if name else key)


def is_empty_list(module: nn.Module) -> bool:
    """Whether the module is a list without modules, as of a part that the config leaves out."""
    return isinstance(module, nn.ModuleList) and len(module) == 0


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of the storages that are allocated in this context.

    Attributes:
        live: bytes of the storages that exist.
        peak: the largest value of `live` so far.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        before = {id(s) for s in storages((args, kwargs))}
        result = function(*args, **(kwargs or {}))
        for storage in storages(result):
            if id(storage) not in before and storage not in self.known:  # else a view, or changed in place
                self.known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def free(self, size: int) -> None:
        self.live -= size


def storages(values: Any) -> list[torch.UntypedStorage]:
    """The storages of all tensors in nested values."""
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
