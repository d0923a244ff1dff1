"""In which numbers, and in which memory layout, a network computes."""

from contextlib import nullcontext
from functools import partial

import torch


def layout(channels_last: bool) -> torch.memory_format:
    """That of images and features; same results up to rounding."""
    return torch.channels_last if channels_last else torch.contiguous_format


class Precision:
    """How a config's `precision` is carried out: the context the network runs in, and the scaling of the loss."""

    def __init__(self, name: str, device: torch.device):
        """name: "float32", "bfloat16" or "float16", the latter two by autocast; float16 scales the loss."""
        dtype = getattr(torch, name)
        mixed = dtype != torch.float32
        self.autocast = partial(torch.autocast, device.type, dtype) if mixed else nullcontext
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
