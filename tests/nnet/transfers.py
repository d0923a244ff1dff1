"""Devices that this machine lacks: fake CUDA tensors, and a record of what crosses between the host and a device."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import sample.colour
import sample.targets
from sample.dataset import Batch

TYPES = {torch.float32: np.float32, torch.float64: np.float64, torch.int64: np.int64}
ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("external", "models", "sample", "nnet")
MASKED = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class Transfers(TorchDispatchMode):
    """Records what makes the host wait for a device, and copies to it. Each as (what, "file:function").

    what: "read": a value, or a copy to the host. "shape": the size of a result depends on values. "upload": a copy to
    the device that the host waits for, as it is not asynchronous. Values that the host reads are zeros: there are none.
    """

    def __init__(self, device: str):
        super().__init__()
        self.device = device
        self.seen: list[tuple[str, str]] = []
        self.order: list[str] = []  # names of all operators

    def on_device(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device

    def add(self, what: str) -> None:
        self.seen.append((what, place()))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        used = any(self.on_device(tensor) for tensor in tensors)
        self.order.append(func.__name__)
        if func is torch.ops.aten._local_scalar_dense.default and used:
            self.add("read")
            return False if args[0].dtype == torch.bool else 0 if not args[0].dtype.is_floating_point else 0.0
        if func is torch.ops.aten.record_stream.default:
            return None
        if used and func in MASKED:
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
                self.add("shape")
        elif used and {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags):
            self.add("shape")
        target = kwargs.get("device")
        if func is torch.ops.aten._to_copy.default and target is not None:
            if used and target.type == "cpu":
                self.add("read")
            elif not used and target.type == self.device and not kwargs.get("non_blocking"):
                self.add("upload")
        if func is torch.ops.aten.copy_.default and len({tensor.device for tensor in tensors}) > 1:
            self.add("read" if args[0].device.type == "cpu" else "upload")
        return func(*args, **kwargs)


def place() -> str:
    """The innermost function of the repository on the stack, as "file:function"."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if path.is_relative_to(ROOT) and path.relative_to(ROOT).parts[0] in FOLDERS:
            return f"{path.relative_to(ROOT).as_posix()}:{frame.name}"
    return ""


class NoStream:
    """Stands for a CUDA stream or event, and for the context in which a stream is current."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __getattr__(self, name: str):
        return lambda *_: 1.0

    def __enter__(self) -> NoStream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Transfers]:
    """Within the block, tensors have shapes, types and devices, among them CUDA, but no values. No GPU is needed.

    An operation on tensors of several devices is an error, as on CUDA. The backward pass does not run. Yields what
    records the traffic between host and GPU.
    """
    table = sample.targets._radius_table

    def fake_table(size, overlap, rule, device):
        with unset_fake_temporarily():
            radii, limit = table(size, overlap, rule, torch.device("cpu"))
        return mode.from_tensor(radii).to(device, non_blocking=True), limit  # cached: copied once per run

    monkeypatch.setattr(Tensor, "numpy", lambda self: np.zeros(tuple(self.shape), TYPES[self.dtype]))
    for name in ("Stream", "Event", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, NoStream)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_, **__: self)  # it cannot exchange fake parameters
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(sample.targets, "_radius_table", fake_table)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        try:
            with Transfers("cuda") as transfers:
                yield transfers
        finally:
            sample.colour._constants.cache_clear()


def on_meta(batch: Batch) -> Batch:
    """The batch on the `meta` device, where tensors have no values."""
    return batch.map(lambda tensor: tensor.to("meta"))
