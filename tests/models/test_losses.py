"""Loss terms against their formulas written out in loops."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import models.losses
from external.focal_loss import focal_loss
from models.keypoints import KeypointMaps
from models.losses import LossOptions, detection_loss, embedding_loss
from sample.targets import KeypointTargets


def reference_focal(logits, target, alpha=2, beta=4):
    total, positives = 0.0, 0
    for z, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = min(max(1 / (1 + math.exp(-z)), 1e-4), 1 - 1e-4)
        if y == 1:
            total += (1 - p) ** alpha * math.log(p)
            positives += 1
        else:
            total += (1 - y) ** beta * p**alpha * math.log(1 - p)
    return -total / positives if positives else -total


@pytest.mark.parametrize("positives", [0, 1, 5])
def test_focal_loss(positives):
    torch.manual_seed(positives)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64) * 6
    target = torch.rand(2, 3, 4, 5, dtype=torch.float64) * 0.99
    target.flatten()[torch.randperm(120)[:positives]] = 1
    assert focal_loss(logits, target).item() == pytest.approx(reference_focal(logits, target), rel=1e-9)
    assert torch.autograd.gradcheck(lambda z: focal_loss(z, target), logits.clamp(-8, 8).requires_grad_())


def test_focal_loss_is_finite_and_flat_where_the_score_is_clamped():
    logits = torch.tensor([[[[-200.0, 200.0, -200.0, 200.0]]]], requires_grad=True)
    target = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    loss = focal_loss(logits, target)
    loss.backward()
    assert loss.isfinite()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def reference_embedding(tl, br, image_index, batch, margin=1.0):
    pull = push = 0.0
    for b in range(batch):
        objects = [(t, r) for t, r, i in zip(tl, br, image_index, strict=True) if i == b]
        # In float32, as released: for one object the diagonal's share is a difference of nearly equal numbers.
        n, eps = np.float32(len(objects)), np.float32(1e-4)
        means = [(t + r) / 2 for t, r in objects]
        pull += sum((t - m) ** 2 + (r - m) ** 2 for (t, r), m in zip(objects, means, strict=True)) / float(n + eps)
        for p in means:
            for q in means:
                push += (max(0, margin - abs(p - q)) - float(1 / (n + eps))) / float((n - 1) * n + eps)
    return pull, push


@pytest.mark.parametrize("counts", [[0, 0], [1], [1, 0, 3], [5, 2], [500]])
def test_pull_and_push(counts):
    torch.manual_seed(sum(counts))
    image_index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    tl, br = torch.randn(2, len(image_index), dtype=torch.float64)
    found = embedding_loss(tl, br, image_index)
    expected = reference_embedding(tl.tolist(), br.tolist(), image_index.tolist(), len(counts))
    assert [v.item() for v in found] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_push_in_parts(monkeypatch):
    """Equal to the whole up to rounding, and no tensor is quadratic in the number of objects."""

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, operator, types, arguments=(), options=None):
            result = operator(*arguments, **(options or {}))
            if isinstance(result, torch.Tensor):
                Largest.elements = max(Largest.elements, result.numel())
            return result

    torch.manual_seed(0)
    tl, br = torch.randn(2, 500, dtype=torch.float64, requires_grad=True)
    image_index = torch.randint(3, (500,))
    found = []
    for pairs in (500**2, 7000):
        monkeypatch.setattr(models.losses, "PAIRS_AT_ONCE", pairs)
        with Largest():
            terms = embedding_loss(tl, br, image_index)
            found += [*terms, *torch.autograd.grad(terms[0] + 3 * terms[1], (tl, br))]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(found[:4], found[4:], strict=True))
    assert Largest.elements == 500**2
    Largest.elements = 0
    with Largest():
        torch.autograd.grad(sum(embedding_loss(tl, br, image_index)), tl)
    assert Largest.elements == 14 * 500


def maps(batch, classes, h, w, dtype=torch.float64, device="cpu"):
    channels = (classes, 1, 2)
    return KeypointMaps(
        *(torch.randn(batch, c, h, w, dtype=dtype, device=device, requires_grad=True) for c in channels)
    )


def targets(batch, classes, h, w, cells):
    heatmap = torch.rand(batch, classes, h, w, dtype=torch.float64) * 0.9
    return KeypointTargets(heatmap, torch.tensor(cells, dtype=torch.int64), torch.rand(len(cells), 2))


def test_detection_loss_adds_up():
    torch.manual_seed(0)
    weights = LossOptions(pull=0.3, push=0.2, offset=0.7)
    outputs = [{"top_left": maps(2, 3, 4, 5), "bottom_right": maps(2, 3, 4, 5)} for _ in range(2)]
    aims = {"top_left": targets(2, 3, 4, 5, [0, 7, 19]), "bottom_right": targets(2, 3, 4, 5, [3, 8, 19])}
    image_index = torch.tensor([0, 1, 1])
    terms = detection_loss(outputs, aims, image_index, weights)
    focal = offset = 0.0
    for stack in outputs:
        for name, aim in aims.items():
            focal += reference_focal(stack[name].heatmap, aim.heatmap) / 2
            for i, cell, want in zip(image_index.tolist(), aim.cells.tolist(), aim.offsets.tolist(), strict=True):
                for axis in range(2):
                    d = abs(stack[name].offset[i, axis, cell // 5, cell % 5].item() - want[axis])
                    offset += (d * d / 2 if d < 1 else d - 0.5) / (3 + 1e-4) / 2
    assert terms.focal.item() == pytest.approx(focal, rel=1e-9)
    assert terms.offset.item() == pytest.approx(offset, rel=1e-6)
    total = terms.focal + 0.3 * terms.pull + 0.2 * terms.push + 0.7 * terms.offset
    assert terms.loss.item() == pytest.approx(total.item())


@pytest.mark.parametrize("count", [0, 1, 500])
def test_any_number_of_objects(count):
    torch.manual_seed(count)
    outputs = [{"top_left": maps(1, 2, 8, 8, torch.float32), "bottom_right": maps(1, 2, 8, 8, torch.float32)}]
    cells = torch.randint(64, (count,)).tolist()
    aims = {name: targets(1, 2, 8, 8, cells) for name in outputs[0]}
    terms = detection_loss(outputs, aims, torch.zeros(count, dtype=torch.int64))
    terms.loss.backward()
    assert all(v.isfinite() for v in terms)
    assert outputs[0]["top_left"].heatmap.grad.isfinite().all()


def objective(device):
    """The loss of two stacks with 7 objects, after its backward pass."""
    index = torch.zeros(7, dtype=torch.int64, device=device)
    aims = {
        name: KeypointTargets(
            torch.zeros(2, 3, 8, 8, device=device), index, torch.zeros(7, 2, dtype=torch.float64, device=device)
        )
        for name in ("top_left", "bottom_right")
    }
    outputs = [{name: maps(2, 3, 8, 8, torch.float32, device) for name in aims} for _ in range(2)]
    terms = detection_loss(outputs, aims, index)
    terms.loss.backward()
    return terms


def test_no_size_or_choice_depends_on_values():
    """Anything that would make the host wait for the device fails on tensors without values."""
    with FakeTensorMode():
        assert all(term.shape == () for term in objective("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_host_does_not_wait_for_the_loss():
    objective("cuda")  # loads libraries
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms = objective("cuda")
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert all(term.isfinite() for term in terms)


def test_16_bit_heatmaps_are_read_as_they_are():
    """As under autocast: the loss is that of the same numbers in float32, the gradient has the logits' dtype."""
    torch.manual_seed(0)
    heatmap = torch.randn(2, 3, 4, 5).bfloat16()
    losses = {}
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(1)
        outputs = {}
        for name in ("top_left", "bottom_right"):
            outputs[name] = KeypointMaps(
                heatmap.to(dtype).clone().requires_grad_(), *maps(2, 3, 4, 5, torch.float32)[1:]
            )
        aims = {name: targets(2, 3, 4, 5, [0, 7, 19]) for name in outputs}
        aims = {name: aim._replace(heatmap=aim.heatmap.float()) for name, aim in aims.items()}
        losses[dtype] = detection_loss([outputs], aims, torch.tensor([0, 1, 1]))
        losses[dtype].loss.backward()
        assert outputs["top_left"].heatmap.grad.dtype == dtype
    for narrow, wide in zip(*losses.values(), strict=True):
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow, wide)
