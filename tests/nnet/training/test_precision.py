"""The options of precision, speed and memory, each compared with float32 on a small network.

The gradient of a network with ReLU is not continuous. A rounding error of relative size e changes the sign of about
that fraction of the units. The gradient through those is wrong altogether, so the whole gradient is off by about
sqrt(e) per layer. Even float32 is off by up to 1e-3 when the order of its sums changes. So each half precision has two
tolerances: a loose one for the network as it is, and one of the order of e for a network with SiLU in place of ReLU and
without corner pooling, whose maximum may move too. docs/performance.md lists the tolerances with what was measured.
"""

import copy
import gc
import weakref

import pytest
import torch
import torch._inductor.config
from torch import nn

from models.keypoints import KeypointMaps
from nnet.runtime import checkpoint
from nnet.training.step import Objective, checkpoint_activations, without_statistics_update
from tests.builders import small_family, small_network
from tests.nnet.training.steps import (
    NETWORK,
    SHALLOW,
    assert_untouched,
    batches,
    coloured,
    needs_compiler,
    needs_gpu,
    one_step,
    relative,
    state_of,
    stepper,
)

SMOOTH = {"corner_pooling": False}
OVERFLOWING = 2.0**20  # scale of the loss at which the gradient in float16 overflows, also at half of it


@pytest.fixture
def smooth(monkeypatch):
    """Networks without ReLU, whose gradients follow rounding continuously; together with corner_pooling=False."""
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: torch.nn.functional.silu(x))


def assert_near(found, expected, terms, gradient, statistics):
    """Each term of the loss, the gradient as a whole, and each running statistic as a whole, by relative error."""
    assert found.terms.dtype == torch.float32
    torch.testing.assert_close(found.terms, expected.terms, rtol=terms, atol=0)
    assert relative(found.gradient, expected.gradient) < gradient
    for name, value in expected.statistics().items():
        assert relative(found.state[name], value) < statistics, name


def assert_same(found, expected):
    assert torch.equal(found.terms, expected.terms) and torch.equal(found.gradient, expected.gradient)
    for name, value in expected.state.items():
        assert torch.equal(found.state[name], value), name


# precision, tolerances of terms, gradient and statistics with ReLU and corner pooling, of the gradient without
HALVES = [("bfloat16", 0.02, 0.6, 0.02, 0.1), ("float16", 0.002, 0.25, 0.003, 0.012)]


@pytest.mark.parametrize("precision, terms, gradient, statistics, smooth_gradient", HALVES)
class TestHalfPrecision:
    def test_with_relu_and_corner_pooling(self, precision, terms, gradient, statistics, smooth_gradient):
        found, expected = (one_step(network=SHALLOW, precision=p) for p in (precision, "float32"))
        assert_near(found, expected, terms, gradient, statistics)

    def test_smooth(self, smooth, precision, terms, gradient, statistics, smooth_gradient):
        network = SHALLOW | SMOOTH
        found, expected = (one_step(network=network, precision=p) for p in (precision, "float32"))
        assert_near(found, expected, terms, smooth_gradient, statistics)

    def test_only_the_network_is_in_half(self, precision, terms, gradient, statistics, smooth_gradient):
        step, seen = stepper(precision=precision), []
        step.network.register_forward_hook(lambda module, inputs, outputs: seen.extend(outputs))
        losses = step.objective(step.network.train(), coloured(2, 5, 0))
        maps = [m for stack in seen for kind in stack.values() for m in KeypointMaps(*kind)]
        assert maps and {m.dtype for m in maps} == {getattr(torch, precision)}
        assert {term.dtype for term in losses} == {torch.float32}
        assert {p.dtype for p in step.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("fused", [False, True])
def test_overflowed_gradients_make_no_step_and_lower_the_scale(fused):
    step = stepper(network=SHALLOW, precision="float16", fused_adam=fused, scale=OVERFLOWING)
    weights = copy.deepcopy(dict(step.network.named_parameters()))
    made = step(batches())
    assert made.terms.isfinite().all()
    assert step.scaler.get_scale() == OVERFLOWING / 2
    assert all(torch.equal(p, weights[name]) for name, p in step.network.named_parameters())
    until_one_is_made(step)
    assert step.scaler.get_scale() < OVERFLOWING / 2
    assert all(p.isfinite().all() for p in step.network.parameters())
    assert any(not torch.equal(p, weights[name]) for name, p in step.network.named_parameters())


def until_one_is_made(step):
    """Make steps until one's gradient has not overflowed."""
    for _ in range(100):
        if step(batches()).norm.isfinite():
            return
    raise AssertionError("the scale is not lowered")


def test_the_scaler_goes_on_from_a_checkpoint(tmp_path):
    through = stepper(network=SHALLOW, precision="float16", scale=OVERFLOWING)
    through(batches())
    checkpoint.save(tmp_path / "c.pt", through.state())
    state = checkpoint.load(tmp_path / "c.pt")
    resumed = stepper(network=SHALLOW, precision="float16", scale=1.0)
    resumed.load(state, tmp_path / "c.pt")
    assert resumed.scaler.state_dict() == through.scaler.state_dict() and resumed.scaler.get_scale() == OVERFLOWING / 2
    until_one_is_made(through)
    until_one_is_made(resumed)
    assert resumed.scaler.state_dict() == through.scaler.state_dict()
    assert_untouched(resumed, state_of(through))


def test_channels_last():
    assert_near(one_step(channels_last=True), one_step(), terms=1e-5, gradient=5e-3, statistics=1e-5)


def test_channels_last_smooth(smooth):
    network = NETWORK | SMOOTH
    found, expected = (one_step(network=network, channels_last=last) for last in (True, False))
    assert_near(found, expected, terms=1e-5, gradient=2e-5, statistics=1e-5)


def test_channels_last_is_kept_through_the_network_and_the_step():
    step, seen = stepper(channels_last=True), []
    for module in step.network.modules():
        module.register_forward_hook(lambda m, x, y: seen.append(y) if isinstance(y, torch.Tensor) else None)
    step(batches())
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in seen)
    weights = [p for p in step.network.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


@needs_compiler
@pytest.mark.slow
def test_compile():
    with torch._inductor.config.patch(compile_threads=1):  # no pool of processes that import PyTorch
        compare_compiled(backend="inductor")


@pytest.mark.slow
def test_compile_with_checkpointing():
    compare_compiled(backend="aot_eager_decomp_partition", checkpointing=True)


def compare_compiled(**options):
    """Compare two micro-batches of one size, for which the network is compiled once, with the network not compiled."""
    parts = [coloured(3, 8, 1), coloured(3, 6, 2, first_id=10)]
    found, expected = one_step(parts, network=SHALLOW, **options), one_step(parts, network=SHALLOW)
    assert_near(found, expected, terms=1e-5, gradient=5e-3, statistics=1e-5)
    for name, value in expected.state.items():
        if "tracked" in name:
            assert found.state[name] == value == 1, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2])
