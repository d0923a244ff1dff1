"""Training step and test path on devices that this machine lacks: nothing mixes devices, and the host seldom waits.

Fake CUDA tensors run everything but the backward pass, the `meta` device the whole step.
"""

import importlib

import numpy as np
import pytest
import torch
from torch import nn

from models.cornernet import CornerNetOptions
from models.fpn import FPNOptions
from models.losses import LossOptions
from nnet.detection.detector import Detector
from nnet.families import build_family
from nnet.families.options import DetectionOptions
from nnet.runtime.distributed import Group
from nnet.runtime.precision import Precision, layout
from nnet.runtime.transfer import Download, Upload
from nnet.training.options import TrainOptions
from nnet.training.step import Objective, UpdateStep
from sample.targets import PenaltyOptions
from tests.builders import make_batch, small_family
from tests.nnet.training.steps import coloured
from tests.nnet.transfers import Transfers, fake_cuda, on_meta

CUDA, META = torch.device("cuda"), torch.device("meta")
SQUEEZE = {"backbone": {"block": "fire", "upsampling": "transposed", "stride": 8}, "head": "conv1x1"}
NETWORKS = {
    "cornernet": {},
    "centernet": {"detector": "centernet", "cascade_corner_pooling": True},
    "squeeze": SQUEEZE,
}
TO_HOST = ("read", "nnet/families/base.py:to_host")


def named_family(name):
    """A small family of this name, on PyTorch's default device."""
    if name != "fpn":
        return small_family(**NETWORKS[name])
    pytest.importorskip("torchvision")
    options = CornerNetOptions(backbone=FPNOptions(depth=18, width=8), pool_width=2)
    return build_family(3, options, PenaltyOptions(), LossOptions())


def cuda_family(**options):
    """A small family whose parameters are fake CUDA tensors."""
    with CUDA:
        return small_family(**options)


def cuda_batch(batch):
    return batch.map(lambda tensor: tensor.to(CUDA, non_blocking=True))


@pytest.mark.parametrize(
    ("name", "precision", "channels_last"),
    [
        ("cornernet", "float32", False),
        ("cornernet", "bfloat16", True),
        ("centernet", "float16", False),
        ("squeeze", "bfloat16", False),
        ("fpn", "float32", True),
    ],
)
def test_the_loss_on_cuda_waits_for_nothing(monkeypatch, name, precision, channels_last):
    with fake_cuda(monkeypatch) as transfers:
        with CUDA:
            family = named_family(name)
        objective = Objective(family, layout(channels_last), Precision(precision, CUDA).autocast)
        batch = cuda_batch(coloured(2, 5, 0))
        objective(family.network.train(), batch)  # fills the caches
        transfers.seen.clear()
        terms = objective(family.network, batch)
        assert {(term.device.type, term.dtype) for term in terms} == {("cuda", torch.float32)}
        assert transfers.seen == []


def test_a_tensor_of_the_host_in_the_loss_is_found(monkeypatch):
    """The tests above can fail: they see devices that mix, and reads."""
    with fake_cuda(monkeypatch) as transfers:
        family = cuda_family()
        batch = cuda_batch(coloured(2, 5, 0))
        on_host = batch._replace(objects=batch.objects._replace(labels=torch.zeros(5, dtype=torch.int64)))
        with pytest.raises(RuntimeError, match="cuda"):
            Objective(family)(family.network.train(), on_host)
        transfers.seen.clear()
        family.network.get_parameter("backbone.stem.0.conv.weight").sum().item()
        batch.images.cpu(), torch.zeros(3).to(CUDA)
        assert [what for what, _ in transfers.seen] == ["read", "read", "upload"]


