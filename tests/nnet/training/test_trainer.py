"""Each step of the training loop by itself. Parts that it does not need are fakes."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError
from nnet.runtime.signals import Signals
from nnet.training.metrics import NoLog, Window
from nnet.training.options import TrainOptions
from nnet.training.start import Start, random_state
from nnet.training.step import NonFinite, Update
from nnet.training.trainer import Trainer
from sample.dataset import Unreadable
from tests.builders import make_batch
from tests.nnet.training.steps import CPU

TERMS = torch.tensor([[1.5], [1.0], [0.5]])  # (terms, stacks)
BAD = Unreadable("a.jpg", "the file is empty")


class Step:
    """Makes updates of nothing. `failures`: iterations, counted from 1, whose loss is not finite."""

    def __init__(self, failures=()):
        self.failures = failures
        self.rates, self.given = [], []

    def set_learning_rate(self, lr):
        self.rates.append(lr)

    def average_weights(self, iteration):
        pass

    def __call__(self, batches):
        self.given.append(batches)
        if len(self.given) in self.failures:
            raise NonFinite(("pull",), (7,))
        return Update(TERMS, torch.tensor(2.0))

    def state(self):
        return {"model": {}, "optimizer": {}, "scaler": {}}


class Log(NoLog):
    """Remembers rows, and what was logged before the run was resumed."""

    def __init__(self, earlier=None):
        self.earlier, self.rows, self.steps = earlier or {}, [], 0

    def logged(self, name):
        return self.earlier.get(name, {})

    def row(self, iteration, **values):
        self.rows.append((iteration, values))

    def losses(self, iteration, terms, **more):
        self.rows.append((iteration, {"terms": terms} | more))

    def step(self):
        self.steps += 1


class Folder:
    """Remembers what is saved. `full`: nothing can be written."""

    def __init__(self, log=None, saved=0, full=False):
        self.path, self.full = Path("run"), full
        self.log = log or Log()
        self.trace = SimpleNamespace(step=lambda: None)
        self.snapshots = SimpleNamespace(saved=saved, failure=None, last=Path("run/last.pt"))
        self.states, self.best, self.closed = [], [], False

    def save(self, progress, report_progress):
        report_progress()
        if self.full:
            self.snapshots.failure = OSError("the disk is full")
        else:
            self.states.append(progress)
            self.snapshots.saved = progress["iteration"]

    def keep_best(self, iteration, precision):
        self.best.append((iteration, precision))

    def close(self):
        self.closed = True


class Validation:
    """Remembers what is measured. `figures`: COCO's, None on the other processes or when cut short."""

    def __init__(self, figures=None):
        self.figures, self.made = figures, []

    def loss(self, iteration):
        self.made.append(("loss", iteration))

    def precision(self):
        self.made.append("AP")
        return self.figures


class Together(Group):
    """The first process of several, whose counts the others add to; records the barriers."""

    def __init__(self, *others, first=True):
        super().__init__(CPU)
        self.others, self.rank, self.waits = list(others), 0 if first else 1, 0

    def sum_counts(self, *values):
        return [sum(column) for column in zip(values, *self.others, strict=True)]

    def barrier(self):
        self.waits += 1


class Index:
    """Images, as far as messages need them."""

    image_ids = np.arange(16)

    def __len__(self):
        return len(self.image_ids)

    def path(self, i):
        return f"{i}.jpg"


@pytest.fixture
def make_trainer():
    """Makes trainers; the handlers of signals are restored at the end."""
    made = []

    def make(step=None, folder=None, start=None, group=None, **options):
        options = TrainOptions(**{"iterations": 10, "log_every": 2, "snapshot_every": 4, "ap_every": 0} | options)
        window, start = Window(4, CPU), start or Start()
        made.append(Trainer(step or Step(), window, folder or Folder(), start, Index(), options, group or Group(CPU)))
        return made[-1]

    yield make
    for trainer in reversed(made):
        trainer.signals.restore()


def at(trainer, iteration):
    """The trainer after this iteration."""
    trainer.iteration = iteration
    return trainer


# load_batches


