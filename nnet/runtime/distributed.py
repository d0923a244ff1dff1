"""The process group of a run, one process per GPU, as torchrun starts it. With one process it does nothing."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from db import DataError
from nnet.runtime.errors import RunError


class Group:
    """The process group of this run. As a context manager, it ends the communication.

    Attributes:
        size, rank: number of processes, and the number of this one.
        device: of this process.
    """

    def __init__(self, device: torch.device, timeout: float = 600):
        """Join the process group, if torchrun has started several processes.

        Args:
            device: with several processes on CUDA, the GPU of this process is chosen by its local rank.
            timeout: seconds after which a collective operation without all processes is an error.

        Raises:
            DataError: there are more processes than GPUs on this machine.
        """
        self.timeout = timedelta(seconds=timeout)
        self.barriers, self.last_report = 0, 0.0
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
                        "(torchrun --nproc_per_node), or use runtime.device=cpu"
                    )
                self.device = torch.device("cuda", local)
                torch.cuda.set_device(self.device)
            # A connection of its own: a connection serves one call at a time, and `barrier` may wait long.
            store = join(self.timeout)
            self.store = dist.PrefixStore("barriers", store.clone())
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=self.timeout)
            self.cpu_group = dist.new_group(backend="gloo", timeout=self.timeout)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which logs, measures and saves."""
        return self.rank == 0

    def deal(self, batch: Sequence[int]) -> tuple[list[int], list[int]]:
        """The sizes of the micro-batches of an update, and the numbers of those that this process computes.

        They are dealt round-robin from rank 0. A single micro-batch is split evenly over the processes.

        Args:
            batch: train.batch.

        Raises:
            DataError: there are fewer micro-batches, or fewer images, than processes.
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
        """The network with gradients averaged over the processes. BatchNorm statistics are not synchronised."""
        if self.size == 1:
            return network
        # 1x1 convolutions in channels_last: the same memory under other strides, which every step would warn about.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor is not in torch 2.11
            return DistributedDataParallel(network, broadcast_buffers=False)

    def sum(self, values: Tensor) -> Tensor:
        """All-reduce: the sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def sum_counts(self, *values: int) -> list[int]:
        """Sums of integers over the processes, on the CPU. Waits for no GPU.

        Called before every step, it notices a process that has died or hangs: it raises an error within the timeout. A
        collective operation among GPUs is left to NCCL's watchdog, which ends the program instead.
        """
        if self.size == 1:
            return list(values)
        total = torch.tensor(values)
        dist.all_reduce(total, group=self.cpu_group)
        return total.tolist()

    def report_progress(self) -> None:
        """Tell the processes that wait in `barrier` that this one makes progress. Call it often in long work."""
        if self.size > 1 and time.monotonic() - self.last_report > min(1, self.timeout.total_seconds() / 4):
            self.last_report = time.monotonic()
            self.store.add(f"progress/{self.rank}", 1)

    def barrier(self) -> None:
        """Wait for all processes, for as long as those that are missing make progress.

        Raises:
            RunError: a process has made no progress for the time of the timeout (at most twice that). It is named.
        """
        if self.size == 1:
            return
        self.barriers += 1
        self.store.set(f"{self.barriers}/{self.rank}", "here")
        missing, before = list(range(self.size)), {}
        while True:
            try:
                return self.store.wait([f"{self.barriers}/{rank}" for rank in missing], self.timeout)
            except dist.DistStoreError:  # not all are here in time
                missing = [rank for rank in missing if not self.store.check([f"{self.barriers}/{rank}"])]
            progress = {rank: self.store.add(f"progress/{rank}", 0) for rank in missing}
            if stuck := [str(rank) for rank in missing if before.get(rank) == progress[rank]]:
                raise RunError(
                    f"another process of this run has ended or hangs: no progress of process {', '.join(stuck)} for "
                    f"{self.timeout.total_seconds():.0f} seconds (runtime.collective_timeout)"
                )
            before = progress

    def share_buffers(self, network: nn.Module) -> None:
        """Broadcast the running statistics of rank 0, which are the ones that are saved."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def share(self, count: int) -> range:
        """The positions in range(count) that this process works on."""
        return range(self.rank, count, self.size)

    def gather(self, values: list) -> list:
        """The lists of all processes joined, on rank 0. An empty list on the others. Waits as `barrier` does."""
        if self.size == 1:
            return values
        self.barrier()
        parts = [None] * self.size if self.first else None
        dist.gather_object(values, parts, group=self.cpu_group)
        return sum(parts, []) if self.first else []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, error: type | None, *_) -> None:
        if dist.is_initialized() and error is None:  # after an error, other processes may never get here
            dist.destroy_process_group()


def join(timeout: timedelta) -> dist.Store:
    """The store through which the processes find each other.

    After a restart, torchrun offers the same store, which still has the addresses of the dead processes. So each
    attempt uses a prefix of its own. Machines count their attempts separately: with several machines, start torchrun
    with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which makes a new store for each attempt.
    """
    store, _, size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return store