@pytest.mark.parametrize(
    ("detector", "options", "reads"),
    [
        ("cornernet", {}, 1),
        ("cornernet", {"precision": "bfloat16", "channels_last": True, "mirror": False, "resize": "fit"}, 1),
        ("centernet", {"scales": (1.0, 1.5), "precision": "float16"}, 3),  # the centers of one scale
        ("anchors", {}, 1),
    ],
)
def test_the_test_path_on_cuda_reads_once_per_decoding(monkeypatch, detector, options, reads):
    if detector == "anchors":
        pytest.importorskip("torchvision")
    image = np.zeros((50, 70, 3), np.uint8)
    with fake_cuda(monkeypatch) as transfers:
        tested = Detector(cuda_family(detector=detector, classes=2), DetectionOptions(**options), (63, 63), CUDA)
        tested(image)  # fills the caches
        for images in ([image], [image, image]):
            transfers.seen.clear()
            views = tested.run_network(tested.prepare(images))
            assert transfers.seen == []  # the network is queued without waiting
            assert views[0][0].maps is not None and len(tested.decode(views)) == len(images)
            expected = [TO_HOST] * reads * len(images)
            # torchvision makes its anchors, and the constants of its box coder, on the host
            assert [seen for seen in transfers.seen if seen[1].startswith("nnet")] == expected
            assert detector == "anchors" or transfers.seen == expected
        assert tested.seconds["network"] > 0


def meta_step(monkeypatch, name, **options):
    """An update step on the meta device, where PyTorch's fused Adam does not expect to run."""
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda *_, **__: None)
    step = UpdateStep(named_family(name), TrainOptions(fused_adam=True, **options), 2, Group(META))
    # Autocast knows no meta device. The scaler of float16 does.
    step.objective = step.objective._replace(autocast=Precision("float32", META).autocast)
    return step


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cornernet", {"precision": "float16"}),
        ("centernet", {"checkpointing": True}),
        ("centernet", {"channels_last": True}),
        ("squeeze", {"channels_last": True}),
        ("fpn", {}),
    ],
)
def test_a_step_reads_one_value_behind_the_optimiser(monkeypatch, name, options):
    step = meta_step(monkeypatch, name, **options)
    batches = [on_meta(coloured(2, 5, seed)) for seed in range(2)]
    with Transfers("meta") as transfers:
        step(batches)  # fills the caches, and makes the optimiser's state
        transfers.seen.clear(), transfers.order.clear()
        update = step(batches)
    assert transfers.seen == [("read", "nnet/runtime/transfer.py:item")]
    assert transfers.order.index("_fused_adam_.default") < transfers.order.index("_local_scalar_dense.default")
    assert update.terms.device == update.norm.device == META
    form = layout(options.get("channels_last", False))
    for parameter in step.network.parameters():
        assert parameter.grad.stride() == parameter.stride() and parameter.grad.dtype == parameter.dtype
        assert parameter.ndim != 4 or parameter.grad.is_contiguous(memory_format=form)


def test_the_compiled_network_is_one_graph(monkeypatch):
    """What torch.compile takes as a whole reads nothing on the host. It is what a CUDA graph needs as well."""
    monkeypatch.setattr(Download, "item", lambda self: 0.0)
    step = meta_step(monkeypatch, "cornernet")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step.network.compile(backend="aot_eager", fullgraph=True)
    step([on_meta(coloured(2, 5, 0))])
    step([on_meta(coloured(2, 9, 1))])  # another number of objects is no other graph
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == 1
    assert all(parameter.grad.stride() == parameter.stride() for parameter in step.network.parameters())


def test_what_the_loss_of_anchors_reads(monkeypatch):
    """The baseline's matching is torchvision's: masks of values, which the host has to count. No other loss does."""
    pytest.importorskip("torchvision")
    family = small_family("anchors", classes=2)
    with Transfers("cpu") as transfers:
        Objective(family)(family.network.train(), make_batch(1, 5, classes=2))
    places = {place for what, place in transfers.seen if what == "shape"}
    assert places == {"models/anchors.py:anchor_loss", "models/anchors.py:match"}


class Copies:
    """Stands for torch.cuda's streams: records in which order they are used."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **_):
            self.calls.append(name)
            return self

        return call

    def __enter__(self):
        self.calls.append("enter")

    def __exit__(self, *_):
        self.calls.append("exit")


def test_uploads_have_a_stream_of_their_own(monkeypatch):
    used = Copies()
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(used, name))
    moved = []

    class Moved(nn.Module):
        def to(self, device, non_blocking):
            assert used.calls[-1] == "enter" and non_blocking
            moved.append(device)
            return used

    Upload(CUDA)(Moved())
    assert moved == [CUDA]
    assert used.calls == ["Stream", "stream", "enter", "exit", "current_stream", "wait_stream", "record_stream"]
