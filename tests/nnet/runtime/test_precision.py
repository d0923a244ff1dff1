"""The options of precision, speed and memory, each against float32 on a small network; and a step that meets NaN.

How far rounding may move a gradient: that of a network with ReLU is not continuous. A rounding error of relative size e
changes the sign of about that share of the units, and the gradient through those is wrong altogether, so that the whole
is off by about sqrt(e) per layer, whatever the care: float32 itself by up to 1e-3 when the order of its sums changes.
So a half precision is held to two tolerances: a loose one on the network as it is, and one of the order of e where SiLU
stands for ReLU and corner pooling, whose maximum may move too, is left out. docs/performance.md lists the tolerances
with what was seen.
"""

import copy
import json
import os
import shutil
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import train as train_script
from models.cornernet import KeypointMaps, cornernet
from models.losses import LossTerms, LossWeights
from nnet import checkpoint, training
from nnet.distributed import Group
from nnet.inference import Detector, DetectSettings
from nnet.log import read_metrics
from nnet.training import NotFinite, Objective, Precision, Step, checkpoint_activations, kept_statistics
from sample import Batch, ColourDraw, Penalty

CPU = torch.device("cpu")
NETWORK = {"stacks": 2, "stem_width": 8, "widths": [8, 12, 16], "blocks": [1, 1, 2], "pool_width": 4, "bn_init": "ones"}
SHALLOW = {**NETWORK, "stacks": 1, "widths": [8, 12], "blocks": [1, 1]}
COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))
needs_compiler = pytest.mark.skipif(not COMPILER, reason="torch.compile needs a C++ compiler on the CPU")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def smooth(monkeypatch):
    """Networks without ReLU, whose gradients follow rounding continuously; together with corner_pooling=False."""
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: torch.nn.functional.silu(x))


def batch(images, objects, seed, first_id=0, brightness=1.0):
    r = np.random.default_rng(seed)
    corner = r.uniform(0, 36, (objects, 2))
    boxes = np.concatenate([corner, corner + r.uniform(4, 40, (objects, 2))], 1).clip(0, 62)
    order, lighting = torch.arange(3).expand(images, 3), torch.zeros(images, 3)
    return Batch(
        torch.from_numpy(r.integers(0, 256, (images, 3, 63, 63), dtype=np.uint8)),
        torch.from_numpy(boxes),
        torch.from_numpy(r.integers(0, 3, objects)),
        torch.from_numpy(np.sort(r.integers(0, images, objects))),
        ColourDraw(order, torch.full((images, 3), brightness), lighting),
        torch.arange(first_id, first_id + images),
        [],
    )


def batches(brightness=1.0):
    """Two micro-batches of different sizes; `brightness` is that of the second."""
    return [batch(3, 8, 1), batch(2, 6, 2, first_id=10, brightness=brightness)]


def stepper(
    network=None,
    precision="float32",
    channels_last=False,
    checkpointing=False,
    compile="",
    fused=False,
    in_all=2,
    scale=2.0**8,
    device=CPU,
):
    """A Step as train.py puts it together, always from the same weights. compile: torch.compile's backend, or none."""
    torch.manual_seed(0)
    net = cornernet(3, **(network or NETWORK)).to(device)
    if channels_last:
        net.to(memory_format=torch.channels_last)
    if checkpointing:
        checkpoint_activations(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=fused)
    chosen = Precision(precision, device)
    if chosen.scaler.is_enabled():
        chosen.scaler.load_state_dict({**chosen.scaler.state_dict(), "scale": scale})
    if compile:
        net.compile(backend=compile)
    objective = Objective(3, Penalty(), LossWeights(), channels_last, chosen.autocast)
    return Step(net, optimizer, objective, Group(device), in_all, chosen.scaler)


class Result(NamedTuple):
    """What a step has made: loss terms, the whole gradient as one vector, weights and running statistics after it."""

    terms: torch.Tensor  # (5, stacks)
    gradient: torch.Tensor  # float64
    state: dict[str, torch.Tensor]

    def statistics(self):
        return {name: value for name, value in self.state.items() if "running" in name}


