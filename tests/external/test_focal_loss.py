"""The focal loss: the compiled operators and their fallback in stock PyTorch, compared with the published formula."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from external import focal_loss as module
from external.focal_loss import focal_loss, masked

EPS = 1e-4
LIMIT = math.log((1 - EPS) / EPS)
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=NO_GPU)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
# relative errors of the loss and of an element's gradient, compared with float64
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-11, torch.bfloat16: 2**-8, torch.float16: 2**-10}


def needs(device: str) -> list[pytest.MarkDecorator]:
    """Marks of a test of the compiled operators on a device."""
    built = pytest.mark.skipif(device not in module._DEVICES, reason=f"no operators compiled for {device}")
    return [NO_GPU, built] if device == "cuda" else [built]


needs_compiled = needs("cpu")[0]


class Stock(torch.autograd.Function):
    """The stock PyTorch fallback of the operators, with its own backward pass."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor, *terms: float) -> Tensor:
        loss, positives = module._stock_loss(logits, target, *terms)
        ctx.save_for_backward(positives, logits, target)
        ctx.terms = terms
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        return module._stock_loss_backward(grad, *ctx.saved_tensors, *ctx.terms), *[None] * 4


def stock(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0, eps: float = EPS) -> Tensor:
    return Stock.apply(logits, target.to(module._wide(logits)), alpha, beta, eps)


implementations = pytest.mark.parametrize(
    "loss, device",
    [
        *(pytest.param(focal_loss, d, id=f"compiled-{d}", marks=needs(d)) for d in ("cpu", "cuda")),
        pytest.param(stock, "cpu", id="stock-cpu"),
        pytest.param(stock, "cuda", id="stock-cuda", marks=NO_GPU),
    ],
)


def published(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0, eps: float = EPS) -> Tensor:
    """Equation 1 in its published form, by elementary operations."""
    score = logits.sigmoid().clamp(eps, 1 - eps)
    positive = target == 1
    gain = (1 - score).pow(alpha) * score.log()
    penalty = (1 - target).pow(beta) * score.pow(alpha) * (1 - score).log()
    return -torch.where(positive, gain, penalty).sum() / positive.sum().clamp(min=1)


def run(loss, logits: Tensor, target: Tensor, *terms: float, upstream: float = 1.0) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of upstream * loss with respect to the logits."""
    logits = logits.detach().requires_grad_()
    value = loss(logits, target, *terms)
    (value * upstream).backward()
    return value.detach(), logits.grad


def check(loss, logits: Tensor, target: Tensor, *terms: float) -> None:
    """Compares loss and gradient with the published formula, evaluated in float64 on the same inputs."""
    eps = terms[2] if len(terms) == 3 else EPS
    wanted, slope = run(published, logits.double(), target.double(), *terms)
    value, grad = run(loss, logits, target, *terms)
    tolerance = TOLERANCE[logits.dtype]
    assert value.dtype == (torch.float64 if torch.float64 in (logits.dtype, target.dtype) else torch.float32)
    assert value.shape == () and grad.shape == logits.shape and grad.dtype == logits.dtype
    torch.testing.assert_close(value.double(), wanted, rtol=min(tolerance, 4e-6), atol=1e-12, equal_nan=True)
    # within rounding of the clamp's limit, the gradient may be 0 or not
    limit = math.log((1 - eps) / eps)
    border = (logits.double().abs() - limit).abs() < 1e-6 * limit
    zero = torch.zeros((), dtype=grad.dtype, device=grad.device)
    smallest = 2**-24 if logits.dtype == torch.float16 else 1e-12
    torch.testing.assert_close(
        torch.where(border, zero, grad).double(),
        torch.where(border, zero.double(), slope),
        rtol=tolerance,
        atol=smallest,
        equal_nan=True,
    )


def sample(*shape: int, positives: int = 3, seed: int = 0, dtype=torch.float32, device="cpu") -> tuple[Tensor, Tensor]:
    """Random logits and targets of a shape."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 4 - 2
    target = torch.rand(shape, generator=generator, dtype=torch.float64) ** 8
    target[torch.rand(shape, generator=generator) < 0.7] = 0
    target.view(-1)[torch.randperm(target.numel(), generator=generator)[:positives]] = 1
    return logits.to(device, dtype), target.to(device, torch.promote_types(dtype, torch.float32))


