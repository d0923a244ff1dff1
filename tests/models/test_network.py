"""Networks against the released implementation's outputs, and on the sizes that users bring."""

import json
import zlib
from functools import partial

import numpy as np
import pytest
import torch

from models.centernet import centernet
from models.cornernet import cornernet
from models.hourglass import Hourglass, feature_size
from models.layers import Residual
from models.losses import detection_loss
from nnet.released import rename
from sample.targets import POINTS, KeypointTargets, gaussian_radius

SMALL = {"stacks": 2, "stem_width": 8, "widths": [8, 12, 16], "blocks": [1, 2, 1], "pool_width": 4}
SHORT = {"top_left": "tl", "bottom_right": "br", "center": "ct"}
# The goldens of each network: how it is built, and how many parameters it has.
NETWORKS = {
    "cornernet_hg104": (cornernet, 201_035_212),
    "centernet_hg104": (centernet, 210_062_960),
    "centernet_hg52": (partial(centernet, stacks=1), 104_844_152),
}


def golden_weights(names: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights by our names, made by the formula of the goldens' README from the released names."""
    weights = {}
    for name, shape in names.items():
        if name.endswith("num_batches_tracked"):
            continue
        g = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) == 4:
            g = g * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif name.endswith("running_var"):
            g = 1 + 0.5 * np.tanh(g)
        elif name.endswith(".weight"):
            g = 0.5 + 0.1 * g
        else:
            heat = "_heats." in name and name.endswith(".1.bias")
            g = 0.1 * g - (2.19 if heat else 0)
        weights[rename(name)] = torch.from_numpy(np.asarray(g, dtype=np.float32))
    return weights


def golden_network(goldens, name, classes=80):
    names = json.loads((goldens / f"params_{name}.json").read_text())
    network = NETWORKS[name][0](classes)
    missing, unexpected = network.load_state_dict(golden_weights(names), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_parameter_names_and_shapes(goldens, name):
    names = json.loads((goldens / f"params_{name}.json").read_text())
    build, parameters = NETWORKS[name]
    with torch.device("meta"):
        network = build(80)
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert {rename(name): shape for name, shape in names.items()} == own
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_forward(goldens, name):
    seed = json.loads((goldens / "manifest.json").read_text())["seed"]
    expected = np.load(goldens / f"forward_{name}.npz")
    network = golden_network(goldens, name).eval()
    sizes = sorted({key.split("_")[0] for key in expected.files})
    assert sizes
    for size in sizes:
        height, width = map(int, size.split("x"))
        x = np.random.RandomState(seed).standard_normal((1, 3, height, width)).astype(np.float32)
        with torch.inference_mode():
            (maps,) = network(torch.from_numpy(x))
        compared = 0
        for kind, found in maps.items():
            for part, value in zip(("heat", "tag", "off"), found, strict=True):
                if value is not None:
                    key = f"{size}_{SHORT[kind]}_{part}"
                    np.testing.assert_allclose(value.numpy(), expected[key], rtol=0, atol=1e-3)
                    compared += 1
        assert compared == sum(key.startswith(f"{size}_") for key in expected.files)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_training(goldens, name):
    """Losses, gradient norms and running statistics of three Adam steps in float64."""
    expected = json.loads((goldens / f"train_{name}.json").read_text())
    network = golden_network(goldens, name).double().train()
    batch, size = expected["batch"], expected["size"]
    seed = json.loads((goldens / "manifest.json").read_text())["seed"]
    x = torch.from_numpy(np.random.RandomState(seed + 1).standard_normal((batch, 3, size, size)))
    targets, image_index = training_targets(expected["boxes"], batch, 80, size, network.keypoints)
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4)
    for step, (loss, components) in enumerate(zip(expected["losses"], expected["components"], strict=True)):
        optimizer.zero_grad()
        terms = detection_loss(network(x), targets, image_index)
        terms.total.backward()
        assert terms.total.item() == pytest.approx(loss, rel=1e-6)
        assert terms.focal.item() == pytest.approx(components["focal"], rel=1e-6)
        assert terms.pull.item() == pytest.approx(components["pull"], rel=1e-6)
        assert terms.push.item() == pytest.approx(components["push"], rel=1e-6)
        assert terms.offset.item() == pytest.approx(components["off"], rel=1e-6)
        if step == 0:
            parameters = dict(network.named_parameters())
            assert len(parameters) == len(expected["grad_norms"])
            for name, norm in expected["grad_norms"].items():
                # conv biases in front of nothing that normalises them have tiny but exact gradients too
                assert parameters[rename(name)].grad.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-12), name
        optimizer.step()
    buffers = dict(network.named_buffers())
    for name, total in expected["bn_buffer_sums_after_3_steps"].items():
        assert buffers[rename(name)].double().sum().item() == pytest.approx(total, rel=1e-6), name


