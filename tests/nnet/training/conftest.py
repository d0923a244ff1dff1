"""Fixtures of the tests of training."""

import logging

import pytest
import torch

from nnet.runtime.console import LOGGER


@pytest.fixture(autouse=True)
def one_thread():
    """PyTorch computes in one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def flags():
    """Restores the flags of TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def logged():
    """The log messages of the repository, as they come."""

    class Messages(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    messages, logger = [], logging.getLogger(LOGGER)
    before = logger.handlers, logger.level
    logger.handlers = [Messages()]
    logger.setLevel(logging.INFO)  # sets it for messages too that were off before
    yield messages
    logger.handlers = before[0]
    logger.setLevel(before[1])