@implementations
@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positives", [0, 1, 40])
def test_matches_the_published_formula(loss, device: str, layout, dtype, positives: int) -> None:
    for seed, shape in enumerate([(2, 3, 16, 16), (1, 5, 7, 9), (1, 1, 1, 40), (3, 41, 21, 19)]):
        logits, target = sample(*shape, positives=positives, seed=seed, dtype=dtype, device=device)
        check(loss, logits.contiguous(memory_format=layout), target)
        check(loss, logits.contiguous(memory_format=layout), target.contiguous(memory_format=layout))


@implementations
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("terms", [(), (1.5, 3.0, 1e-3)], ids=["published", "other"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_masked_elements(loss, device: str, dtype, terms: tuple[float, ...], share: float) -> None:
    """They add nothing and get no gradient, but masked positives count."""
    logits, target = sample(2, 3, 17, 19, positives=20, dtype=dtype, device=device)
    where = (torch.rand(logits.shape, generator=torch.Generator().manual_seed(1)) < share).to(device)
    left = int((target[~where] == 1).sum())
    assert left < 20 and (left > 0 or share == 1)
    check_masked(loss, logits, target, where, *terms)


def check_masked(loss, logits: Tensor, target: Tensor, where: Tensor, *terms: float) -> None:
    """Compares loss and gradient with the published formula for the elements that are not masked."""
    positives, left = ((some == 1).sum().clamp(min=1) for some in (target, target[~where]))
    value, grad = run(loss, logits, masked(target, where), *terms)
    wanted, slope = run(published, logits[~where].double(), target[~where].double(), *terms)
    assert (grad[where] == 0).all()
    torch.testing.assert_close(value.double(), wanted * left / positives, rtol=4e-6, atol=1e-12)
    limit = math.log((1 - terms[2]) / terms[2]) if terms else LIMIT
    inside = (logits[~where].double().abs() - limit).abs() > 1e-6 * limit
    found, slope = grad[~where][inside].double(), (slope * left / positives)[inside]
    smallest = 2**-24 if logits.dtype == torch.float16 else 1e-12
    torch.testing.assert_close(found, slope, rtol=TOLERANCE[logits.dtype], atol=smallest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_do_not_make_positives(dtype) -> None:
    """An element whose target is almost 1 is no positive, masked or not."""
    below = torch.ones(2, dtype=dtype) - torch.finfo(dtype).eps / 2
    target = torch.cat([below, torch.ones(2, dtype=dtype), torch.zeros(2, dtype=dtype)])
    where = torch.tensor([True, False] * 3)
    found = masked(target, where)
    assert below[0] < 1 and (found.abs() == 1).tolist() == (target == 1).tolist()
    assert (found < 0).tolist() == where.tolist()


specials = st.sampled_from([0.0, -0.0, LIMIT, -LIMIT, 200.0, -200.0, 9.2, -9.2, 9.25, -9.25, math.inf, -math.inf])
some_logits = st.one_of(specials, st.floats(-12, 12, width=16), st.just(math.nan))
some_targets = st.one_of(st.sampled_from([0.0, 1.0, 0.999]), st.floats(0, 1, width=16), st.just(math.nan))


@implementations
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_property_numbers_shapes_and_strides(loss, device: str, dtype, data) -> None:
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    if data.draw(st.booleans()):
        shape = [*shape[:3], data.draw(st.integers(0, 70))]  # long enough to fill SIMD vectors
    count = math.prod(shape)
    with_nan = data.draw(st.booleans())
    some, aims = (
        pool if with_nan else pool.filter(lambda value: not math.isnan(value)) for pool in (some_logits, some_targets)
    )
    logits = torch.tensor(data.draw(st.lists(some, min_size=count, max_size=count)), dtype=dtype)
    target = torch.tensor(data.draw(st.lists(aims, min_size=count, max_size=count)), dtype=torch.float32)
    logits, target = logits.reshape(shape).to(device), target.reshape(shape).to(device)
    if dtype == torch.float64:
        target = target.double()

    def arranged(x: Tensor) -> Tensor:
        """The same values with other strides or another storage offset."""
        way = data.draw(st.sampled_from(["as it is", "channels_last", "transposed", "strided", "offset"]))
        if way == "channels_last" and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if way == "transposed" and x.dim() > 1:
            return x.transpose(0, -1).contiguous().transpose(0, -1)
        if way == "strided":
            return torch.stack([x, torch.full_like(x, 0.5)], -1)[..., 0]
        if way == "offset":
            return torch.cat([x.new_full((1,), 0.5), x.reshape(-1)])[1:].view(shape)
        return x

    terms = data.draw(st.sampled_from([(), (), (2.0, 4.0, 1e-3), (1.5, 3.0, EPS), (0.0, 0.0, EPS), (3.0, 1.0, 0.2)]))
    check(loss, arranged(logits), arranged(target), *terms)


@implementations
def test_every_16_bit_logit(loss, device: str) -> None:
    """Gradients of 16-bit logits are those of float32 rounded, including overflows and subnormal numbers."""
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).to(device)
        for aim in (0.0, 0.3, 1.0):
            target = torch.full(logits.shape, aim, device=device)
            for upstream in (1.0, 2.0**-14 * len(logits), 2.0**24 * len(logits), 2.0**-126):
                value, grad = run(loss, logits, target, upstream=upstream)
                wide, wide_grad = run(loss, logits.float(), target, upstream=upstream)
                assert wide.isnan() and value.isnan()
                torch.testing.assert_close(grad, wide_grad.to(dtype), rtol=0, atol=0, equal_nan=True)


@implementations
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_of_many_small_terms_is_exact(loss, device: str, dtype) -> None:
    """No small term is lost in a sum of over a million, as at the beginning of a training run."""
    logits, target = sample(2, 80, 96, 96, positives=20, dtype=dtype, device=device)
    logits = logits / 10 - 7
    exact = published(logits.double(), target.double())
    assert loss(logits, target).item() == pytest.approx(exact.item(), rel=2e-7 if dtype == torch.float32 else 1e-13)


@needs_compiled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_result_does_not_depend_on_threads(dtype) -> None:
    logits, target = sample(2, 13, 67, 71, dtype=dtype)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(focal_loss, logits, target))
    finally:
        torch.set_num_threads(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(grad, results[0][1])


@needs_compiled
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_other_instruction_sets(capability: str) -> None:
    """The kernels for older processors. All other tests run the kernels for the best instruction set."""
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    chosen = ["-k", "compiled and (published or numbers or 16_bit or sum)"]
    done = subprocess.run([*tests, *chosen], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@implementations
def test_no_gradient_beyond_the_clamp(loss, device: str) -> None:
    beside = 1e-3
    logits = [LIMIT - beside, LIMIT + beside, -LIMIT + beside, -LIMIT - beside, math.inf, -math.inf]
    logits = torch.tensor(logits, device=device)
    for target in (0.0, 0.5, 1.0):
        value, grad = run(loss, logits, torch.full_like(logits, target))
        assert value.isfinite()
        assert (grad != 0).tolist() == [True, False, True, False, False, False]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["contiguous", "channels_last"])
def test_gradient_keeps_memory_format_of_logits(layout) -> None:
    logits, target = sample(2, 3, 4, 5)
    grad = run(focal_loss, logits.contiguous(memory_format=layout), target)[1]
    assert grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("terms", [(2.0, 4.0, EPS), (1.5, 3.0, 1e-3)])
def test_gradients_of_both_orders(terms) -> None:
    logits, target = sample(1, 2, 3, 4, dtype=torch.float64)
    logits[0, 0, 0, :2] = torch.tensor([30.0, -30.0])
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target, *terms), logits)
    assert torch.autograd.gradgradcheck(lambda x: focal_loss(x, target, *terms), logits)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(device: str, dtype) -> None:
    for layout in LAYOUTS:
        logits, target = sample(2, 3, 4, 5, dtype=dtype, device=device)
        logits = logits.contiguous(memory_format=layout).requires_grad_()
        torch.library.opcheck(torch.ops.focal_loss.loss, (logits, target, 2.0, 4.0, EPS))
        _, positives = torch.ops.focal_loss.loss(logits, target, 2.0, 4.0, EPS)
        grad = torch.ones((), dtype=target.dtype, device=device)
        # opcheck's tolerances are too small for second derivatives in float16 and bfloat16
        logits = logits.detach().requires_grad_(dtype in (torch.float32, torch.float64))
        torch.library.opcheck(torch.ops.focal_loss.loss_backward, (grad, positives, logits, target, 2.0, 4.0, EPS))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device: str) -> None:
    logits, target = sample(2, 3, 8, 8, device=device)
    compiled = torch.compile(lambda x, t: focal_loss(x * 2, t), fullgraph=True, backend="aot_eager")
    for got, wanted in zip(
        run(compiled, logits, target), run(lambda x, t: focal_loss(x * 2, t), logits, target), strict=True
    ):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_keeps_dtype_of_logits(device: str) -> None:
    layer = nn.Conv2d(2, 3, 1).to(device)
    images, target = torch.randn(2, 2, 8, 8, device=device), sample(2, 3, 8, 8, device=device)[1]
    with torch.autocast(device, torch.bfloat16):
        logits = layer(images)
        value = focal_loss(logits, target)
    logits.retain_grad()
    value.backward()
    assert logits.dtype == logits.grad.dtype == torch.bfloat16 and value.dtype == torch.float32
    torch.testing.assert_close(value, published(logits.float(), target), rtol=1e-5, atol=0)
    assert layer.weight.grad.abs().sum() > 0


