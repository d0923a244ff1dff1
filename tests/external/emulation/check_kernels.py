"""Compares the kernels with stock PyTorch, at sizes around those of tiles, blocks and grids.

Run by `python -m tests.external.emulation`, with at most 2 blocks per grid in one of the runs.
"""

import ctypes
import os
import re

import pytest
import torch

from external import corner_pool
from external.corner_pool import DIRECTIONS, WHOLE
from external.focal_loss import focal_loss
from tests.external import test_corner_pool as pools
from tests.external import test_focal_loss as losses
from tests.external.emulation.build import sources
from tests.external.emulation.translate import kernels

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# A tile of the row kernels has 32 rows by 32 steps, and a block 2 tiles. The column kernels read 16 elements at once,
# and have 256 columns per block.
SHAPES = [(1, 1, 1, 1), (1, 1, 31, 33), (2, 3, 33, 70), (1, 2, 65, 32), (3, 4, 9, 70), (1, 40, 8, 64)]
PAIRS = [*SHAPES, (1, 9, 17, 130), (1, 2, 9, 520), (2, 1, 2, 1030)]
# A block of the loss has 256 threads with 4 elements each; the partial sums of 256 blocks are added at once
COUNTS = [1, 3, 4, 5, 1023, 1024, 1025, 2047, 5003]
MANY = 257 * 1024 + 2


@pytest.fixture(autouse=True)
def filled_memory():
    """New tensors are filled with NaN, so that elements that a kernel does not write are noticed."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")
    yield
    torch.set_deterministic_debug_mode(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_pool(direction: str, dtype, layout) -> None:
    dim, scan = DIRECTIONS[direction]
    for special in (False, True):
        for seed, shape in enumerate(SHAPES):
            x, grad = (t.to(dtype).contiguous(memory_format=layout) for t in pools.sample(shape, seed, special))
            pools.expect_equal(torch.ops.corner_pool.pool(x, dim, scan), corner_pool._stock_pool(x, dim, scan))
            got = torch.ops.corner_pool.pool_backward(grad, x, dim, scan)
            pools.expect_equal(got, corner_pool._stock_pool_backward(grad, x, dim, scan))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scans", [(0, 1), (1, WHOLE), (WHOLE, 0)])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_pool_sum(scans: tuple[int, int], dtype, layout) -> None:
    for seed, shape in enumerate(PAIRS):
        a, b = (pools.sample(shape, seed + i, special=True)[0].to(dtype) for i in range(2))
        a, b = (t.contiguous(memory_format=layout) for t in (a, b))
        got = torch.ops.corner_pool.pool_sum(a, scans[0], b, scans[1])
        pools.expect_equal(got, corner_pool._stock_pool_sum(a, scans[0], b, scans[1]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("terms", [(), (1.5, 3.0, 1e-3)])
def test_focal_loss(dtype, terms: tuple[float, ...]) -> None:
    for count in [*COUNTS, *([] if terms else [MANY])]:
        logits, target = losses.sample(count, positives=min(count, 3), seed=count, dtype=dtype)
        losses.check(focal_loss, logits, target, *terms)
        losses.check_masked(focal_loss, logits, target, torch.arange(count) % 3 == 0, *terms)
        if 1 < count < MANY:
            for x, t in ((logits[1:], target[1:].clone()), (logits[1:].clone(), target[1:])):  # one is not aligned
                losses.check(focal_loss, x, t, *terms)


def test_all_kernels_ran() -> None:
    """The tests above launch each kernel, for each dtype."""
    dtypes = {}
    for path in os.environ["EMULATED_LIBRARIES"].split(os.pathsep):
        launches = ctypes.CDLL(path).emulated_launches
        launches.restype = ctypes.c_char_p
        for line in launches().decode().splitlines():
            name = re.search(r"(\w+)\(", line)[1]
            dtypes.setdefault(name, set()).add(re.search(r"\b[TW] = ([\w:]+)", line)[1])
    assert dtypes.keys() == set().union(*(kernels(source.read_text()) for source in sources()))
    for name, launched in dtypes.items():
        assert len(launched) == (2 if name == "total_sum" else 4), (name, launched)  # sums are float or double
