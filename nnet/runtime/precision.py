"""The number format and the memory layout in which a network computes."""

from contextlib import nullcontext
from functools import partial

import torch


def layout(channels_last: bool) -> torch.memory_format:
    """The memory format of images and features. The results are equal up to rounding."""
    return torch.channels_last if channels_last else torch.contiguous_format


class Precision:
    """How a config's `precision` is carried out.

    Attributes:
        autocast: makes the context in which the network runs.
        scaler: scales the loss of float16 training; otherwise disabled.
    """

    def __init__(self, name: str, device: torch.device):
        """name: "float32", or "bfloat16" or "float16" by autocast."""
        dtype = getattr(torch, name)
        mixed = dtype != torch.float32
        self.autocast = partial(torch.autocast, device.type, dtype) if mixed else nullcontext
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