def test_checkpointing(precision, count):
    parts = batches()[:count]
    found, expected = (one_step(parts, precision=precision, checkpointing=c) for c in (True, False))
    assert_same(found, expected)
    tracked = {name: int(value) for name, value in found.state.items() if "tracked" in name}
    assert set(tracked.values()) == {1}


def test_checkpointing_under_without_statistics_update():
    networks = [stepper(checkpointing=c).network.train() for c in (True, False)]
    objective, before = Objective(small_family(**NETWORK)), copy.deepcopy(networks[0].state_dict())
    for network in networks:
        with without_statistics_update(network):
            objective(network, coloured(2, 5, 0)).loss.mean().backward()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert all(torch.equal(value, before[name]) for name, value in networks[0].state_dict().items())
    layers = [m for m in networks[0].modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(m.track_running_stats and m.momentum == 0.1 and m.num_batches_tracked == 0 for m in layers)


def test_checkpointing_keeps_less():
    """What is kept for the backward pass, counted in bytes."""

    def kept(checkpointing):
        network, tensors = stepper(checkpointing=checkpointing).network.train(), {}
        with torch.autograd.graph.saved_tensors_hooks(lambda x: tensors.setdefault(x.data_ptr(), x), lambda x: x):
            Objective(small_family(**NETWORK))(network, coloured(2, 5, 0))
        own = {p.data_ptr() for p in network.parameters()}
        return sum(x.nbytes for pointer, x in tensors.items() if pointer not in own)

    assert kept(True) < 0.6 * kept(False)


def test_a_network_with_checkpointing_is_freed_at_once():
    """No reference cycle keeps its parameters in memory until the garbage collector runs."""
    network = small_network()
    checkpoint_activations(network, network.recomputed)
    parameters = [weakref.ref(p) for p in network.parameters()]
    gc.disable()
    try:
        del network
        assert [p() for p in parameters] == [None] * len(parameters)
    finally:
        gc.enable()


def test_fused_adam():
    expected, found = stepper(), stepper(fused_adam=True)
    for _ in range(3):
        expected(batches())
        found(batches())
    for (name, p), q in zip(expected.network.named_parameters(), found.network.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6, msg=name)


@needs_gpu
def test_sync_batch_norm_alone_is_batch_norm():
    device = torch.device("cuda")
    plain, synced = stepper(device=device), stepper(device=device, sync_batch_norm=True)
    assert any(isinstance(m, nn.SyncBatchNorm) for m in synced.network.modules())
    parts = [part.to(device) for part in batches()]
    torch.testing.assert_close(synced(parts).terms, plain(parts).terms, rtol=1e-4, atol=1e-6)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(synced.network.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


@needs_gpu
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.01)])
def test_on_a_gpu(precision, tolerance):
    device = torch.device("cuda")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # PyTorch's default differs
    parts = [part.to(device) for part in batches()]
    found, expected = one_step(parts, precision=precision, network=SHALLOW, device=device), one_step(network=SHALLOW)
    torch.testing.assert_close(found.terms.cpu(), expected.terms, rtol=tolerance, atol=0)


@needs_gpu
@pytest.mark.parametrize(
    "option, tolerance", [("float32", 1e-3), ("tf32", 0.03), ("float16", 0.03), ("bfloat16", 0.15), ("last", 1e-3)]
)
def test_gradients_on_a_gpu(smooth, option, tolerance):
    """Against float32 on the CPU, without the kinks of ReLU and corner pooling. TF32 has the mantissa of float16."""
    device, network = torch.device("cuda"), SHALLOW | SMOOTH
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = option == "tf32"
    options = {"precision": option} if option in ("float16", "bfloat16") else {"channels_last": option == "last"}
    found = one_step([part.to(device) for part in batches()], network=network, device=device, **options)
    expected = one_step(network=network)
    assert relative(found.gradient, expected.gradient) < tolerance
