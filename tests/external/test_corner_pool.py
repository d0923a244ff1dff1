"""Corner and center pooling: the compiled operators and their fallback in stock PyTorch, compared with plain loops and
with the released implementation's recorded outputs.
"""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from external import corner_pool
from external.corner_pool import DIRECTIONS, FORWARD, REVERSE, WHOLE, bottom_pool, left_pool, right_pool, top_pool

POOLS = {"top": top_pool, "bottom": bottom_pool, "left": left_pool, "right": right_pool}
SERIES = {"column": ("top", "bottom"), "row": ("left", "right")}
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def needs(device: str) -> list[pytest.MarkDecorator]:
    """Marks of a test of the compiled operators on a device."""
    built = pytest.mark.skipif(device not in corner_pool._DEVICES, reason=f"no operators compiled for {device}")
    return [NO_GPU, built] if device == "cuda" else [built]


needs_compiled = needs("cpu")[0]
compiled_devices = pytest.mark.parametrize(
    "device", [pytest.param(name, marks=needs(name)) for name in ("cpu", "cuda")]
)


class Stock(torch.autograd.Function):
    """The stock PyTorch fallback of the operators, with its own backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, scan: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.line = dim, scan
        return corner_pool._stock_pool(x, dim, scan)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return corner_pool._stock_pool_backward(grad, *ctx.saved_tensors, *ctx.line), None, None


IMPLEMENTATIONS = {"compiled": torch.ops.corner_pool.pool, "stock": Stock.apply}
implementations = pytest.mark.parametrize(
    "pool, device",
    [
        *(pytest.param(IMPLEMENTATIONS["compiled"], d, id=f"compiled-{d}", marks=needs(d)) for d in ("cpu", "cuda")),
        pytest.param(IMPLEMENTATIONS["stock"], "cpu", id="stock-cpu"),
        pytest.param(IMPLEMENTATIONS["stock"], "cuda", id="stock-cuda", marks=NO_GPU),
    ],
)


def plain(x: Tensor, grad: Tensor, dim: int, scan: int) -> tuple[Tensor, Tensor]:
    """Reference by plain loops: the pooled map and the gradient.

    The gradient is summed in scan order, in float32 for the 16-bit dtypes.
    """
    if scan == WHOLE:  # two opposite scans in series
        y, _ = plain(x, grad, dim, REVERSE)
        whole, grad_y = plain(y, grad, dim, FORWARD)
        return whole, plain(x, grad_y, dim, REVERSE)[1]
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    lines, grads = (t.detach().to(wide).cpu().transpose(dim, 3).contiguous() for t in (x, grad))
    y, gx = torch.empty_like(lines), torch.zeros_like(lines)
    for index in np.ndindex(*lines.shape[:3]):
        values, best = lines[index], None
        steps = range(len(values))
        for i in reversed(steps) if scan == REVERSE else steps:
            if best is None or values[i] > values[best] or (values[i].isnan() and not values[best].isnan()):
                best = i
            y[index][i] = values[best]
            gx[index][best] += grads[index][i]
    return y.transpose(dim, 3).to(x.dtype), gx.transpose(dim, 3).to(x.dtype)


def run(pool, x: Tensor, grad: Tensor, dim: int, scan: int) -> tuple[Tensor, Tensor]:
    """The pooled map and the gradient."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = pool(x, dim, scan)
    y.backward(grad)
    return y.detach(), x.grad


def expect_equal(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=0, atol=0, equal_nan=True)


def expect_gradient(pool, got: Tensor, wanted: Tensor) -> None:
    """Gradients are equal, but for those of the fallback on a GPU, where scatter_add_ adds in any order."""
    if got.is_cuda and pool is IMPLEMENTATIONS["stock"]:
        torch.testing.assert_close(got.cpu(), wanted.cpu(), equal_nan=True)
    else:
        expect_equal(got, wanted)