def one_step(parts=None, **options):
    parts = parts or batches()
    step = stepper(in_all=len(parts), **options)
    terms, _ = step(parts)
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in step.network.parameters()])
    return Result(terms, gradient, copy.deepcopy(step.network.state_dict()))


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


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
        network = {**SHALLOW, "corner_pooling": False}
        found, expected = (one_step(network=network, precision=p) for p in (precision, "float32"))
        assert_near(found, expected, terms, smooth_gradient, statistics)

    def test_the_network_alone_is_in_half(self, precision, terms, gradient, statistics, smooth_gradient):
        step, seen = stepper(precision=precision), []
        step.network.register_forward_hook(lambda module, inputs, outputs: seen.extend(outputs))
        losses = step.objective(step.network.train(), batch(2, 5, 0))
        maps = [m for stack in seen for kind in stack.values() for m in KeypointMaps(*kind)]
        assert maps and {m.dtype for m in maps} == {getattr(torch, precision)}
        assert {term.dtype for term in losses} == {torch.float32}
        assert {p.dtype for p in step.network.parameters()} == {torch.float32}


def state_of(step):
    """Weights, running statistics and the optimiser's state, copied."""
    return copy.deepcopy([step.network.state_dict(), step.optimizer.state_dict()["state"]])


def assert_untouched(step, before):
    weights, moments = before
    assert all(torch.equal(value, weights[name]) for name, value in step.network.state_dict().items())
    found = step.optimizer.state_dict()["state"]
    assert found.keys() == moments.keys()
    assert all(torch.equal(value, moments[i][name]) for i, kept in found.items() for name, value in kept.items())


@pytest.mark.parametrize("fused", [False, True])
def test_overflowed_gradients_make_no_step_and_lower_the_scale(fused):
    step = stepper(precision="float16", fused=fused, scale=2.0**40)
    weights = copy.deepcopy(dict(step.network.named_parameters()))
    made = step(batches())
    assert not isinstance(made, NotFinite) and made[0].isfinite().all()
    assert step.scaler.get_scale() == 2.0**39
    assert all(torch.equal(p, weights[name]) for name, p in step.network.named_parameters())
    until_one_is_made(step)
    assert step.scaler.get_scale() < 2.0**39
    assert all(p.isfinite().all() for p in step.network.parameters())
    assert any(not torch.equal(p, weights[name]) for name, p in step.network.named_parameters())


def until_one_is_made(step):
    """Make steps until one's gradient has not overflowed."""
    for _ in range(100):
        made = step(batches())
        if made[1].isfinite():
            return
    raise AssertionError("the scale is not lowered")


def test_the_scaler_goes_on_from_a_checkpoint(tmp_path):
    through = stepper(precision="float16", scale=2.0**40)
    through(batches())
    content = {"model": through.network, "optimizer": through.optimizer, "scaler": through.scaler}
    checkpoint.save(tmp_path / "c.pt", {name: part.state_dict() for name, part in content.items()})
    state = checkpoint.load(tmp_path / "c.pt")
    resumed = stepper(precision="float16", scale=1.0)
    resumed.network.load_state_dict(state["model"])
    resumed.optimizer.load_state_dict(state["optimizer"])
    resumed.scaler.load_state_dict(state["scaler"])
    assert resumed.scaler.state_dict() == through.scaler.state_dict() and resumed.scaler.get_scale() == 2.0**39
    until_one_is_made(through)
    until_one_is_made(resumed)
    assert resumed.scaler.state_dict() == through.scaler.state_dict()
    assert_untouched(resumed, state_of(through))


def test_channels_last():
    assert_near(one_step(channels_last=True), one_step(), terms=1e-5, gradient=5e-3, statistics=1e-5)


