"""Updates of small networks that the tests of training compare."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch

from nnet.runtime.distributed import Group
from nnet.training.options import TrainOptions
from nnet.training.step import UpdateStep
from sample.colour import ColourDraw
from sample.dataset import Batch
from tests.builders import make_batch, small_family

COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on the CPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CPU = torch.device("cpu")
# Options of small_family
NETWORK = {
    "backbone": {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 1, 2)},
    "pool_width": 4,
    "bn_init": "ones",
}
SHALLOW = NETWORK | {"backbone": {"stem_width": 8, "widths": (8, 12)}}


def coloured(images: int, objects: int, seed: int, first_id: int = 0, brightness: float = 1.0) -> Batch:
    """A batch of this brightness."""
    order, lighting = torch.arange(3).expand(images, 3), torch.zeros(images, 3)
    draw = ColourDraw(order, torch.full((images, 3), brightness), lighting)
    return make_batch(images, objects, seed, corners=36, colour=draw, first_id=first_id)


def batches(brightness: float = 1.0) -> list[Batch]:
    """Two micro-batches of different sizes. brightness: of the second."""
    return [coloured(3, 8, 1), coloured(2, 6, 2, first_id=10, brightness=brightness)]


def stepper(
    network: Mapping[str, Any] | None = None,
    micro_batches: int = 2,
    scale: float = 2.0**8,
    device: torch.device = CPU,
    backend: str = "",
    **options: Any,
) -> UpdateStep:
    """An update step, always from the same weights.

    Args:
        network: options of small_family. micro_batches: per update.
        scale: of the loss, at the start of float16. backend: torch.compile's, none by default.
        options: of training.
    """
    family = small_family(**(network or NETWORK))
    if backend:
        family.network.compile(backend=backend)
    step = UpdateStep(family, TrainOptions(**{"lr": 1e-3} | options), micro_batches, Group(device))
    if step.scaler.is_enabled():
        step.scaler.load_state_dict({**step.scaler.state_dict(), "scale": scale})
    return step


class Result(NamedTuple):
    """What an update has made."""

    terms: torch.Tensor  # (5, stacks)
    gradient: torch.Tensor  # of all weights as one vector, float64
    state: dict[str, torch.Tensor]  # weights and running statistics after it

    def statistics(self) -> dict[str, torch.Tensor]:
        """The running statistics."""
        return {name: value for name, value in self.state.items() if "running" in name}


def one_step(parts: Sequence[Batch] | None = None, **options: Any) -> Result:
    """The first update from these micro-batches, or from `batches`. options: of `stepper`."""
    parts = parts or batches()
    step = stepper(micro_batches=len(parts), **options)
    terms = step(parts).terms
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in step.network.parameters()])
    return Result(terms, gradient, copy.deepcopy(step.network.state_dict()))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative error of a vector."""
    return ((found - expected).norm() / expected.norm()).item()


def state_of(step: UpdateStep) -> list:
    """Weights, running statistics and the optimiser's state, copied."""
    return copy.deepcopy([step.network.state_dict(), step.optimizer.state_dict()["state"]])


def assert_untouched(step: UpdateStep, before: list) -> None:
    """Assert that weights, running statistics and the optimiser's state are those of `state_of`."""
    weights, moments = before
    assert all(torch.equal(value, weights[name]) for name, value in step.network.state_dict().items())
    found = step.optimizer.state_dict()["state"]
    assert found.keys() == moments.keys()
    assert all(torch.equal(value, moments[i][name]) for i, kept in found.items() for name, value in kept.items())
