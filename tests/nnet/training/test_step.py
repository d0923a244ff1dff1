"""One update: micro-batches, statistics, learning rate, and updates that are not finite."""

import copy
import math

import pytest
import torch

from db import DataError
from nnet.runtime.distributed import Group
from nnet.training.options import TrainOptions
from nnet.training.step import NonFinite, Objective, learning_rate, synchronised, without_statistics_update
from tests.builders import make_batch, small_family
from tests.nnet.training.steps import CPU, assert_untouched, batches, coloured, state_of, stepper

TWO_STACKS = {"stacks": 2}
OBJECTIVE = Objective(small_family(backbone=TWO_STACKS))


def network():
    return small_family(backbone=TWO_STACKS).network


def small_stepper(micro_batches=1):
    return stepper({"backbone": TWO_STACKS}, micro_batches)


def test_gradients_are_the_mean_over_micro_batches_and_statistics_those_of_the_first():
    parts = [make_batch(2, 5, 0), make_batch(3, 0, 1), make_batch(1, 9, 2)]
    separate, expected, totals = [network() for _ in parts], {}, []
    for net, part in zip(separate, parts, strict=True):
        net.train()
        total = OBJECTIVE(net, part).loss.mean()
        total.backward()
        totals.append(total.item())
        for name, p in net.named_parameters():
            expected[name] = expected.get(name, 0) + p.grad / 3
    step = small_stepper(len(parts))
    values, norm = step(parts)
    assert values.shape == (5, 2) and values[0].mean().item() == pytest.approx(sum(totals) / 3, rel=1e-6)
    assert norm.item() == pytest.approx(sum(g.square().sum().item() for g in expected.values()) ** 0.5, rel=1e-5)
    for name, p in step.network.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])
    for name, value in step.network.named_buffers():
        assert torch.equal(value, dict(separate[0].named_buffers())[name]), name


def test_without_statistics_update_still_normalises_by_the_make_batch():
    layer = torch.nn.BatchNorm2d(2).train()
    x = torch.randn(4, 2, 3, 3) * 5 + 7
    with without_statistics_update(layer):
        y = layer(x)
    assert y.mean().abs() < 1e-5 and torch.equal(layer.running_mean, torch.zeros(2))
    layer(x)
    assert layer.running_mean.abs().sum() > 0


@pytest.mark.parametrize("objects", [0, 1, 500])
def test_one_image_with_any_number_of_objects(objects):
    step = small_stepper()
    assert step([make_batch(1, objects, objects)]).terms.isfinite().all()
    assert all(p.isfinite().all() for p in step.network.parameters())


def test_channels_last_computes_the_same():
    plain = OBJECTIVE(network().eval(), make_batch(2, 5, 0))
    last = OBJECTIVE._replace(memory_format=torch.channels_last)
    found = last(network().eval().to(memory_format=torch.channels_last), make_batch(2, 5, 0))
    torch.testing.assert_close(torch.stack(found), torch.stack(plain), rtol=1e-4, atol=1e-5)


def test_learning_rate():
    options = TrainOptions(lr=1.0, lr_drops=(4, 6), lr_factor=0.1)
    rates = [learning_rate(t, options) for t in range(8)]
    assert rates == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    options = TrainOptions(lr=2.0, lr_drops=(), lr_factor=0.1, warmup=4)
    assert [learning_rate(t, options) for t in range(5)] == pytest.approx([0.5, 1, 1.5, 2, 2])
    options = TrainOptions(lr=2.0, lr_drops=(), lr_schedule="cosine", iterations=6, warmup=2)
    rates = [1 + math.cos(math.pi * t / 6) for t in range(6)]
    assert [learning_rate(t, options) for t in range(6)] == pytest.approx([rates[0] / 2, *rates[1:]])


# NaN and infinity


