"""The moving average of the weights (train.ema): its values, who uses it, and that training does not."""

import pytest
import torch

import configs
from db import load_split
from nnet.detection.loading import load_family
from nnet.runtime import checkpoint
from nnet.training.average import WeightAverage
from nnet.training.step import Objective
from nnet.training.validation import validation_loss
from sample.dataset import TrainingSet
from sample.loader import make_loader
from sample.order import validation_batches
from tests.builders import small_family
from tests.nnet.training.steps import CPU, batches, stepper
from tests.processes import read_rows
from tests.runs import main, same

TINY = """
model: {backbone: {widths: [6, 8], blocks: [1, 1]}, pool_width: 2}
data: {input_size: [63, 63], val: {limit: 3}}
train: {iterations: 4, lr_drops: [], log_every: 1, validate_every: 4, snapshot_every: 0}
"""


def test_the_average_by_hand():
    """Decays of 1/10, 2/11, then the option's."""
    family = small_family()
    average = WeightAverage(family, decay=0.15)
    found = average.family.network.state_dict()
    for tensor in found.values():
        tensor.zero_()
    for iteration, value in enumerate((1.0, 2.0, 4.0)):
        for tensor in family.network.state_dict().values():
            tensor.fill_(value if tensor.is_floating_point() else iteration)
        average.add(family.network, iteration)
    first = 0.9 * 1
    second = 0.15 * first + 0.85 * 2
    for name, tensor in found.items():
        expected = 0.15 * second + 0.85 * 4 if tensor.is_floating_point() else 2
        torch.testing.assert_close(tensor, torch.full_like(tensor, expected), msg=name)


@pytest.mark.parametrize("options", [{}, {"fused_adam": True}], ids=str)
def test_weight_decay_is_decoupled(options):
    """It moves the weights by lr * decay of themselves, beside Adam's step of the unchanged gradient."""
    plain, decayed = stepper(**options), stepper(weight_decay=0.5, **options)
    before = {name: p.detach().clone() for name, p in plain.network.named_parameters()}
    plain(batches()), decayed(batches())
    for name, p in decayed.network.named_parameters():
        expected = dict(plain.network.named_parameters())[name] - 1e-3 * 0.5 * before[name]
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def averaged(config, tmp_path_factory):
    """A run with an average: its folder."""
    output = tmp_path_factory.mktemp("averaged") / "run"
    assert main(config, output, "train.ema=0.9") == 0
    return output


def test_training_sees_plain_weights(config, averaged, tmp_path):
    assert main(config, tmp_path / "plain") == 0
    found, expected = (checkpoint.load(folder / "last.pt") for folder in (averaged, tmp_path / "plain"))
    average = found.pop("average")
    assert average.keys() == found["model"].keys() and "average" not in expected
    for name in ("model", "optimizer", "random", "window"):
        same(found[name], expected[name], name)


def test_validation_and_testing_see_the_average(config, averaged):
    loaded = configs.load(config, ["train.ema=0.9"])
    state, index = checkpoint.load(averaged / "last.pt"), load_split(loaded.data, "val")
    family = load_family(state, averaged / "last.pt", loaded, index.num_classes)
    same(family.network.state_dict(), state["average"])
    samples = TrainingSet(index, loaded.data.input_size, None, 0)
    with torch.random.fork_rng():
        found = validation_loss(Objective(family), make_loader(samples, validation_batches(3, 3), 0, 0, CPU), CPU)
    row = next(row for row in read_rows(averaged) if "val_loss" in row)
    assert found.loss == pytest.approx(row["val_loss"], rel=1e-5)


def test_a_run_takes_up_and_drops_an_average(config, averaged, tmp_path):
    def last(output, *arguments):
        assert main(config, tmp_path / output, "train.validate_every=0", *arguments) == 0
        return checkpoint.load(tmp_path / output / "last.pt")

    assert "average" not in last("dropped", "train.iterations=5", "--resume", averaged / "last.pt")
    more = ["train.ema=0.9", "train.iterations=6", "--resume", tmp_path / "dropped" / "last.pt"]
    assert "average" in last("dropped", *more)
    still = ["train.iterations=1", "train.lr=1e-30"]  # a step that changes no weight
    found = last("init", *still, "--init", averaged / "last.pt")["model"]
    average = checkpoint.load(averaged / "last.pt")["average"]
    name = next(name for name, value in average.items() if value.dim() == 4)
    torch.testing.assert_close(found[name], average[name], rtol=0, atol=1e-20)
