"""One step: micro-batches, statistics, schedule, random state."""

import numpy as np
import pytest
import torch

from models.cornernet import cornernet
from models.losses import LossWeights
from nnet.distributed import Group
from nnet.evaluation import validation_loss
from nnet.training import (
    Objective,
    Step,
    kept_statistics,
    learning_rate,
    random_state,
    restore_random_state,
)
from sample import Batch, Penalty

SMALL = {"stacks": 2, "stem_width": 4, "widths": [4, 6], "blocks": [1, 1], "pool_width": 2}
OBJECTIVE = Objective(3, Penalty(), LossWeights())


def batch(images, objects, seed, unreadable=()):
    r = np.random.default_rng(seed)
    corner = r.uniform(0, 20, (objects, 2))
    boxes = np.concatenate([corner, corner + r.uniform(4, 40, (objects, 2))], 1).clip(0, 62)
    return Batch(
        torch.from_numpy(r.integers(0, 256, (images, 3, 63, 63), dtype=np.uint8)),
        torch.from_numpy(boxes),
        torch.from_numpy(r.integers(0, 3, objects)),
        torch.from_numpy(np.sort(r.integers(0, images, objects))),
        None,
        torch.arange(images),
        list(unreadable),
    )


def network(seed=0):
    torch.manual_seed(seed)
    return cornernet(3, **SMALL)


def stepper(net, optimizer, in_all=1, objective=OBJECTIVE, **more):
    return Step(net, optimizer, objective, Group(torch.device("cpu")), in_all, **more)


def test_gradients_are_the_mean_over_micro_batches_and_statistics_those_of_the_first():
    batches = [batch(2, 5, 0), batch(3, 0, 1), batch(1, 9, 2)]
    separate, expected, totals = [network() for _ in batches], {}, []
    for net, part in zip(separate, batches, strict=True):
        net.train()
        total = OBJECTIVE(net, part).total.mean()
        total.backward()
        totals.append(total.item())
        for name, p in net.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / 3
    net = network()
    values, norm = stepper(net, torch.optim.SGD(net.parameters(), lr=0.0), len(batches))(batches)
    assert values.shape == (5, 2) and values[0].mean().item() == pytest.approx(sum(totals) / 3, rel=1e-6)
    assert norm.item() == pytest.approx(sum(g.square().sum().item() for g in expected.values()) ** 0.5, rel=1e-5)
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
    for name, value in net.named_buffers():
        assert torch.equal(value, dict(separate[0].named_buffers())[name]), name


def test_kept_statistics_still_normalises_by_the_batch():
    layer = torch.nn.BatchNorm2d(2).train()
    x = torch.randn(4, 2, 3, 3) * 5 + 7
    with kept_statistics(layer):
        y = layer(x)
    assert y.mean().abs() < 1e-5 and torch.equal(layer.running_mean, torch.zeros(2))
    layer(x)
    assert layer.running_mean.abs().sum() > 0


@pytest.mark.parametrize("objects", [0, 1, 500])
def test_one_image_with_any_number_of_objects(objects):
    net = network()
    values, _ = stepper(net, torch.optim.Adam(net.parameters()))([batch(1, objects, objects)])
    assert values.isfinite().all()
    assert all(p.isfinite().all() for p in net.parameters())


def test_channels_last_computes_the_same():
    plain = OBJECTIVE(network().eval(), batch(2, 5, 0))
    last = Objective(3, Penalty(), LossWeights(), channels_last=True)
    found = last(network().eval().to(memory_format=torch.channels_last), batch(2, 5, 0))
    torch.testing.assert_close(torch.stack(found), torch.stack(plain), rtol=1e-4, atol=1e-5)


def test_validation_loss_weighs_by_images_and_leaves_the_network_alone():
    net = network()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parts = [batch(3, 5, 0), batch(1, 2, 1)]
    found = validation_loss(net, OBJECTIVE, parts, torch.device("cpu"))
    with torch.no_grad():
        each = [OBJECTIVE(net.eval(), part).total.mean().item() for part in parts]
    assert found.total == pytest.approx((3 * each[0] + each[1]) / 4, rel=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_learning_rate():
    rates = [learning_rate(t, 1.0, [4, 6], 0.1, 0) for t in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [learning_rate(t, 2.0, [], 0.1, 4) for t in range(5)] == pytest.approx([0.5, 1, 1.5, 2, 2])


def test_random_state_round_trip():
    state = random_state()
    first = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(torch.rand(3), first)
