"""Reading and writing in threads."""

import itertools
import threading
from contextlib import closing

import pytest

from nnet.runtime.background import WriteBehind, read_ahead


@pytest.mark.parametrize("threads, ahead", [(0, 0), (1, 1), (3, 4), (2, 100)])
def test_results_come_in_order(threads, ahead):
    assert list(read_ahead(range(20), lambda i: i * i, threads, ahead)) == [i * i for i in range(20)]


def test_no_more_is_read_than_asked_for():
    read = []
    with closing(read_ahead(itertools.count(), lambda i: read.append(i) or i, 2, 3)) as results:
        assert [next(results) for _ in range(5)] == list(range(5))
    assert len(read) <= 5 + 3 + 1


def test_without_threads_nothing_is_read_before_it_is_asked_for():
    read = []
    results = read_ahead(itertools.count(), lambda i: read.append((i, threading.current_thread())) or i, threads=0)
    assert next(results) == 0 and next(results) == 1
    assert read == [(0, threading.main_thread()), (1, threading.main_thread())]


def test_an_exception_takes_the_place_of_its_result():
    results = read_ahead([1, 0, 2], lambda i: 1 // i)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_calls_are_made_in_order_and_waited_for():
    done = []
    with WriteBehind(limit=2) as behind:
        for i in range(9):
            behind(done.append, i)
    assert done == list(range(9))


def test_calls_wait_while_too_many_are_waiting():
    gate, started = threading.Event(), threading.Event()
    with WriteBehind(limit=2) as behind:
        behind(gate.wait)
        behind(int)
        third = threading.Thread(target=lambda: (behind(int), started.set()))
        third.start()
        assert not started.wait(0.05)
        gate.set()
        third.join(10)
        assert started.is_set()


def test_faults_of_calls_are_raised():
    with pytest.raises(ZeroDivisionError), WriteBehind() as behind:
        behind(lambda: 1 // 0)
    with pytest.raises(KeyError), WriteBehind() as behind:  # what is under way already is not replaced
        behind(lambda: 1 // 0)
        raise KeyError
