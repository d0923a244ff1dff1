"""Several processes compute the update that one computes."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp

from db import DataError
from models.cornernet import cornernet
from models.losses import LossWeights
from nnet.distributed import Group
from nnet.training import Objective, train_step
from sample import Batch, Penalty

BATCH = [2, 3, 1]
STEPS = 3


def micro_batch(step, number):
    """Images and boxes of a micro-batch, drawn from its place in the run."""
    g = torch.Generator().manual_seed(10 * step + number)
    size, objects = BATCH[number], 4 + number
    corner = torch.rand(objects, 2, generator=g, dtype=torch.float64) * 20
    boxes = torch.cat([corner, corner + 8 + 30 * torch.rand(objects, 2, generator=g, dtype=torch.float64)], 1)
    images = torch.randint(0, 256, (size, 3, 63, 63), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 3, (objects,), generator=g)
    image_index = torch.randint(0, size, (objects,), generator=g).sort().values
    return Batch(images, boxes, labels, image_index, None, torch.arange(size), [])


class InDouble(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = cornernet(3, 2, 4, [4, 6], [1, 1], 2).double()

    def forward(self, images, every_stack):
        return self.network(images.double(), every_stack)


def run(rank, size, port, path):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with Group(torch.device("cpu")) as group:
        network = InDouble()
        parallel = group.wrap(network)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        objective, losses = Objective(3, Penalty(), LossWeights()), []
        for step in range(STEPS):
            batches = [micro_batch(step, number) for number in group.deal(BATCH)]
            values = train_step(parallel, optimizer, objective, batches, len(BATCH), group.size)
            losses.append(group.sum(values))
        assert group.any(rank == size - 1) and not group.any(False)
        if group.first:
            torch.save({"state": network.state_dict(), "losses": torch.stack(losses)}, path)


@pytest.mark.parametrize("size", [2, 3])
def test_processes_compute_the_update_of_one(tmp_path, size):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(run, (size, port, tmp_path / "many.pt"), nprocs=size, start_method="fork")
    environment = dict(os.environ)
    try:
        run(0, 1, port, tmp_path / "one.pt")
    finally:
        os.environ.clear()
        os.environ.update(environment)
    one, many = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "many.pt")
    torch.testing.assert_close(many["losses"], one["losses"], rtol=1e-6, atol=1e-9)
    for name, value in one["state"].items():
        torch.testing.assert_close(many["state"][name], value, rtol=0, atol=1e-6, msg=name)


def test_more_processes_than_micro_batches(monkeypatch):
    group = Group(torch.device("cpu"))
    assert group.deal([4, 5, 5]) == [0, 1, 2] and group.first
    group.size = 4
    with pytest.raises(DataError, match="fewer micro-batches than there are processes"):
        group.deal([4, 5, 5])
