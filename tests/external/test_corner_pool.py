"""Directional max pools: compiled operators and their stand-in on stock PyTorch, against plain loops and the golden
vectors.
"""

import copy
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
from external.corner_pool import bottom_pool, left_pool, right_pool, top_pool

POOLS = {
    "top": (top_pool, 2, True),
    "bottom": (bottom_pool, 2, False),
    "left": (left_pool, 3, True),
    "right": (right_pool, 3, False),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
needs_compiled = pytest.mark.skipif("cpu" not in corner_pool._DEVICES, reason="compiled operators not built")

IMPLEMENTATIONS = {
    "compiled": lambda x, dim, reverse: torch.ops.corner_pool.directional_max(x, dim, reverse),
    "stock": corner_pool._stock_directional_max,
}
implementations = pytest.mark.parametrize(
    "pool",
    [
        pytest.param(IMPLEMENTATIONS["compiled"], id="compiled", marks=needs_compiled),
        pytest.param(IMPLEMENTATIONS["stock"], id="stock"),
    ],
)


def plain(x: Tensor, grad: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    """The definition, cell by cell: maxima and gradient (summed in scan order, in float32 for the 16-bit types)."""
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    lines, grads = (t.detach().to(wide).cpu().transpose(dim, 3).contiguous() for t in (x, grad))
    y, gx = torch.empty_like(lines), torch.zeros_like(lines)
    for index in np.ndindex(*lines.shape[:3]):
        values, best = lines[index], None
        steps = range(len(values))
        for i in reversed(steps) if reverse else steps:
            if best is None or values[i] > values[best] or (values[i].isnan() and not values[best].isnan()):
                best = i
            y[index][i] = values[best]
            gx[index][best] += grads[index][i]
    return y.transpose(dim, 3).to(x.dtype), gx.transpose(dim, 3).to(x.dtype)


def run(pool, x: Tensor, grad: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = pool(x, dim, reverse)
    y.backward(grad)
    return y.detach(), x.grad


def expect_equal(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got.cpu(), wanted.cpu(), rtol=0, atol=0, equal_nan=True)


def sample(shape: tuple[int, ...], seed: int = 0, special: bool = False) -> tuple[Tensor, Tensor]:
    """Input full of ties (small integers after ReLU), if special with NaN and infinities; upstream gradient."""
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
def test_golden_corner_pool(goldens: Path, pool, direction: str) -> None:
    arrays = np.load(goldens / "corner_pool.npz")
    _, dim, reverse = POOLS[direction]
    for case in sorted({key.split("_")[0] for key in arrays}):
        x, grad, y, gx = (
            torch.from_numpy(arrays[f"{case}_{key}"]) for key in ("x", "g", f"{direction}_y", f"{direction}_gx")
        )
        for layout in LAYOUTS:
            got = run(pool, x.contiguous(memory_format=layout), grad, dim, reverse)
            expect_equal(got[0], y)
            expect_equal(got[1], gx)


@implementations
@pytest.mark.parametrize("direction", POOLS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_definition(pool, direction: str, device: str, layout, dtype) -> None:
    _, dim, reverse = POOLS[direction]
    for seed, shape in enumerate([(2, 3, 5, 7), (1, 1, 1, 1), (3, 2, 1, 9), (1, 9, 9, 1), (1, 2, 3, 41)]):
        x, grad = (t.to(dtype) for t in sample(shape, seed, special=True))
        y, gx = plain(x, grad, dim, reverse)
        got = run(pool, x.to(device).contiguous(memory_format=layout), grad.to(device), dim, reverse)
        expect_equal(got[0], y)
        if device == "cpu" or pool is IMPLEMENTATIONS["compiled"]:
            expect_equal(got[1], gx)
        else:  # stock PyTorch adds up in any order there
            torch.testing.assert_close(got[1].cpu(), gx, equal_nan=True)
        assert got[0].dtype == got[1].dtype == dtype


@needs_compiled
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 40), st.integers(0, 40)),
    direction=st.sampled_from(sorted(POOLS)),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 1000),
)
def test_compiled_equals_stock(shape, direction: str, layout, seed: int) -> None:
    """Any size, empty ones included; both sum gradients in scan order, so they agree bit for bit."""
    _, dim, reverse = POOLS[direction]
    x, grad = (t.float().contiguous(memory_format=layout) for t in sample(shape, seed, special=True))
    results = [run(pool, x, grad, dim, reverse) for pool in IMPLEMENTATIONS.values()]
    expect_equal(results[0][0], results[1][0])
    expect_equal(results[0][1], results[1][1])
    assert results[0][0].shape == x.shape