def sample(shape: tuple[int, ...], seed: int = 0, special: bool = False) -> tuple[Tensor, Tensor]:
    """An input with many ties (small integers after a ReLU) and an upstream gradient.

    special: the input also has NaNs and infinities.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, shape, generator=generator).relu().double()
    if special:
        draw = torch.rand(shape, generator=generator)
        x[draw < 0.05] = float("nan")
        x[(draw > 0.05) & (draw < 0.10)] = float("inf")
        x[(draw > 0.10) & (draw < 0.40)] = float("-inf")
    return x, torch.randn(shape, generator=generator, dtype=torch.float64)


@implementations
@pytest.mark.parametrize("direction", POOLS)
def test_golden_corner_pool(goldens: Path, pool, device: str, direction: str) -> None:
    arrays = np.load(goldens / "corner_pool.npz")
    dim, scan = DIRECTIONS[direction]
    for case in sorted({key.split("_")[0] for key in arrays}):
        x, grad, y, gx = (
            torch.from_numpy(arrays[f"{case}_{key}"]) for key in ("x", "g", f"{direction}_y", f"{direction}_gx")
        )
        for layout in LAYOUTS:
            got = run(pool, x.to(device).contiguous(memory_format=layout), grad.to(device), dim, scan)
            expect_equal(got[0], y)
            expect_gradient(pool, got[1], gx)


@implementations
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_definition(pool, direction: str, device: str, layout, dtype) -> None:
    dim, scan = DIRECTIONS[direction]
    for seed, shape in enumerate([(2, 3, 5, 7), (1, 1, 1, 1), (3, 2, 1, 9), (1, 9, 9, 1), (1, 2, 3, 41)]):
        x, grad = (t.to(dtype) for t in sample(shape, seed, special=True))
        y, gx = plain(x, grad, dim, scan)
        got = run(pool, x.to(device).contiguous(memory_format=layout), grad.to(device), dim, scan)
        expect_equal(got[0], y)
        expect_gradient(pool, got[1], gx)
        assert got[0].dtype == got[1].dtype == dtype


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "device, threads",
    [*(pytest.param("cpu", n, marks=needs("cpu")) for n in (1, 2)), pytest.param("cuda", 1, marks=needs("cuda"))],
)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_large_equals_stock(direction: str, layout, device: str, threads: int) -> None:
    """A size that is divided into several work items, with a remainder."""
    dim, scan = DIRECTIONS[direction]
    x, grad = (t.float().contiguous(memory_format=layout) for t in sample((2, 13, 67, 71), 5))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [
            run(IMPLEMENTATIONS["compiled"], x.to(device), grad.to(device), dim, scan),
            run(IMPLEMENTATIONS["stock"], x, grad, dim, scan),
        ]
    finally:
        torch.set_num_threads(before)
    expect_equal(results[0][0], results[1][0])
    expect_equal(results[0][1], results[1][1])


@implementations
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_empty(pool, device: str, shape, direction: str) -> None:
    dim, scan = DIRECTIONS[direction]
    y, gx = run(pool, torch.empty(shape, device=device), torch.empty(shape, device=device), dim, scan)
    assert y.shape == gx.shape == shape


@implementations
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_strides(pool, device: str, direction: str) -> None:
    """Contiguous and channels_last inputs keep their memory format, others become contiguous.

    Upstream gradients may have any strides.
    """
    dim, scan = DIRECTIONS[direction]
    x, grad = (t.float().to(device) for t in sample((4, 6, 8, 10)))
    wanted = plain(x, grad, dim, scan)
    dense = x.contiguous(memory_format=torch.channels_last)
    assert pool(x, dim, scan).is_contiguous()
    assert pool(dense, dim, scan).is_contiguous(memory_format=torch.channels_last)
    strided = torch.empty(8, 6, 16, 10, device=device)[::2, :, 1::2].copy_(x)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert pool(strided, dim, scan).is_contiguous() and pool(transposed, dim, scan).is_contiguous()
    for given_x in (x, dense, strided, transposed):
        for given_grad in (
            grad,
            grad.contiguous(memory_format=torch.channels_last),
            grad.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            leaf = given_x.detach().requires_grad_()
            y = pool(leaf, dim, scan)
            (gx,) = torch.autograd.grad(y, leaf, given_grad)
            expect_equal(y.detach(), wanted[0])
            expect_gradient(pool, gx, wanted[1])
    expanded = torch.autograd.grad(pool(x.requires_grad_(), dim, scan).sum(), x)[0]  # gradient of stride 0
    expect_gradient(pool, expanded, plain(x, torch.ones_like(x), dim, scan)[1])


def test_public_functions() -> None:
    x = torch.tensor([[[[1.0, 3.0, 2.0], [4.0, 0.0, 2.0]]]])
    assert top_pool(x).tolist() == [[[[4, 3, 2], [4, 0, 2]]]]
    assert bottom_pool(x).tolist() == [[[[1, 3, 2], [4, 3, 2]]]]
    assert left_pool(x).tolist() == [[[[3, 3, 2], [4, 2, 2]]]]
    assert right_pool(x).tolist() == [[[[1, 3, 3], [4, 4, 4]]]]
    assert corner_pool.pool(x, "column").tolist() == [[[[4, 3, 2], [4, 3, 2]]]]
    assert corner_pool.pool(x, "row").tolist() == [[[[3, 3, 3], [4, 4, 4]]]]
    assert corner_pool.pool_sum(x, "top", x, "left").tolist() == [[[[7, 6, 4], [8, 2, 4]]]]
    assert corner_pool.pool_sum(x, "column", x, "row").tolist() == [[[[7, 6, 5], [8, 7, 6]]]]


@implementations
def test_gradients(pool, device: str) -> None:
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    x = x.to(device).requires_grad_()
    for dim, scan in DIRECTIONS.values():
        assert torch.autograd.gradcheck(pool, (x, dim, scan))
        if pool is IMPLEMENTATIONS["compiled"]:
            assert torch.autograd.gradgradcheck(pool, (x, dim, scan))


@compiled_devices
def test_gradients_of_sum(device: str) -> None:
    generator = torch.Generator().manual_seed(4)
    a, b = (
        torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=generator).to(device).requires_grad_() for _ in range(2)
    )
    for scans in [(REVERSE, REVERSE), (FORWARD, WHOLE), (WHOLE, FORWARD)]:
        arguments = (a, scans[0], b, scans[1])
        assert torch.autograd.gradcheck(torch.ops.corner_pool.pool_sum, arguments)
        assert torch.autograd.gradgradcheck(torch.ops.corner_pool.pool_sum, arguments)


@compiled_devices
def test_opcheck(device: str) -> None:
    ops = torch.ops.corner_pool
    for shape in [(2, 3, 4, 5), (1, 3, 1, 5), (2, 0, 3, 3)]:
        for layout in LAYOUTS:
            x = torch.randn(shape, device=device).contiguous(memory_format=layout)
            leaf, other = x.clone().requires_grad_(), torch.randn_like(x).requires_grad_()
            for dim, scan in [(2, REVERSE), (3, FORWARD), (3, WHOLE)]:
                torch.library.opcheck(ops.pool, (leaf, dim, scan))
                torch.library.opcheck(ops.pool_backward, (torch.randn_like(x), x, dim, scan))
            torch.library.opcheck(ops.pool_sum, (leaf, REVERSE, other, WHOLE))
    transposed = torch.randn(2, 3, 5, 4, device=device).transpose(2, 3)
    torch.library.opcheck(ops.pool, (transposed, 2, REVERSE))
    torch.library.opcheck(ops.pool_sum, (transposed, FORWARD, transposed.contiguous(), REVERSE))


strided = st.sampled_from(["dense", "sliced", "transposed", "expanded"])


def with_strides(x: Tensor, how: str) -> Tensor:
    """The same values with other strides ("expanded": all images become the first one)."""
    if how == "sliced":
        wider = torch.empty(x.shape[0], 2 * x.shape[1], x.shape[2], x.shape[3] + 3, dtype=x.dtype, device=x.device)
        return wider[:, ::2, :, 2:-1].copy_(x)
    if how == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x[:1].expand_as(x) if how == "expanded" else x


@compiled_devices
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 70), st.integers(0, 40), st.integers(0, 70)),
    direction=st.sampled_from(sorted(DIRECTIONS)),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(LAYOUTS),
    strides=st.tuples(strided, strided),
    seed=st.integers(0, 1000),
)
def test_property_pool(device: str, shape, direction: str, dtype, layout, strides, seed: int) -> None:
    """Any size, dtype, memory format and strides: the compiled kernels and the fallback agree bit for bit.

    Both sum gradients in scan order.
    """
    dim, scan = DIRECTIONS[direction]
    x, grad = (
        with_strides(t.to(device, dtype).contiguous(memory_format=layout), how)
        for t, how in zip(sample(shape, seed, special=True), strides, strict=True)
    )
    y, gx = torch.ops.corner_pool.pool(x, dim, scan), torch.ops.corner_pool.pool_backward(grad, x, dim, scan)
    expect_equal(y, corner_pool._stock_pool(x.cpu(), dim, scan))
    expect_equal(gx, corner_pool._stock_pool_backward(grad.cpu(), x.cpu(), dim, scan))
    assert y.stride() == gx.stride() == corner_pool._empty_like(x).stride()


@compiled_devices
@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 70), st.integers(0, 40), st.integers(0, 70)),
    directions=st.tuples(*[st.sampled_from(sorted(DIRECTIONS))] * 2),
    dtype=st.sampled_from(DTYPES),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    strides=st.tuples(strided, strided),
    seed=st.integers(0, 1000),
)
def test_property_pool_sum(device: str, shape, directions, dtype, layouts, strides, seed: int) -> None:
    """pool_sum equals the sum of the two pools bit for bit, in any two directions; so do its gradients."""
    leaves = [
        with_strides(
            sample(shape, seed + i, special=True)[0].to(device, dtype).contiguous(memory_format=layouts[i]), how
        )
        .detach()
        .requires_grad_()
        for i, how in enumerate(strides)
    ]
    grad = sample(shape, seed + 2)[1].to(device, dtype)
    (a, b), (first, second) = leaves, directions
    y = corner_pool.pool_sum(a, first, b, second)
    wanted = corner_pool.pool(a, first) + corner_pool.pool(b, second)
    expect_equal(y.detach(), wanted.detach())
    for got, want in zip(torch.autograd.grad(y, leaves, grad), torch.autograd.grad(wanted, leaves, grad), strict=True):
        expect_equal(got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("line", SERIES)
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs("cuda"))])
def test_whole_lines_equal_two_pools_in_series(line: str, dtype, device: str) -> None:
    first, second = SERIES[line]
    x, grad = (t.to(device, dtype) for t in sample((2, 20, 19, 35), 3, special=True))
    leaf = x.requires_grad_()
    y, series = corner_pool.pool(leaf, line), corner_pool.pool(corner_pool.pool(leaf, first), second)
    expect_equal(y.detach(), series.detach())
    expect_equal(torch.autograd.grad(y, leaf, grad)[0], torch.autograd.grad(series, leaf, grad)[0])


@compiled_devices
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_16_bit_number(dtype, device: str) -> None:
    """The kernels convert 16-bit numbers as PyTorch does: sums of any two numbers, and gradients of any size."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).view(64, 4, 16, 16)
    other = numbers.flatten()[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))].view_as(numbers)
    numbers, other = numbers.to(device), other.to(device)
    corner = (slice(None), slice(None), slice(0, 1), slice(0, 1))  # the top-left element of each map
    for a, b in [(numbers, other), (numbers, numbers), (other, numbers)]:
        flat_a, flat_b = (t.reshape(-1, 64, 1, 1).contiguous() for t in (a, b))  # pools do not change 1x1 maps
        expect_equal(torch.ops.corner_pool.pool_sum(flat_a, FORWARD, flat_b, FORWARD), flat_a + flat_b)
        expect_equal(corner_pool.pool(a, "top")[corner], a.flip(2).cummax(2).values.flip(2)[corner])
        ties = torch.zeros_like(a).contiguous()  # so that the gradients of whole lines are summed, in float32
        for dim in (2, 3):
            got = torch.ops.corner_pool.pool_backward(a, ties, dim, FORWARD)
            expect_equal(got, corner_pool._stock_pool_backward(a.cpu(), ties.cpu(), dim, FORWARD))