def test_other_target_dtypes() -> None:
    logits, target = sample(2, 3, 4, 5)
    hot = (target == 1).long()
    for other in (hot, hot.bool(), hot.bfloat16()):
        assert torch.equal(focal_loss(logits, other), focal_loss(logits, hot.float()))
    check(focal_loss, logits.double(), target)
    value = focal_loss(logits, target.double())
    assert torch.equal(value, focal_loss(logits.double(), target.double()))


def test_saves_only_its_inputs_and_a_scalar() -> None:
    """No new tensor of the maps' size is saved for the backward pass."""
    logits, target = sample(2, 3, 4, 5)
    logits.requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        focal_loss(logits, target)
    assert [t.data_ptr() for t in kept if t.dim() > 0] == [logits.data_ptr(), target.data_ptr()]


def test_module_that_uses_it_can_be_copied() -> None:
    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return focal_loss(logits + self.bias, target)

    first = Loss()
    second = copy.deepcopy(first)
    for loss in (first, second):
        loss(*sample(2, 3, 4, 5)).backward()
    assert first.bias.grad.item() == second.bias.grad.item() != 0


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x, t: (x.long(), t), TypeError, "int64"),
        (lambda x, t: (x, t[:1]), ValueError, r"\[1, 3, 4, 5\] for \[2, 3, 4, 5\]"),
        (lambda x, t: (x, t.to("meta")), ValueError, "meta"),
        (lambda x, t: (x, t.requires_grad_()), ValueError, "detach"),
        (lambda x, t: (x, t, 2.0, 4.0, 0.0), ValueError, "eps"),
        (lambda x, t: (x, t, 2.0, 4.0, 0.5), ValueError, "eps"),
        (lambda x, t: (x, t, 2.0, 4.0, 1e-39), ValueError, "eps"),
        (lambda x, t: (x, t, math.nan), ValueError, "alpha nan"),
        (lambda x, t: (x, t, 2.0, -1.0), ValueError, "beta -1.0"),
    ],
)
def test_bad_input(change, error, message: str) -> None:
    with pytest.raises(error, match=message):
        focal_loss(*change(*sample(2, 3, 4, 5)))


@needs_compiled
def test_bad_input_of_operators() -> None:
    logits, target = sample(2, 3, 4, 5)
    one, count = torch.ones(()), torch.ones((), dtype=torch.int64)
    for bad in ((logits, target.double()), (logits, target[:1]), (logits.double(), target), (logits, target.half())):
        with pytest.raises(RuntimeError, match="focal loss"):
            torch.ops.focal_loss.loss(*bad, 2.0, 4.0, EPS)
        with pytest.raises(RuntimeError, match="focal loss"):
            torch.ops.focal_loss.loss_backward(one, count, *bad, 2.0, 4.0, EPS)
    for bad in ((one.double(), count), (one, count.int()), (torch.ones(2), count), (one, torch.ones(2).long())):
        with pytest.raises(RuntimeError, match="focal loss"):
            torch.ops.focal_loss.loss_backward(*bad, logits, target, 2.0, 4.0, EPS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cuda_is_deterministic_without_synchronisation(dtype) -> None:
    logits, target = sample(4, 80, 64, 64, dtype=dtype, device="cuda")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [run(focal_loss, logits, target) for _ in range(3)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    for value, grad in results[1:]:
        assert torch.equal(value, results[0][0]) and torch.equal(grad, results[0][1])