def test_a_new_run_starts_its_workers_only(make_trainer):
    trainer, loader = make_trainer(), [1, 2]
    trainer.load_batches(loader, 2)
    assert trainer.micro_batches_per_iteration == 2 and next(trainer.batches) == 1 and not trainer.folder.states


def test_a_resumed_run_restores_its_random_state_after_the_workers_have_drawn(make_trainer):
    class Loader:
        def __iter__(self):
            torch.rand(3)  # as PyTorch's loader draws a seed
            return iter([1])

    random = random_state()
    expected = torch.rand(3)
    trainer = make_trainer(start=Start(4, random), folder=Folder(saved=4))
    trainer.load_batches(Loader(), 1)
    assert torch.equal(torch.rand(3), expected)
    assert not trainer.folder.states  # the checkpoint is in the folder already
    trainer = make_trainer(start=Start(4, random))
    trainer.load_batches([], 1)
    assert [state["iteration"] for state in trainer.folder.states] == [4]  # the checkpoint is of another folder


@pytest.mark.parametrize(
    "earlier, made",
    [
        ({}, [("loss", 4), "AP"]),
        ({"val_loss": {4: 1.0}}, ["AP"]),
        ({"val_loss": {4: 1.0}, "val_AP": {4: 0.5}}, []),
        ({"val_loss": {2: 1.0}, "val_AP": {2: 0.5}}, [("loss", 4), "AP"]),
    ],
)
def test_a_resumed_run_makes_the_validation_that_is_missing(make_trainer, earlier, made):
    folder = Folder(Log(earlier), saved=4)
    trainer = make_trainer(start=Start(4, random_state()), folder=folder, validate_every=2, ap_every=4)
    trainer.validation = Validation()
    trainer.load_batches([], 1)
    assert trainer.validation.made == made


# wait_for_batches


def test_waiting_takes_the_micro_batches_of_an_iteration_and_counts_the_time(make_trainer):
    trainer = make_trainer()
    trainer.load_batches([make_batch(2, 0, n) for n in range(5)], 2)
    first, second = trainer.wait_for_batches(), trainer.wait_for_batches()
    assert [len(batches) for batches in (first, second)] == [2, 2]
    assert torch.equal(second[0].images, make_batch(2, 0, 2).images)
    assert trainer.window.iterations == 2 and trainer.window.waited > 0
    assert trainer.unreadable.seen == 8 and trainer.unreadable.failures == 0


def test_waiting_counts_unreadable_images_and_reports_each_once(make_trainer, logged):
    trainer = make_trainer()
    trainer.load_batches([make_batch(2, 0, unreadable=[BAD]) for _ in range(4)], 2)
    trainer.wait_for_batches()
    trainer.wait_for_batches()
    assert logged == ["skipped a.jpg: the file is empty"]
    assert (trainer.unreadable.seen, trainer.unreadable.failures) == (12, 4)


# asked_to_stop


def test_nobody_asked_to_stop(make_trainer):
    assert make_trainer().asked_to_stop() is False


@pytest.mark.parametrize("own, others, stop", [(None, 0, False), (15, 0, True), (None, 1, True), (15, 1, True)])
def test_a_signal_of_any_process_stops_all(make_trainer, own, others, stop):
    trainer = make_trainer(group=Together((others, 0, 0)))
    trainer.signals.stop = own
    assert trainer.asked_to_stop() == stop


def test_too_many_unreadable_images_of_all_processes_end_the_run(make_trainer):
    group = Together((0, 8, 1))
    trainer = make_trainer(group=group)
    trainer.unreadable.seen = 7
    assert not trainer.asked_to_stop()  # 15 images seen
    trainer.unreadable.seen = 8
    with pytest.raises(RunError, match="1 of the 16 images seen could not be read"):
        trainer.asked_to_stop()
    trainer.signals.stop = Signals.DEFAULT
    assert trainer.asked_to_stop()  # the run stops anyway


# step