@needs_compiled
@pytest.mark.parametrize("direction", POOLS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_large_equals_stock(direction: str, layout, threads: int) -> None:
    """Sizes that take several work items, with a remainder."""
    _, dim, reverse = POOLS[direction]
    x, grad = (t.float().contiguous(memory_format=layout) for t in sample((2, 13, 67, 71), 5))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = [run(pool, x, grad, dim, reverse) for pool in IMPLEMENTATIONS.values()]
    finally:
        torch.set_num_threads(before)
    expect_equal(results[0][0], results[1][0])
    expect_equal(results[0][1], results[1][1])


@implementations
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
@pytest.mark.parametrize("direction", POOLS)
def test_empty(pool, shape, direction: str) -> None:
    _, dim, reverse = POOLS[direction]
    y, gx = run(pool, torch.empty(shape), torch.empty(shape), dim, reverse)
    assert y.shape == gx.shape == shape


@implementations
@pytest.mark.parametrize("direction", POOLS)
def test_strides(pool, direction: str) -> None:
    """The two dense layouts are kept; anything else becomes contiguous. Gradients may come in any layout."""
    _, dim, reverse = POOLS[direction]
    x, grad = (t.float() for t in sample((4, 6, 8, 10)))
    wanted = plain(x, grad, dim, reverse)
    dense = x.contiguous(memory_format=torch.channels_last)
    assert pool(x, dim, reverse).is_contiguous()
    assert pool(dense, dim, reverse).is_contiguous(memory_format=torch.channels_last)
    strided = torch.empty(8, 6, 16, 10)[::2, :, 1::2].copy_(x)
    transposed = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert pool(strided, dim, reverse).is_contiguous() and pool(transposed, dim, reverse).is_contiguous()
    for given_x in (x, dense, strided, transposed):
        for given_grad in (
            grad,
            grad.contiguous(memory_format=torch.channels_last),
            grad.transpose(2, 3).contiguous().transpose(2, 3),
        ):
            leaf = given_x.detach().requires_grad_()
            y = pool(leaf, dim, reverse)
            (gx,) = torch.autograd.grad(y, leaf, given_grad)
            expect_equal(y.detach(), wanted[0])
            expect_equal(gx, wanted[1])
    expanded = torch.autograd.grad(pool(x.requires_grad_(), dim, reverse).sum(), x)[0]  # gradient of stride 0
    expect_equal(expanded, plain(x, torch.ones_like(x), dim, reverse)[1])


def test_public_functions() -> None:
    x = torch.tensor([[[[1.0, 3.0, 2.0], [4.0, 0.0, 2.0]]]])
    assert top_pool(x).tolist() == [[[[4, 3, 2], [4, 0, 2]]]]
    assert bottom_pool(x).tolist() == [[[[1, 3, 2], [4, 3, 2]]]]
    assert left_pool(x).tolist() == [[[[3, 3, 2], [4, 2, 2]]]]
    assert right_pool(x).tolist() == [[[[1, 3, 3], [4, 4, 4]]]]


@implementations
def test_gradients(pool) -> None:
    x = torch.randn(2, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    for _, dim, reverse in POOLS.values():
        assert torch.autograd.gradcheck(pool, (x, dim, reverse))
        assert torch.autograd.gradgradcheck(pool, (x, dim, reverse))


@needs_compiled
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    for shape in [(2, 3, 4, 5), (1, 3, 1, 5), (2, 0, 3, 3)]:
        for layout in LAYOUTS:
            x = torch.randn(shape, device=device).contiguous(memory_format=layout)
            for dim, reverse in [(2, True), (3, False)]:
                torch.library.opcheck(torch.ops.corner_pool.directional_max, (x.clone().requires_grad_(), dim, reverse))
                torch.library.opcheck(
                    torch.ops.corner_pool.directional_max_backward, (torch.randn_like(x), x, dim, reverse)
                )
    transposed = torch.randn(2, 3, 5, 4, device=device).transpose(2, 3)
    torch.library.opcheck(torch.ops.corner_pool.directional_max, (transposed, 2, True))


class Pools(torch.nn.Module):
    """All four pools between layers, as a detector uses them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return top_pool(x) + bottom_pool(x) * left_pool(x) - right_pool(x)


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
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_leaves_dtype(pool, device: str) -> None:
    with torch.autocast(device, dtype=torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            assert pool(torch.randn(1, 2, 3, 4, device=device, dtype=dtype), 2, True).dtype == dtype


@implementations
def test_bad_input(pool) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"4-D tensor \(B, C, H, W\), got 3-D"):
        pool(torch.zeros(2, 3, 4), 2, True)
    with pytest.raises((ValueError, RuntimeError), match="got dim 1"):
        pool(torch.zeros(1, 2, 3, 4), 1, True)
    with pytest.raises((TypeError, RuntimeError), match="float32, float64, float16 or bfloat16, got"):
        pool(torch.zeros(1, 2, 3, 4, dtype=torch.int32), 2, True)


@needs_compiled
def test_bad_gradient() -> None:
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(RuntimeError, match="shape, dtype and device of its input"):
        torch.ops.corner_pool.directional_max_backward(x[..., :2], x, 2, True)


def copy_of_package(folder: Path) -> Path:
    """The Python files of external.corner_pool alone, as in a checkout that was never built."""
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
        "import sys; sys.path.insert(0, sys.argv[1])\n"  # before this repository, should it be installed
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
