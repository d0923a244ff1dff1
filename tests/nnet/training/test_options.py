"""train.py with each of the options of training."""

import json

import numpy as np
import pytest
import torch

from models.losses import LossTerms
from nnet.runtime import checkpoint
from nnet.training import step
from nnet.training.metrics import read_metrics
from nnet.training.step import Objective
from tests.nnet.training.steps import needs_compiler, needs_gpu
from tests.runs import main

TINY = """
model:
  backbone: {widths: [6, 8], blocks: [1, 1]}
  pool_width: 2
data: {input_size: [63, 63]}
train: {batch: [2, 2], iterations: 2, lr_drops: [1], log_every: 1, validate_every: 2, validate_images: 2,
        snapshot_every: 0}
"""


def run(config, output, *overrides, code=0):
    overrides = [f"train.{o}" if "=" in o and "." not in o.split("=")[0] else o for o in overrides]
    assert main(config, output, *overrides) == code
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
    ("runtime.tf32=true", 0),  # on the CPU nothing changes
    pytest.param("runtime.device=cuda", 1e-2, marks=needs_gpu),
    pytest.param("sync_batch_norm=true runtime.device=cuda", 1e-2, marks=needs_gpu),
    pytest.param("runtime.tf32=true runtime.device=cuda", 5e-2, marks=needs_gpu),
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
def test_train_with_compile(config, tmp_path, monkeypatch):
    """One micro-batch and no validation: each further kind of pass through the network is compiled by itself."""
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # no pool of processes that import PyTorch
    less = ["batch=[2]", "validate_every=0"]
    compiled, expected = (run(config, tmp_path / c, f"compile={c}", *less) for c in ("true", "false"))
    assert compiled["model"].keys() == expected["model"].keys()
    found, wanted = (read_metrics(tmp_path / c / "metrics.jsonl")[0]["loss"] for c in ("true", "false"))
    assert found == pytest.approx(wanted, rel=1e-4)


def test_metrics_are_json_when_gradients_overflow(config, tmp_path):
    """float16 begins with a loss scale at which gradients overflow. JSON has no infinity."""

    def refuse(name):
        raise ValueError(name)

    run(config, tmp_path / "r", "precision=float16", "log_every=1", "iterations=3")
    for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32_sets_the_flags(config, tmp_path, wanted):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not wanted
    run(config, tmp_path / "r", f"runtime.tf32={str(wanted).lower()}", "iterations=1")
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
                return LossTerms(terms.loss * float("nan"), terms.focal, terms.pull * float("nan"), *terms[3:])
            return terms

    monkeypatch.setattr(step, "Objective", Poisoned)


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