@needs_compiled
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_instruction_sets(capability: str) -> None:
    """The kernels for older processors. All other tests run the kernels for the best instruction set."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        [*tests, "-k", "property or 16_bit or whole_lines"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@compiled_devices
def test_long_lines(device: str) -> None:
    """Lines so long that the scratch memory holds few of them, or none."""
    for shape in [(1, 2, 70001, 2), (1, 2, 2, 70001), (1, 20, 70001, 1)]:
        x, grad = (t.float() for t in sample(shape, 1))
        for layout in LAYOUTS:
            given_x = x.contiguous(memory_format=layout)
            for dim, scan in DIRECTIONS.values():
                there = given_x.to(device)
                expect_equal(torch.ops.corner_pool.pool(there, dim, scan), corner_pool._stock_pool(x, dim, scan))
                got = torch.ops.corner_pool.pool_backward(grad.to(device), there, dim, scan)
                expect_equal(got, corner_pool._stock_pool_backward(grad, x, dim, scan))


def test_saves_only_the_inputs() -> None:
    """Only the input maps are saved for the backward pass."""
    a, b = (torch.randn(2, 3, 5, 6).requires_grad_() for _ in range(2))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        corner_pool.pool_sum(a, "top", b, "left")
        top_pool(a)
    assert [t.data_ptr() for t in kept] == [a.data_ptr(), b.data_ptr(), a.data_ptr()]


@compiled_devices
@pytest.mark.skipif(not os.environ.get("HUGE_TESTS"), reason="needs 13 GB and a minute: set HUGE_TESTS=1")
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_more_than_2_to_31_elements(direction: str, layout, device: str) -> None:
    """The first and the last lines of a tensor whose offsets do not fit into 32 bits."""
    dim, scan = DIRECTIONS[direction]
    shape = (3, 64, 1024, 11008)
    x = torch.zeros(shape, dtype=torch.bfloat16, device=device).contiguous(memory_format=layout)
    assert x.numel() > 2**31
    for b in (0, 2):
        x[b, -1] = torch.randn(1024, 11008, generator=torch.Generator().manual_seed(b)).bfloat16()
    parts = [x[b : b + 1, -1:].contiguous() for b in (0, 2)]
    y = torch.ops.corner_pool.pool(x, dim, scan)
    for b, part in zip((0, 2), parts, strict=True):
        expect_equal(y[b : b + 1, -1:], torch.ops.corner_pool.pool(part, dim, scan))
    assert not y[1].any()
    del y
    gx = torch.ops.corner_pool.pool_backward(x, x, dim, scan)
    for b, part in zip((0, 2), parts, strict=True):
        expect_equal(gx[b : b + 1, -1:], torch.ops.corner_pool.pool_backward(part, part, dim, scan))


class Pools(torch.nn.Module):
    """All pools after a convolution, as in a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = top_pool(x) + bottom_pool(x) * left_pool(x) - right_pool(x)
        return corner_pool.pool_sum(x, "column", x.tanh(), "row") + corner_pool.pool_sum(x, "left", x.sin(), "top")


