"""What ends a run, or does not: unreadable images, losses that are not finite, errors and signals in the loop."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from db import DataError
from nnet.runtime.errors import RunError
from nnet.runtime.signals import Signals
from nnet.training.faults import NON_FINITE_LIMIT, Guard, NonFiniteCount, UnreadableCount
from nnet.training.step import NonFinite
from sample.dataset import Unreadable
from tests.builders import make_batch

# Unreadable images


def test_unreadable_images_are_told_once_and_end_the_run_past_one_percent():
    bad = [Unreadable("a.jpg", "the file is empty")]
    count = UnreadableCount(1000)
    assert count.add(make_batch(4, 0, unreadable=bad)) == ["skipped a.jpg: the file is empty"]
    assert count.add(make_batch(4, 0, unreadable=bad)) == []
    assert (count.seen, count.failures) == (10, 2)
    count.check(199, 199)  # too early to tell
    count.check(200, 2)
    with pytest.raises(RunError, match=r"3 of the 200 images seen .* more than 1% \(a\.jpg: the file is empty\)"):
        count.check(200, 3)
    small = UnreadableCount(16)
    small.check(15, 1)
    with pytest.raises(RunError, match="1 of the 16 images"):
        small.check(16, 1)


# Losses and gradients that are not finite

INDEX = SimpleNamespace(image_ids=np.array([3, 5]), path=lambda i: f"{[3, 5][i]}.jpg")
NAN = NonFinite(("pull",), (5,))


def test_a_non_finite_step_ends_the_run():
    with pytest.raises(RunError, match=r"^iteration 7: pull not finite, on 5\.jpg: try a lower train\.lr") as e:
        NonFiniteCount("stop", INDEX).skip(7, NAN)
    assert e.value.__cause__ is NAN


def test_or_is_skipped_until_there_are_ten_in_a_row(logged):
    count = NonFiniteCount("skip", INDEX)
    for iteration in range(1, NON_FINITE_LIMIT):
        count.skip(iteration, NAN)
    assert logged[0] == "iteration 1: pull not finite, on 5.jpg: the step is skipped"
    assert len(logged) == NON_FINITE_LIMIT - 1
    count.finite()
    for iteration in range(1, NON_FINITE_LIMIT):
        count.skip(iteration, NAN)
    with pytest.raises(RunError, match=f"iteration {NON_FINITE_LIMIT}: pull not finite"):
        count.skip(NON_FINITE_LIMIT, NAN)


# The loop


class Trainer:
    """What Guard needs of a trainer: records what is called."""

    def __init__(self, first=True, close_error=None):
        self.signals = Signals()
        self.group = SimpleNamespace(first=first)
        self.close_error = close_error
        self.calls = []

    def save(self, wait=True):
        self.calls.append(f"save, wait={wait}, deferring={self.signals.deferring}")

    def saved(self):
        return "the state after iteration 3 is saved"

    def close(self):
        self.calls.append("close")
        if self.close_error:
            raise self.close_error


@pytest.fixture(autouse=True)
def handlers():
    """Restores the handlers of signals, which Guard has to restore itself."""
    before = {s: signal.getsignal(s) for s in Signals.STOP}
    yield
    restored = {s: signal.getsignal(s) for s in Signals.STOP} == before
    for number, handler in before.items():
        signal.signal(number, handler)
    assert restored


ENDED = ["save, wait=True, deferring=True", "close"]  # the end of a loop that nothing has interrupted
FAILED = ["save, wait=False, deferring=True", "close"]  # the others may never come


def test_the_end_of_the_loop_saves_and_closes():
    trainer = Trainer()
    with Guard(trainer) as guard:
        with guard.uninterrupted():
            assert trainer.signals.deferring
        assert not trainer.signals.deferring
    assert trainer.calls == ENDED


@pytest.mark.parametrize(
    "error, reason",
    [
        (DataError("train is empty"), "train is empty"),
        (RunError("diverged"), "diverged"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory"), "train.batch smaller"),
        (RuntimeError("DataLoader worker (pid 3) is killed"), "train.workers"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_error_that_the_user_can_mend_says_what_is_saved(error, reason, first):
    trainer = Trainer(first)
    with pytest.raises(RunError) as e:
        with Guard(trainer):
            raise error
    text = str(e.value)
    assert reason in text and e.value.__cause__ is error
    assert text.endswith("; the state after iteration 3 is saved") == first  # only rank 0 saves
    assert trainer.calls == FAILED


def test_a_fault_of_the_program_keeps_its_traceback_and_the_state_is_saved():
    trainer = Trainer()
    with pytest.raises(ZeroDivisionError):
        with Guard(trainer):
            raise ZeroDivisionError
    assert trainer.calls == FAILED


def test_errors_after_a_signal_are_part_of_the_stop():
    """Clusters send a signal to the workers too, whose death is then no error."""
    trainer = Trainer()
    with Guard(trainer):
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("DataLoader worker (pid 3) is killed by signal: Terminated.")
    assert trainer.calls == FAILED and trainer.signals.stop == signal.SIGTERM
    with pytest.raises(RunError, match="diverged"):
        with Guard(trainer := Trainer()):
            signal.raise_signal(signal.SIGTERM)
            raise RunError("diverged")
    assert trainer.calls == FAILED


def test_ctrl_c_twice_closes_without_saving():
    trainer = Trainer()
    with pytest.raises(KeyboardInterrupt):
        with Guard(trainer):
            raise KeyboardInterrupt
    assert trainer.calls == ["close"]


def test_curves_that_cannot_be_written_are_reported(capsys):
    trainer = Trainer(close_error=OSError(28, "No space left on device"))
    with Guard(trainer):
        pass
    assert trainer.calls == ENDED
    assert "no curves: " in capsys.readouterr().err


def test_an_error_while_saving_closes_too():
    class Failing(Trainer):
        def save(self, wait=True):
            raise RuntimeError("in saving")

    with pytest.raises(RuntimeError, match="in saving"):
        with Guard(trainer := Failing()):
            pass
    assert trainer.calls == ["close"]