def not_made(step, parts):
    """The terms that are not finite, and the images, of an update that is not made."""
    with pytest.raises(NonFinite) as e:
        step(parts)
    return e.value.terms, e.value.image_ids


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("options", [{}, {"checkpointing": True}, {"fused_adam": True}], ids=str)
def test_nan_in_the_loss_changes_nothing(precision, options):
    """With fused_adam, the optimiser step is queued before the host knows of it: the kernel leaves it out."""
    step = stepper(precision=precision, **options)
    step(batches())
    before, scale = state_of(step), step.scaler.get_scale()
    assert not_made(step, batches(brightness=float("nan"))) == (("focal", "pull", "push", "offset"), (10, 11))
    assert_untouched(step, before)
    assert step.scaler.get_scale() == scale
    assert all(p.grad is None for p in step.network.parameters())
    # and the next update is made as if this one had not been tried
    other = stepper(precision=precision, **options)
    other(batches())
    other(batches())
    step(batches())
    assert_untouched(step, state_of(other))


def test_the_terms_that_are_nan_are_named():
    step = stepper(micro_batches=1)
    with torch.no_grad():
        step.network.branches["top_left"][0].embedding[-1].bias.fill_(float("nan"))
    assert not_made(step, [coloured(3, 8, 1, first_id=5)]) == (("pull", "push"), (5, 6, 7))


@pytest.mark.parametrize("fused", [False, True])
def test_infinite_gradients_of_a_finite_loss(fused):
    step = stepper(fused_adam=fused)
    before = state_of(step)
    handle = next(step.network.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    assert not_made(step, batches()) == (("gradient",), (0, 1, 2, 10, 11))
    assert_untouched(step, before)
    handle.remove()
    step(batches())


class Index:
    """Images by id, as far as messages need them."""

    image_ids = torch.tensor([3, 5, 6, 7, 8, 9, 20]).numpy()

    def path(self, i):
        return f"{self.image_ids[i]}.jpg"


def test_a_non_finite_update_in_words():
    assert NonFinite(("pull", "push"), (5, 20)).describe(Index()) == "pull, push not finite, on 5.jpg, 20.jpg"
    many = NonFinite(("gradient",), (3, 5, 6, 7, 8, 9)).describe(Index())
    assert many == "gradient not finite, on 3.jpg, 5.jpg, 6.jpg, 7.jpg, 8.jpg, ..."
    assert NonFinite(("the loss or gradient of a process",), ()).describe(Index()).endswith("of a process not finite")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_loss_that_is_not_finite_though_its_gradient_is(precision):
    """Another process may be the cause: the gradient of this one says nothing."""
    step = stepper(precision=precision, fused_adam=True)
    step(batches())
    before, scale = state_of(step), step.scaler.state_dict()
    step.group = Group(CPU)
    step.group.sum = lambda total: total.index_fill(0, torch.tensor([0]), 1.0)
    assert not_made(step, batches())[0] == ("gradient",)
    assert_untouched(step, before)
    assert step.scaler.state_dict() == scale


def test_an_error_of_another_kind_changes_nothing_either():
    step = stepper()
    step(batches())
    before = state_of(step)
    with pytest.raises(RuntimeError):
        step([*batches()[:1], batches()[1]._replace(images=torch.zeros(2, 5, 63, 63))])
    assert_untouched(step, before)
    assert all(p.grad is None for p in step.network.parameters())


def test_an_update_goes_on_from_the_state_of_a_checkpoint(tmp_path):
    one, other = stepper(), stepper(fused_adam=True, channels_last=True)
    one(batches())
    state = copy.deepcopy(one.state())
    assert state.keys() == {"model", "optimizer", "scaler"}
    other.load(state, tmp_path / "c.pt")
    assert all(bool(group["fused"]) for group in other.optimizer.param_groups)  # as its own options say
    for parameter, moments in other.optimizer.state.items():
        if parameter.ndim == 4:
            assert moments["exp_avg"].stride() == parameter.stride()
    assert_untouched(other, state_of(one))


def test_set_learning_rate():
    step = stepper()
    step.set_learning_rate(0.125)
    assert [group["lr"] for group in step.optimizer.param_groups] == [0.125]


def test_synchronised_batch_norm_is_refused_where_it_is_impossible():
    with pytest.raises(DataError, match="train.sync_batch_norm needs CUDA"):
        stepper(sync_batch_norm=True)
    on_gpu = Group(CPU)
    on_gpu.device = torch.device("cuda")
    for options, count in (({"checkpointing": True}, 2), ({}, 3)):
        on_gpu.size = 2
        with pytest.raises(DataError, match="same number of micro-batches on each process, and no train.checkpointing"):
            synchronised(network(), TrainOptions(**options), count, on_gpu)
