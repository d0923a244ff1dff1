"""Options of the machine that runs a network: the config's `runtime:` section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt


@dataclass(frozen=True)
class RuntimeOptions:
    """Device, threads and communication, for every script."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs. auto: CUDA if it is available."""
    threads: Annotated[NonNegativeInt, Field(json_schema_extra={"most": 1024})] = 0
    """CPU threads of PyTorch. 0: what the process may use (CPU affinity and the container's CPU quota)."""
    tf32: bool = False
    """CUDA only: compute float32 convolutions and matrix products with TF32, which has 10 bits of mantissa."""
    collective_timeout: Annotated[PositiveInt, Field(json_schema_extra={"most": 7 * 24 * 3600})] = 600
    """Seconds without an answer or progress of another process after which the run ends."""