def test_channels_last_smooth(smooth):
    network = {**NETWORK, "corner_pooling": False}
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
def test_compile():
    parts = [batch(3, 8, 1)]  # one micro-batch: another would be compiled by itself
    found, expected = (one_step(parts, network=SHALLOW, compile=c) for c in ("inductor", ""))
    assert_near(found, expected, terms=1e-5, gradient=5e-3, statistics=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compile_with_several_micro_batches_and_checkpointing(checkpointing):
    found = one_step(network=SHALLOW, compile="aot_eager_decomp_partition", checkpointing=checkpointing)
    expected = one_step(network=SHALLOW)
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


def test_checkpointing_under_kept_statistics():
    networks = [stepper(checkpointing=c).network.train() for c in (True, False)]
    objective, before = Objective(3, Penalty(), LossWeights()), copy.deepcopy(networks[0].state_dict())
    for network in networks:
        with kept_statistics(network):
            objective(network, batch(2, 5, 0)).total.mean().backward()
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
            Objective(3, Penalty(), LossWeights())(network, batch(2, 5, 0))
        own = {p.data_ptr() for p in network.parameters()}
        return sum(x.nbytes for pointer, x in tensors.items() if pointer not in own)

    assert kept(True) < 0.6 * kept(False)


def test_fused_adam():
    expected, found = stepper(), stepper(fused=True)
    for _ in range(3):
        expected(batches())
        found(batches())
    for (name, p), q in zip(expected.network.named_parameters(), found.network.parameters(), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6, msg=name)


@needs_gpu
def test_sync_batch_norm_alone_is_batch_norm():
    device = torch.device("cuda")
    plain, synced = stepper(device=device), stepper(device=device)
    synced = Step(
        nn.SyncBatchNorm.convert_sync_batchnorm(synced.network), synced.optimizer, synced.objective, synced.group, 2
    )
    parts = [part.to(device) for part in batches()]
    torch.testing.assert_close(synced(parts)[0], plain(parts)[0], rtol=1e-4, atol=1e-6)
    for name, value in plain.network.state_dict().items():
        torch.testing.assert_close(synced.network.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name)


# A step that meets NaN or infinity


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_nan_in_the_loss_changes_nothing(precision, checkpointing):
    step = stepper(precision=precision, checkpointing=checkpointing)
    step(batches())
    before, scale = state_of(step), step.scaler.get_scale()
    made = step(batches(brightness=float("nan")))
    assert made == NotFinite(("focal", "pull", "push", "offset"), (10, 11))
    assert_untouched(step, before)
    assert step.scaler.get_scale() == scale
    assert all(p.grad is None for p in step.network.parameters())
    # and the step after it is made as if nothing had been
    other = stepper(precision=precision, checkpointing=checkpointing)
    other(batches())
    other(batches())
    assert not isinstance(step(batches()), NotFinite)
    assert_untouched(step, state_of(other))


def test_the_terms_that_are_nan_are_named():
    step = stepper(in_all=1)
    with torch.no_grad():
        step.network.branches["top_left"][0].embedding[-1].bias.fill_(float("nan"))
    assert step([batch(3, 8, 1, first_id=5)]) == NotFinite(("pull", "push"), (5, 6, 7))


def test_infinite_gradients_of_a_finite_loss():
    step = stepper()
    before = state_of(step)
    handle = next(step.network.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    assert step(batches()) == NotFinite(("gradient",), (0, 1, 2, 10, 11))
    assert_untouched(step, before)
    handle.remove()
    assert not isinstance(step(batches()), NotFinite)


# train.py with each of the options

TINY = """
model: {widths: [6, 8], blocks: [1, 1], pool_width: 2}
data: {input_size: [63, 63]}
train: {batch: [2, 2], iterations: 2, lr_drops: [1], log_every: 1, validate_every: 2, validate_images: 2,
        snapshot_every: 0}
"""


@pytest.fixture(autouse=True)
def flags():
    """Gives the backends' flags, which train.py sets, back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def run(config, output, *overrides, code=0):
    arguments = [str(config), *(f"train.{o}" if "=" in o else o for o in overrides), "--output", str(output)]
    assert train_script.main(arguments) == code
    return checkpoint.load(output / "last.pt") if (output / "last.pt").exists() else None


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """A run in float32: its folder."""
    output = tmp_path_factory.mktemp("precision") / "plain"
    run(config, output)
    return output


# option, relative tolerance of the logged losses
OPTIONS = [
    ("precision=bfloat16", 0.1),
    ("precision=float16", 0.02),
    ("channels_last=true", 1e-4),
    ("checkpointing=true", 0),
    ("fused_adam=true", 1e-5),
    ("tf32=true", 0),  # on the CPU nothing changes
    pytest.param("device=cuda", 1e-2, marks=needs_gpu),
    pytest.param("sync_batch_norm=true device=cuda", 1e-2, marks=needs_gpu),
    pytest.param("tf32=true device=cuda", 5e-2, marks=needs_gpu),
]


@pytest.mark.parametrize("option, tolerance", OPTIONS)
def test_train_with(config, plain, tmp_path, option, tolerance):
    state = run(config, tmp_path / "r", *option.split())
    assert state["iteration"] == 2
    rows, expected = (read_metrics(folder / "metrics.jsonl") for folder in (tmp_path / "r", plain))
    # The first step alone: Adam makes much of a gradient's rounding at the start, by its sign.
    assert rows[0]["loss"] == pytest.approx(expected[0]["loss"], rel=tolerance, abs=0)
    assert [r["iteration"] for r in rows if "val_loss" in r] == [2]
    assert all(np.isfinite(v) for r in rows for v in r.values() if v is not None)
    assert all(v.isfinite().all() for v in state["model"].values())
    assert state["model"].keys() == checkpoint.load(plain / "last.pt")["model"].keys()
    for name, parameter in zip(state["model"], state["model"].values(), strict=True):
        assert parameter.dtype in (torch.float32, torch.int64), name


@needs_compiler
def test_train_with_compile(config, tmp_path):
    """One micro-batch and no validation: each further kind of pass through the network is compiled by itself."""
    less = ["batch=[2]", "validate_every=0"]
    compiled, expected = (run(config, tmp_path / c, f"compile={c}", *less) for c in ("true", "false"))
    assert compiled["model"].keys() == expected["model"].keys()
    found, wanted = (read_metrics(tmp_path / c / "metrics.jsonl")[0]["loss"] for c in ("true", "false"))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_metrics_are_json_when_gradients_overflow(config, tmp_path):
    """float16 begins with a loss scale at which gradients overflow; strict JSON knows no infinity."""

    def refuse(name):
        raise ValueError(name)

    run(config, tmp_path / "r", "precision=float16", "log_every=1", "iterations=3")
    for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_sets_the_flags(config, tmp_path, wanted):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not wanted
    run(config, tmp_path / "r", f"tf32={str(wanted).lower()}", "iterations=1")
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (wanted, wanted)


def test_sync_batch_norm_on_the_cpu_is_refused(config, tmp_path, capsys):
    run(config, tmp_path / "r", "sync_batch_norm=true", code=2)
    error = capsys.readouterr().err
    assert "train.sync_batch_norm" in error and "CUDA" in error and "Traceback" not in error
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("option", ["precision=float16", "precision=bfloat16", "fused_adam=true", "checkpointing=true"])
@pytest.mark.parametrize("first", ["with", "without"])
def test_options_may_change_when_a_run_goes_on(config, tmp_path, monkeypatch, option, first):
    built = []
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda *args, **kwargs: built.append(adam(*args, **kwargs)) or built[-1])
    run(config, tmp_path / "r", *([option] if first == "with" else []))
    state = run(config, tmp_path / "r", "iterations=3", *([option] if first == "without" else []), "--resume")
    assert state["iteration"] == 3
    wanted = option == "fused_adam=true" and first == "without"
    assert all(bool(parameters["fused"]) == wanted for parameters in built[-1].param_groups)


def poison(monkeypatch, bad):
    """Make the loss of these training micro-batches, counted from 0, NaN."""
    calls = iter(range(1000))

    class Poisoned(Objective):
        def __call__(self, network, batch):
            terms = super().__call__(network, batch)
            if network.training and next(calls) in bad:
                return LossTerms(terms.total * float("nan"), terms.focal, terms.pull * float("nan"), *terms[3:])
            return terms

    monkeypatch.setattr(training, "Objective", Poisoned)


def test_nan_skip_goes_on(config, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {2})
    run(config, tmp_path / "r", "nan=skip", "iterations=3", "log_every=3", "validate_every=0")
    printed = capsys.readouterr()
    assert "iteration 2: pull not finite, on " in printed.out + printed.err
    assert "the step is skipped" in printed.out + printed.err
    state = checkpoint.load(tmp_path / "r" / "last.pt")
    assert state["iteration"] == 3 and state["optimizer"]["state"][0]["step"] == 2
    # What is logged is the mean over the steps that were made.
    poison(monkeypatch, {2})
    run(config, tmp_path / "s", "nan=skip", "iterations=3", "log_every=1", "validate_every=0")
    mean, each = (read_metrics(tmp_path / name / "metrics.jsonl") for name in "rs")
    assert [row["iteration"] for row in each] == [1, 3]
    for name in ("loss", "focal", "gradient_norm"):
        assert mean[0][name] == pytest.approx(np.mean([row[name] for row in each]), rel=1e-5), name


def test_nan_skip_ends_after_ten_in_a_row(config, tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {*range(2, 20, 2), *range(22, 80)})  # iterations 2 to 10, not 11, all from 12 on
    state = run(config, tmp_path / "r", "nan=skip", "iterations=40", "validate_every=0", code=1)
    assert "error: iteration 21: pull not finite" in capsys.readouterr().err
    assert state["iteration"] == 20 and state["optimizer"]["state"][0]["step"] == 2


@needs_gpu
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.01)])
def test_on_a_gpu(precision, tolerance):
    device = torch.device("cuda")
    parts = [part.to(device) for part in batches()]
    found, expected = one_step(parts, precision=precision, network=SHALLOW, device=device), one_step(network=SHALLOW)
    torch.testing.assert_close(found.terms.cpu(), expected.terms, rtol=tolerance, atol=0)


@needs_gpu
@pytest.mark.parametrize(
    "option, tolerance", [("float32", 1e-3), ("tf32", 0.03), ("float16", 0.03), ("bfloat16", 0.15), ("last", 1e-3)]
)
def test_gradients_on_a_gpu(smooth, option, tolerance):
    """Against float32 on the CPU, without the kinks of ReLU and corner pooling. TF32 has the mantissa of float16."""
    device, network = torch.device("cuda"), {**SHALLOW, "corner_pooling": False}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = option == "tf32"
    options = {"precision": option} if option in ("float16", "bfloat16") else {"channels_last": option == "last"}
    found = one_step([part.to(device) for part in batches()], network=network, device=device, **options)
    expected = one_step(network=network)
    assert relative(found.gradient, expected.gradient) < tolerance


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({"channels_last": True}, 1e-4), ({"precision": "bfloat16", "channels_last": True}, 0.05)],
)
def test_testing_with_options_of_speed(options, tolerance):
    torch.manual_seed(0)
    network = cornernet(3, **NETWORK)
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    canvas = np.random.default_rng(0).integers(0, 256, (63, 63, 3), dtype=np.uint8)
    plain, fast = (Detector(network, DetectSettings(**o), (63, 63), CPU).predict(canvas) for o in ({}, options))
    assert seen[0].is_contiguous() and seen[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen[0], seen[1])
    for name in plain:
        for a, b in zip(plain[name], fast[name], strict=True):
            assert b.dtype == getattr(torch, options.get("precision", "float32"))
            scale = a.abs().max()
            torch.testing.assert_close(b.float() / scale, a / scale, rtol=0, atol=tolerance)