def training_targets(boxes, batch, classes, size, keypoints):
    """Targets of a training golden, all in float64: one bit of float32 grows a thousandfold with every step."""
    out = feature_size((size, size))[0]
    rows = np.array(boxes, dtype=np.float64)
    image_index, labels = rows[:, 0].astype(int), rows[:, 1].astype(int)
    height, width = (np.ceil((rows[:, 4 + a] - rows[:, 2 + a]) * out / size) for a in (1, 0))
    rule, overlap = ("centernet", 0.7) if "center" in keypoints else ("cornernet", 0.3)
    radii = np.maximum(0, np.floor(gaussian_radius(height, width, overlap, rule).numpy())).astype(int)
    y, x = np.mgrid[:out, :out]
    targets = {}
    for name in keypoints:
        exact = POINTS[name](rows[:, 2:]) * (out / size)
        cells = exact.astype(int)
        heatmap = np.zeros((batch, classes, out, out))
        for i, label, (cx, cy), r in zip(image_index, labels, cells, radii, strict=True):
            dx, dy = x - cx, y - cy
            sigma = (2 * r + 1) / (5 if name == "center" else 6)
            bump = np.exp(-(dx * dx + dy * dy) / (2 * sigma * sigma)) * ((abs(dx) <= r) & (abs(dy) <= r))
            np.maximum(heatmap[i, label], bump, out=heatmap[i, label])
        arrays = heatmap, cells[:, 1] * out + cells[:, 0], exact - cells
        targets[name] = KeypointTargets(*map(torch.from_numpy, arrays))
    return targets, torch.from_numpy(image_index)


@pytest.mark.parametrize("size", [(1, 1), (17, 64), (31, 45), (64, 96)])
@pytest.mark.parametrize("classes", [1, 3])
def test_any_size_and_number_of_classes(size, classes):
    network = cornernet(classes, **SMALL).train()
    height, width = feature_size(size)
    outputs = network(torch.randn(2, 3, *size)) if min(size) > 1 else network.eval()(torch.randn(1, 3, *size), True)
    assert len(outputs) == 2
    for maps in outputs:
        assert list(maps) == ["top_left", "bottom_right"]
        for heatmap, embedding, offset in maps.values():
            assert heatmap.shape[1:] == (classes, height, width)
            assert embedding.shape[1:] == (1, height, width)
            assert offset.shape[1:] == (2, height, width)


def test_last_stack_alone_in_evaluation():
    network = cornernet(2, **SMALL).eval()
    x = torch.randn(1, 3, 32, 32)
    every, last = network(x, every_stack=True), network(x)
    assert (len(every), len(last)) == (2, 1)
    assert torch.equal(every[-1]["top_left"].heatmap, last[0]["top_left"].heatmap)


def test_without_corner_pooling_the_parameters_are_the_same():
    torch.manual_seed(0)
    pooled = cornernet(2, **SMALL).eval()
    torch.manual_seed(0)
    unpooled = cornernet(2, **SMALL, corner_pooling=False).eval()
    assert pooled.state_dict().keys() == unpooled.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(pooled.parameters(), unpooled.parameters(), strict=True))
    x = torch.randn(1, 3, 32, 32)
    assert not torch.equal(pooled(x)[0]["top_left"].heatmap, unpooled(x)[0]["top_left"].heatmap)


def test_initialisation():
    network = cornernet(2, **SMALL)
    weights = network.backbone.stem[0].bn.weight
    assert 0 <= weights.min() and weights.max() <= 1 and weights.std() > 0.1
    assert torch.all(cornernet(2, **SMALL, bn_init="ones").backbone.stem[0].bn.weight == 1)
    assert torch.all(network.branches["top_left"][0].heatmap[-1].bias == -2.19)
    with pytest.raises(ValueError, match="'uniform' or 'ones'"):
        cornernet(2, **SMALL, bn_init="zeros")


def test_hourglass_shape_errors():
    with pytest.raises(ValueError, match="as many blocks as widths"):
        cornernet(2, widths=[8, 8, 8], blocks=[1, 1])
    assert Hourglass([4, 6], [1, 1])(torch.randn(2, 4, 5, 7)).shape == (2, 4, 5, 7)


def test_shortcut_of_few_channels_in_channels_last():
    """oneDNN's gradient of a strided 1x1 convolution of so few channels writes past its buffer: this may crash."""
    block, x = Residual(2, 2, stride=2), torch.randn(1, 2, 128, 128)
    block(x).sum().backward()
    expected = [p.grad.clone() for p in block.parameters()]
    block = block.to(memory_format=torch.channels_last)
    for _ in range(20):
        block.zero_grad()
        block(x.to(memory_format=torch.channels_last)).sum().backward()
    for gradient, parameter in zip(expected, block.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3)
