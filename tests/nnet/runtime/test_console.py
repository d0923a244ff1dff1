"""Log messages: which process shows which, and where."""

import logging

import pytest

from nnet.runtime.console import LOGGER, ProgressHandler, progress_bar, set_up_logging


@pytest.fixture(autouse=True)
def logger():
    """Restores the logger."""
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    yield logger
    logger.handlers, logger.level, logger.propagate = before


def record(level):
    return logging.LogRecord(LOGGER, level, __file__, 1, "a %s", ("message",), None)


@pytest.mark.parametrize("rank, shown", [(0, [True, True, True]), (1, [False, True, True]), (7, [False, True, True])])
def test_rank_0_shows_all_messages_the_others_warnings_only(rank, shown):
    handler = ProgressHandler(rank)
    assert [bool(handler.filter(record(level))) for level in (logging.INFO, logging.WARNING, logging.ERROR)] == shown


@pytest.mark.parametrize("rank, to_stderr", [(0, False), (0, True), (1, False), (1, True)])
def test_messages_of_a_process(rank, to_stderr, capsys):
    set_up_logging(rank, to_stderr)
    log = logging.getLogger("nnet.training.trainer")
    log.debug("details")
    log.info("iteration %d", 3)
    log.warning("skipped %s", "a.jpg")
    out, err = capsys.readouterr()
    shown = "skipped a.jpg\n" if rank else "iteration 3\nskipped a.jpg\n"
    assert (out, err) == (("", shown) if rank or to_stderr else (shown, ""))


def test_a_second_set_up_replaces_the_first(capsys, logger):
    set_up_logging(1)
    set_up_logging(0)
    logger.info("once")
    assert capsys.readouterr() == ("once\n", "") and len(logger.handlers) == 1


def test_messages_are_shown_above_the_bar(capsys):
    set_up_logging(0)
    with progress_bar(total=2) as bar:
        bar.update()
        logging.getLogger(LOGGER).info("above")
    assert capsys.readouterr().out == "above\n"


def test_other_libraries_are_left_alone(capsys):
    set_up_logging(0)
    logging.getLogger("torch").info("of a library")
    assert capsys.readouterr() == ("", "")
