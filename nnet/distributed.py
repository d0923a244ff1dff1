"""One training run over several processes, one per GPU, as torchrun starts them; alone, all of this does nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from db import DataError

# How long the other processes wait while the first validates or saves.
LONG = timedelta(days=1)


class Group:
    """The processes of this run. Usable as a context, which ends the communication."""

    def __init__(self, device: torch.device, timeout: float = 600):
        """Join the other processes, if torchrun has started several; `device` becomes the GPU of this one.

        timeout: seconds after which an exchange that another process does not take part in is an error.
        """
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.device = device
        if self.size > 1:
            if device.type == "cuda":
                local = int(os.environ["LOCAL_RANK"])
                here = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
                if here > torch.cuda.device_count():
                    raise DataError(
                        f"{here} processes for the {torch.cuda.device_count()} GPUs of this machine: start one per GPU "
                        "(torchrun --nproc_per_node), or use train.device=cpu"
                    )
                self.device = torch.device("cuda", local)
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", **meeting(timedelta(seconds=timeout)))
            self.quick = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))
            self.patient = dist.new_group(backend="gloo", timeout=LONG)

    @property
    def first(self) -> bool:
        """Whether this process logs, validates and saves."""
        return self.rank == 0

    def deal(self, batch: Sequence[int]) -> tuple[list[int], list[int]]:
        """The micro-batches of an update, and the numbers of those of this process.

        They are dealt in turn, the first of all to the first process. A single one is split evenly over the processes.
        """
        batch = list(batch)
        if len(batch) == 1 and self.size > 1:
            batch = [batch[0] // self.size + (rank < batch[0] % self.size) for rank in range(self.size)]
            if 0 in batch:
                raise DataError(f"train.batch {sum(batch)} has fewer images than there are processes ({self.size})")
        if self.size > len(batch):
            raise DataError(
                f"train.batch {batch} has fewer micro-batches than there are processes ({self.size}): "
                "start fewer, or split it into more"
            )
        return batch, list(range(self.rank, len(batch), self.size))

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network, averaging its gradients over the processes. Running statistics stay each process's own."""
        return DistributedDataParallel(network, broadcast_buffers=False) if self.size > 1 else network

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def counts(self, *values: int) -> list[int]:
        """Sums of numbers over the processes; waits for no GPU."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values)
        dist.all_reduce(total, group=self.quick)
        return total.tolist()

    def any(self, flag: bool | Tensor) -> bool:
        """Whether the flag is set in any process."""
        if self.size == 1:
            return bool(flag)
        return bool(self.sum(torch.as_tensor(flag, device=self.device).to(torch.int32)).item())

    def wait(self) -> None:
        """Wait for all processes, however long one of them takes."""
        if self.size > 1:
            dist.barrier(self.patient)

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the running statistics of the first, which are the run's."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def share(self, count: int) -> range:
        """The positions out of `count` that this process works on."""
        return range(self.rank, count, self.size)

    def gather(self, values: list) -> list:
        """The lists of all processes joined, on the first process; empty on the others."""
        if self.size == 1:
            return values
        parts = [None] * self.size if self.first else None
        dist.gather_object(values, parts, group=self.patient)
        return sum(parts, []) if self.first else []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def meeting(timeout: timedelta) -> dict[str, Any]:
    """How the processes find one another: arguments for init_process_group.

    After a restart torchrun offers the same store, where the dead processes' addresses still are, so each attempt has
    names of its own there. Over several machines the attempts are counted apart; there, torchrun is to be started with
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which makes a new store for each.
    """
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if not one_machine or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {"timeout": timeout}
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timeout)
    store = dist.PrefixStore(f"attempt_{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    return {
        "timeout": timeout,
        "store": store,
        "rank": int(os.environ["RANK"]),
        "world_size": int(os.environ["WORLD_SIZE"]),
    }