def test_a_step_sets_the_learning_rate_and_adds_to_the_row(make_trainer):
    trainer = make_trainer(lr=1.0, lr_drops=(1,))
    batch = make_batch(2, 3)
    for _ in range(2):
        trainer.step([batch])
    assert trainer.iteration == 2 and trainer.update.rates == pytest.approx([1.0, 0.1])
    assert torch.equal(trainer.update.given[0][0].images, batch.images)
    assert trainer.window.steps == 2 and torch.equal(trainer.window.terms, 2 * TERMS)
    assert trainer.window.norm == 4


def test_a_step_that_is_not_finite_ends_the_run(make_trainer):
    trainer = make_trainer(Step(failures=[2]))
    trainer.step([])
    with pytest.raises(RunError, match=r"iteration 2: pull not finite, on 7\.jpg"):
        trainer.step([])
    assert trainer.iteration == 1 and trainer.window.steps == 1


def test_or_is_skipped_but_counts_as_an_iteration(make_trainer, logged):
    trainer = make_trainer(Step(failures=[2]), nan="skip")
    for _ in range(3):
        trainer.step([])
    assert logged == ["iteration 2: pull not finite, on 7.jpg: the step is skipped"]
    assert trainer.iteration == 3 and trainer.window.steps == 2 and trainer.non_finite.consecutive == 0


def test_ten_skipped_steps_in_a_row_end_the_run(make_trainer):
    trainer = make_trainer(Step(failures=range(2, 100)), nan="skip")
    for _ in range(10):
        trainer.step([])
    with pytest.raises(RunError, match="iteration 11: pull not finite"):
        trainer.step([])
    assert trainer.iteration == 10


# log


def test_rows_are_logged_when_due_and_at_the_end(make_trainer):
    trainer = make_trainer(iterations=5, lr=0.25, lr_drops=())
    for _ in range(5):
        trainer.step([])
        trainer.log()
    log = trainer.folder.log
    assert log.steps == 5 and [iteration for iteration, _ in log.rows] == [2, 4, 5]
    assert all(row["terms"] == TERMS.tolist() and row["lr"] == 0.25 for _, row in log.rows)
    assert trainer.window.steps == 0


def test_no_row_without_an_update(make_trainer):
    trainer = make_trainer(Step(failures=[1, 2]), nan="skip")
    for _ in range(4):
        trainer.step([])
        trainer.log()
    assert [iteration for iteration, _ in trainer.folder.log.rows] == [4]


# save_if_due, save


@pytest.mark.parametrize(
    "options, saved",
    [
        ({"snapshot_every": 4}, [4, 8, 10]),
        ({"snapshot_every": 0}, [10]),
        ({"snapshot_every": 5}, [5, 10]),
        ({"snapshot_every": 0, "ap_every": 3}, [3, 6, 9, 10]),
    ],
)
def test_checkpoints_are_saved_when_due_and_at_the_end(make_trainer, options, saved):
    trainer = make_trainer(**options)
    for _ in range(10):
        trainer.step([])
        trainer.save_if_due()
    assert [state["iteration"] for state in trainer.folder.states] == saved
    assert trainer.folder.states[0].keys() == {"iteration", "model", "optimizer", "scaler", "window", "random"}


def test_a_state_is_saved_once_by_the_first_process_and_the_others_wait(make_trainer):
    trainer = at(make_trainer(group=Together()), 3)
    trainer.save()
    trainer.save()
    assert [state["iteration"] for state in trainer.folder.states] == [3] and trainer.group.waits == 2
    trainer.save(wait=False)
    assert trainer.group.waits == 2
    other = at(make_trainer(group=Together(first=False)), 3)
    other.save()
    assert not other.folder.states and other.group.waits == 1


# validate_if_due, validate


def test_the_validation_is_made_when_due(make_trainer):
    trainer = make_trainer(validate_every=3, ap_every=4)
    trainer.validation = Validation()
    for iteration in range(1, 11):
        at(trainer, iteration).validate_if_due()
    losses, precisions = [("loss", i) for i in (3, 6, 9, 10)], [4, 8, 10]
    assert [made for made in trainer.validation.made if made != "AP"] == losses
    assert trainer.validation.made.count("AP") == len(precisions)


