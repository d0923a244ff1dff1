"""Several processes compute the update that one computes."""

import sys

import pytest
import torch

from db import DataError
from nnet.runtime.distributed import Group
from nnet.training.options import TrainOptions
from nnet.training.step import UpdateStep
from sample.dataset import Batch
from sample.targets import BatchObjects
from tests.builders import small_family
from tests.processes import SECONDS, start_ranks

BATCH = [2, 3, 1]
STEPS = 5


def micro_batch(step, number):
    """Images and boxes of a micro-batch, drawn from its place in the run."""
    g = torch.Generator().manual_seed(10 * step + number)
    size, objects = BATCH[number], 4 + number
    corner = torch.rand(objects, 2, generator=g, dtype=torch.float64) * 20
    boxes = torch.cat([corner, corner + 8 + 30 * torch.rand(objects, 2, generator=g, dtype=torch.float64)], 1)
    images = torch.randint(0, 256, (size, 3, 63, 63), generator=g, dtype=torch.uint8)
    labels = torch.randint(0, 3, (objects,), generator=g)
    image_index = torch.randint(0, size, (objects,), generator=g).sort().values
    return Batch(images, BatchObjects(boxes, labels, image_index), None, torch.arange(size), [])


STACKS = {"cornernet": 2, "centernet": 1}


class InDouble(torch.nn.Module):
    """A family's network in float64."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()
        self.keypoints, self.recomputed = network.keypoints, network.recomputed

    def forward(self, images, every_stack):
        return self.network(images.double(), every_stack)


def run(path, name):
    torch.set_num_threads(1)
    with Group(torch.device("cpu")) as group:
        family = small_family(name, backbone={"stacks": STACKS[name]})
        family.network = InDouble(family.network)
        batch, mine = group.deal(BATCH)
        make = UpdateStep(family, TrainOptions(lr=1e-3), len(batch), group)
        losses = []
        for step in range(STEPS):
            losses.append(make([micro_batch(step, number) for number in mine]).terms)
        assert group.sum_counts(1, group.rank) == [group.size, sum(range(group.size))]
        gathered = group.gather([group.rank] * 2)
        assert gathered == (sorted(list(range(group.size)) * 2) if group.first else [])
        group.barrier()
        if group.first:
            torch.save({"state": family.network.state_dict(), "losses": torch.stack(losses)}, path)


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_compute_the_update_of_one(tmp_path, repository, start, size, name):
    processes = start_ranks(start, size, __file__, tmp_path / "many.pt", name, PYTHONPATH=repository)
    run(tmp_path / "one.pt", name)
    for process in processes:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    one, many = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "many.pt")
    torch.testing.assert_close(many["losses"], one["losses"], rtol=1e-6, atol=1e-9)
    for name, value in one["state"].items():
        torch.testing.assert_close(many["state"][name], value, rtol=0, atol=1e-6, msg=name)


def test_more_processes_than_micro_batches():
    group = Group(torch.device("cpu"))
    assert group.deal([4, 5, 5]) == ([4, 5, 5], [0, 1, 2]) and group.first
    group.size = 4
    assert group.deal([10]) == ([3, 3, 2, 2], [0])
    with pytest.raises(DataError, match="fewer images than there are processes"):
        group.deal([3])
    with pytest.raises(DataError, match="fewer micro-batches than there are processes"):
        group.deal([4, 5, 5])


if __name__ == "__main__":
    run(*sys.argv[1:])
