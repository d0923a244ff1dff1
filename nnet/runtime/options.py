"""Options of the machine that runs a network: the config's `runtime:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, threads and communication, for every script."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs. auto: CUDA if it is available."""
    threads: NonNegativeInt = 0
    """CPU threads of PyTorch. 0: what the process may use (CPU affinity and the container's CPU quota)."""
    tf32: bool = False
    """CUDA only: compute float32 convolutions and matrix products with TF32, which has 10 bits of mantissa."""
    collective_timeout: PositiveInt = 600
    """Seconds without an answer or progress of another process after which the run ends."""