def test_never_validated_where_it_is_not_wanted(make_trainer):
    trainer = make_trainer(validate_every=0, ap_every=0)
    for iteration in range(1, 11):
        at(trainer, iteration).validate_if_due()  # there is no validation split to measure on


def test_not_at_the_end_of_a_run_shorter_than_the_interval(make_trainer):
    trainer = at(make_trainer(iterations=10), 10)
    assert [trainer.due(every) for every in (0, 5, 10, 11, 20)] == [False, True, True, False, False]


def test_figures_are_logged_and_the_best_checkpoint_is_kept(make_trainer, logged):
    trainer = at(make_trainer(), 4)
    trainer.validation = Validation({"AP": 0.25, "AP50": None})
    trainer.validate(False, True)
    assert trainer.folder.best == [(4, 0.25)]
    assert trainer.folder.log.rows == [(4, {"val_AP": 0.25, "val_AP50": None})]
    assert logged == ["iteration 4: validation AP 0.250, AP50 0.000"]
    trainer.validation = Validation(None)  # cut short, or another process
    trainer.validate(False, True)
    assert len(trainer.folder.best) == len(trainer.folder.log.rows) == 1


def test_saving_and_validating_do_not_count_for_the_speed(make_trainer):
    trainer, paused = at(make_trainer(validate_every=4), 4), []

    @contextmanager
    def record():
        paused.append("begin")
        yield
        paused.append("end")

    trainer.window.paused = record
    trainer.validation = SimpleNamespace(loss=lambda iteration: paused.append("loss"))
    trainer.folder.save = lambda *_: paused.append("save")
    trainer.save_if_due()
    trainer.validate_if_due()
    assert paused == ["begin", "save", "end", "begin", "loss", "end"]


# finish


def test_the_end_of_a_run(make_trainer, logged):
    trainer = at(make_trainer(folder=Folder(saved=10)), 10)
    assert trainer.finish() == 0
    assert logged == ["all iterations are done: weights in run/last.pt, curves in run/curves.png"]


@pytest.mark.parametrize("number, code", [(2, 130), (None, 128 + Signals.DEFAULT)])
def test_a_stopped_run(make_trainer, logged, number, code):
    """Where another process got the signal, its number is not known here."""
    trainer = at(make_trainer(folder=Folder(saved=6)), 6)
    trainer.signals.stop = number
    assert trainer.finish() == code
    (message,) = logged
    saved = "the state after iteration 6 is saved: continue with --resume"
    assert message == f"stopped by signal {code - 128} after iteration 6: {saved}"


def test_a_state_that_could_not_be_saved_is_an_error_of_the_first_process(make_trainer, logged):
    trainer = at(make_trainer(folder=Folder(full=True)), 10)
    trainer.save()
    with pytest.raises(RunError, match=r"all iterations are done, but .* \(the disk is full\); nothing is saved"):
        trainer.finish()
    other = at(make_trainer(group=Together(first=False)), 10)
    assert other.finish() == 0 and logged == []


# the loop as train.py makes it


def test_the_steps_together(make_trainer):
    trainer = make_trainer(iterations=6)
    with trainer.guarded() as guard:
        trainer.load_batches((make_batch(2, 0) for _ in range(12)), 2)
        while trainer.iteration < 6:
            micro_batches = trainer.wait_for_batches()
            assert not trainer.asked_to_stop()
            with guard.uninterrupted():
                trainer.step(micro_batches)
                trainer.log()
                trainer.save_if_due()
            trainer.validate_if_due()
            if trainer.iteration == 5:
                trainer.signals.stop = 15
                break
    assert [state["iteration"] for state in trainer.folder.states] == [4, 5]  # the last by the guard
    assert trainer.folder.closed and trainer.finish() == 143


def test_an_error_in_the_loop_says_what_is_saved(make_trainer):
    trainer = make_trainer(Step(failures=[3]))
    with pytest.raises(RunError, match="iteration 3: pull not finite.*; the state after iteration 2 is saved"):
        with trainer.guarded():
            while True:
                trainer.step([])
    assert trainer.folder.closed
