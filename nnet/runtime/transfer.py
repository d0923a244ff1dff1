"""Copies between the host and a GPU that neither of them waits for."""

from __future__ import annotations

import torch
from torch import Tensor


class Upload:
    """Copies tensors to a device. On CUDA on a stream of its own: pinned memory is copied beside what the GPU computes.

    The stream that is current when a copy is asked for waits for it before it goes on.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensor: Tensor) -> Tensor:
        if self.stream is None:
            return tensor.to(self.device)
        with torch.cuda.stream(self.stream):
            copied = tensor.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self.stream)
        copied.record_stream(current)  # its memory is not used again before that stream is done with it
        return copied


class Download:
    """A copy of a tensor to the host. Asking for it waits for what the GPU was given before the copy, not after it."""

    def __init__(self, tensor: Tensor):
        self.copy = tensor.to("cpu", non_blocking=True) if tensor.is_cuda else tensor
        self.event = None
        if tensor.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record(torch.cuda.current_stream(tensor.device))

    def item(self) -> float:
        """The value of the only element."""
        if self.event:
            self.event.synchronize()
        return self.copy.item()
