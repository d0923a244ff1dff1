"""One training run over several processes, one per GPU, as torchrun starts them; alone, all of this does nothing."""

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
from nnet.faults import RunError


class Group:
    """The processes of this run. Usable as a context, which ends the communication."""

    def __init__(self, device: torch.device, timeout: float = 600):
        """Join the other processes, if torchrun has started several; `device` becomes the GPU of this one.

        timeout: seconds after which an exchange that another process does not take part in is an error.
        """
        self.timeout = timedelta(seconds=timeout)
        self.meetings, self.told = 0, 0.0
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
            # Of this program's own: a connection serves one call at a time, and those that wait in `meet` wait long.
            store = join(self.timeout)
            self.store = dist.PrefixStore("meetings", store.clone())
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=self.timeout)
            self.quick = dist.new_group(backend="gloo", timeout=self.timeout)

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
        if self.size == 1:
            return network
        # Of a 1x1 convolution in channels_last: the same numbers under other strides, of which each step would tell.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")  # its successor is not in torch 2.11
            return DistributedDataParallel(network, broadcast_buffers=False)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def counts(self, *values: int) -> list[int]:
        """Sums of numbers over the processes; waits for no GPU.

        Before every step, this is what notices a process that has died or hangs, by an error and within the timeout:
        NCCL's watchdog, which an exchange among GPUs is left to, ends the program instead.
        """
        if self.size == 1:
            return list(values)
        total = torch.tensor(values)
        dist.all_reduce(total, group=self.quick)
        return total.tolist()

    def working(self) -> None:
        """Tell the processes that wait for this one in `meet` that it makes progress. To be called now and then."""
        if self.size > 1 and time.monotonic() - self.told > min(1, self.timeout.total_seconds() / 4):
            self.told = time.monotonic()
            self.store.add(f"progress/{self.rank}", 1)

    def meet(self) -> None:
        """Wait for all processes, however long one takes that makes progress.

        Raises RunError, naming it, if one has made none for the time of the timeout (at most twice that).
        """
        if self.size == 1:
            return
        self.meetings += 1
        self.store.set(f"{self.meetings}/{self.rank}", "here")
        missing, before = list(range(self.size)), {}
        while True:
            try:
                return self.store.wait([f"{self.meetings}/{rank}" for rank in missing], self.timeout)
            except dist.DistStoreError:  # not all are here in time
                missing = [rank for rank in missing if not self.store.check([f"{self.meetings}/{rank}"])]
            progress = {rank: self.store.add(f"progress/{rank}", 0) for rank in missing}
            if stuck := [str(rank) for rank in missing if before.get(rank) == progress[rank]]:
                raise RunError(
                    f"another process of this run has ended or hangs: no progress of process {', '.join(stuck)} for "
                    f"{self.timeout.total_seconds():.0f} seconds (train.collective_timeout)"
                )
            before = progress

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the running statistics of the first, which are the run's."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, 0)

    def share(self, count: int) -> range:
        """The positions out of `count` that this process works on."""
        return range(self.rank, count, self.size)

    def gather(self, values: list) -> list:
        """The lists of all processes joined, on the first process; empty on the others. Waits as `meet` does."""
        if self.size == 1:
            return values
        self.meet()
        parts = [None] * self.size if self.first else None
        dist.gather_object(values, parts, group=self.quick)
        return sum(parts, []) if self.first else []

    def __enter__(self) -> Group:
        return self

    def __exit__(self, error: type | None, *_) -> None:
        if dist.is_initialized() and error is None:  # else the others may not come to it: the program ends as it is
            dist.destroy_process_group()


def join(timeout: timedelta) -> dist.Store:
    """What the processes find one another by.

    After a restart torchrun offers the same store, where the dead processes' addresses still are, so each attempt has
    names of its own there. Over several machines the attempts are counted apart; there, torchrun is to be started with
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, which makes a new store for each.
    """
    store, _, size = next(dist.rendezvous("env://", timeout=timeout))
    if os.environ.get("LOCAL_WORLD_SIZE") == str(size):
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    return store