@pytest.mark.parametrize("device", DEVICES)
def test_compile_and_deepcopy(device: str) -> None:
    torch.manual_seed(0)
    model = Pools().to(device)
    x = torch.randn(2, 3, 6, 7, device=device)
    wanted = model(x)
    clone = copy.deepcopy(model)
    compiled = torch.compile(clone, fullgraph=True, backend="aot_eager")
    got = compiled(x)
    torch.testing.assert_close(got, wanted)
    got.square().sum().backward()
    wanted.square().sum().backward()
    torch.testing.assert_close(clone.conv.weight.grad, model.conv.weight.grad)


@implementations
def test_autocast_leaves_dtype(pool, device: str) -> None:
    with torch.autocast(device, dtype=torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            assert pool(torch.randn(1, 2, 3, 4, device=device, dtype=dtype), 2, True).dtype == dtype


def test_bad_input() -> None:
    x = torch.zeros(1, 2, 3, 4)
    for bad in (lambda y: top_pool(y), lambda y: corner_pool.pool_sum(x, "top", y, "left")):
        with pytest.raises(ValueError, match=r"4-D tensor \(B, C, H, W\), got 3-D"):
            bad(torch.zeros(2, 3, 4))
        with pytest.raises(TypeError, match="float32, float64, float16 or bfloat16, got"):
            bad(x.int())
    with pytest.raises(ValueError, match="unknown direction 'up', expected one of top, bottom"):
        corner_pool.pool(x, "up")
    with pytest.raises(ValueError, match="maps of the same shape"):
        corner_pool.pool_sum(x, "top", x[:, :1], "left")
    with pytest.raises(TypeError, match="maps of the same dtype"):
        corner_pool.pool_sum(x, "top", x.double(), "left")


@needs_compiled
def test_bad_input_of_operators() -> None:
    """The operators themselves reject arguments that would make memory accesses unsafe."""
    ops, x = torch.ops.corner_pool, torch.zeros(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="got 3-D"):
        ops.pool(x[0], 2, 0)
    for dim, scan in [(1, 0), (2, 3), (2, -1)]:
        with pytest.raises(RuntimeError, match="corner pooling scans"):
            ops.pool(x, dim, scan)
    with pytest.raises(RuntimeError, match="float32, float64, float16 or bfloat16, got"):
        ops.pool(x.int(), 2, 0)
    with pytest.raises(RuntimeError, match="gradient and input must have the same shape, dtype and device"):
        ops.pool_backward(x[..., :2], x, 2, 1)
    with pytest.raises(RuntimeError, match="two maps must have the same shape, dtype and device"):
        ops.pool_sum(x, 0, x.double(), 0)


def copy_of_package(folder: Path) -> Path:
    """Copies the Python files of external.corner_pool without its libraries, as in a clone that is not built."""
    source = Path(corner_pool.__file__).parent
    target = folder / "external" / "corner_pool"
    target.mkdir(parents=True)
    for name in ("__init__.py", "../__init__.py", "../native.py"):
        (target / name).write_text((source / name).read_text())
    return target


@pytest.mark.parametrize("state", ["unbuilt", "broken"])
def test_one_warning_without_library(tmp_path: Path, state: str) -> None:
    target = copy_of_package(tmp_path)
    expected = {"unbuilt": "_C is not built", "broken": "_C.abi3.so does not load"}[state]
    if state == "broken":
        (target / "_C.abi3.so").write_bytes(b"not a library")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"  # before this repository, which may be installed
        "import torch\n"
        "from external.corner_pool import top_pool, left_pool\n"
        "import external.corner_pool\n"
        "print(top_pool(left_pool(torch.tensor([[[[1., 2.], [3., 0.]]]]))).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[[[[3.0, 2.0], [3.0, 0.0]]]]"
    assert done.stderr.count("RuntimeWarning") == 1
    assert expected in done.stderr and "pip install --no-build-isolation -e ." in done.stderr
