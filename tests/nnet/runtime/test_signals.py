"""Signals that ask a run to stop, and workers that die during a step."""

import signal

import pytest

from nnet.runtime.signals import Signals


@pytest.mark.parametrize("number", Signals.STOP)
def test_a_signal_asks_to_stop_and_only_a_second_ctrl_c_acts_at_once(number, monkeypatch):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(1))
    signals = Signals()
    try:
        signal.raise_signal(number)
        signal.raise_signal(number)  # the same once more, passed on by torchrun
        assert signals.stop == number and not acted
        monkeypatch.setattr(Signals, "SAME", 0.0)
        signal.raise_signal(number)
        assert acted == ([1] if number == signal.SIGINT else [])
    finally:
        signals.restore()
        signal.signal(number, before)


def test_a_dead_worker_is_reported_after_the_step():
    def report(number, frame):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, report)
    signals, steps = Signals(), []
    try:
        signals.watch_workers()
        with pytest.raises(RuntimeError, match="worker is killed"):
            with signals.held():
                signal.raise_signal(signal.SIGCHLD)
                steps.append(1)
        assert steps == [1]
        with pytest.raises(RuntimeError, match="worker is killed"):
            signal.raise_signal(signal.SIGCHLD)
    finally:
        signals.restore()
        signal.signal(signal.SIGCHLD, before)
