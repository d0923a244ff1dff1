"""What a run starts from: fresh weights, the weights of another run, a checkpoint."""

from types import SimpleNamespace

import pytest
import torch

from db import DataError
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.distributed import Group
from nnet.training.metrics import Window
from nnet.training.snapshots import Snapshots
from nnet.training.start import Start, random_state, restore_random_state, start_from
from tests.nnet.training.steps import CPU, batches, state_of, stepper

INDEX = SimpleNamespace(category_ids=(1, 2, 3), category_names=("a", "b", "c"))
CONFIG = {"model": {"detector": "cornernet", "pool_width": 2}, "train": {"iterations": 5, "lr": 0.1}}
SMALL = {"backbone": {}}


def test_random_state_round_trip():
    state = random_state()
    first = torch.rand(3)
    restore_random_state(state)
    assert torch.equal(torch.rand(3), first)


def start(folder, update, resume=None, init=None, config=CONFIG, group=None):
    """Start a run in the folder. Returns where it starts, and its sums between two rows of the log."""
    window = Window(5, CPU)
    start = start_from(resume, init, config, INDEX, update, window, Snapshots(folder, 2), group or Group(CPU))
    return start, window


@pytest.fixture
def run(tmp_path):
    """Folder of a run of one iteration, and its update step."""
    update, window = stepper(SMALL), Window(5, CPU)
    window.add(update(batches()))
    constants = {"config": CONFIG, "categories": [[1, 2, 3], ["a", "b", "c"]]}
    state = {"iteration": 1, **update.state(), "window": window.state(), "random": random_state()}
    Snapshots(tmp_path / "run", 2).save(state | constants)
    return tmp_path / "run", update


def assert_same_state(one, other):
    for a, b in zip(one[0].values(), other[0].values(), strict=True):
        assert torch.equal(a, b)
    assert one[1].keys() == other[1].keys()


def test_a_new_run(tmp_path, logged):
    update = stepper(SMALL)
    before = state_of(update)
    assert start(tmp_path, update)[0] == Start(0, None)
    assert logged == []
    assert start(tmp_path, update, resume="")[0] == Start()
    assert logged == [f"no checkpoint in {tmp_path}: starting a new run"]
    assert_same_state(state_of(update), before)


def without_step(state):
    del state["optimizer"]["state"][0]["step"]


@pytest.mark.parametrize(
    "part, spoil",
    [
        ("optimizer", without_step),
        ("optimizer", lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(1))),
        ("optimizer", lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(torch.nan)),
        ("optimizer", lambda state: state["optimizer"]["param_groups"][0]["params"].pop()),
        ("window", lambda state: state["window"].update(terms=torch.zeros(3, 1))),
        ("random", lambda state: state["random"].update(cpu=torch.zeros(7, dtype=torch.uint8))),
    ],
)
def test_a_part_that_does_not_fit_is_named(run, part, spoil):
    path = run[0] / "last.pt"
    state = checkpoint.load(path)
    spoil(state)
    checkpoint.save(path, state)
    with pytest.raises(CheckpointError, match=rf"last\.pt: its {part} cannot be used \("):
        start(path.parent, stepper(SMALL), resume=str(path))


@pytest.mark.parametrize("by_path", [False, True])
def test_resume(run, logged, by_path):
    folder, trained = run
    update = stepper(SMALL)
    config = CONFIG | {"train": {"iterations": 9, "lr": 0.1}}
    path = folder / "00000001.pt"
    found, window = start(folder, update, resume=str(path) if by_path else "", config=config)
    assert found.iteration == 1 and "cpu" in found.random
    assert_same_state(state_of(update), state_of(trained))
    assert window.steps == 1 and window.terms.shape == (5, 1)
    assert logged == [
        f"resumed from {path} after 1 of 9 iterations",
        "with other options than before: train.iterations: 5 -> 9",
    ]


def test_what_is_refused(run, tmp_path):
    folder, update = run
    with pytest.raises(DataError, match="holds a run already: resume it with --resume"):
        start(folder, update)
    with pytest.raises(CheckpointError, match=r"of another network than the config's \(model\.pool_width: 2 -> 3\)"):
        start(folder, update, resume="", config=CONFIG | {"model": CONFIG["model"] | {"pool_width": 3}})
    checkpoint.save(tmp_path / "weights.pt", {"model": update.network.state_dict()})
    with pytest.raises(CheckpointError, match="holds weights alone: start from them with --init"):
        start(tmp_path / "new", update, resume=str(tmp_path / "weights.pt"))
    state = checkpoint.load(folder / "last.pt")
    window = state.pop("window")
    checkpoint.save(tmp_path / "old.pt", state)
    with pytest.raises(CheckpointError, match="of another version, which stored no window"):
        start(tmp_path / "new", update, resume=str(tmp_path / "old.pt"))
    checkpoint.save(tmp_path / "other.pt", state | {"window": window, "categories": [[1], ["a"]]})
    with pytest.raises(DataError, match="data.train lists other categories than the run of"):
        start(tmp_path / "new", update, resume=str(tmp_path / "other.pt"))


def test_init_takes_the_weights_that_fit(run, tmp_path, logged):
    folder, trained = run
    update = stepper(SMALL)
    path = folder / "last.pt"
    assert start(tmp_path / "new", update, init=path)[0] == Start() and logged == []
    for name, value in update.network.state_dict().items():
        assert torch.equal(value, trained.network.state_dict()[name]), name
    assert state_of(update)[1] == {}  # the optimiser is new
    other = stepper(SMALL | {"classes": 4})
    start(tmp_path / "new", other, init=path)
    (message,) = logged
    assert message.startswith(f"left out of {path}, and initialised instead: branches.top_left.0.heatmap.2.weight (is")


def test_processes_that_found_different_checkpoints(tmp_path, monkeypatch):
    group = Group(CPU)
    group.size = 2
    for others, fine in (((0, 0), True), ((1, 1), False)):
        monkeypatch.setattr(group, "sum_counts", lambda *own, o=others: [a + b for a, b in zip(own, o, strict=True)])
        if fine:
            assert start(tmp_path, stepper(SMALL), group=group)[0] == Start()
        else:
            with pytest.raises(DataError, match="the processes found different checkpoints: .* storage shared"):
                start(tmp_path, stepper(SMALL), group=group)
