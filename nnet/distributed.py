"""One training run over several processes, one per GPU, as torchrun starts them; alone, all of this does nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from db import DataError

# The other processes wait while the first validates or saves.
TIMEOUT = timedelta(hours=2)


class Group:
    """The processes of this run. Usable as a context, which ends the communication."""

    def __init__(self, device: torch.device):
        """Join the other processes, if torchrun has started several; `device` becomes the GPU of this one."""
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.device = device
        if self.size > 1:
            if device.type == "cuda":
                local = int(os.environ["LOCAL_RANK"])
                if local >= torch.cuda.device_count():
                    raise DataError(
                        f"process {local} of this machine has no GPU of its own: start at most "
                        f"{torch.cuda.device_count()} (torchrun --nproc_per_node), or use train.device=cpu"
                    )
                self.device = torch.device("cuda", local)
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)

    @property
    def first(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    def deal(self, batch: Sequence[int]) -> list[int]:
        """Numbers of the micro-batches of this process, dealt in turn: the first of all to the first process."""
        if self.size > len(batch):
            raise DataError(
                f"train.batch {list(batch)} has fewer micro-batches than there are processes ({self.size}): "
                "start fewer, or split it into more"
            )
        return list(range(self.rank, len(batch), self.size))

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network, averaging its gradients over the processes. Running statistics stay each process's own."""
        return DistributedDataParallel(network, broadcast_buffers=False) if self.size > 1 else network

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device)).item()) if self.size > 1 else flag

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
