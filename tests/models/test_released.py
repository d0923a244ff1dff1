"""Networks against the released implementation: parameters, outputs and training steps."""

import json

import numpy as np
import pytest
import torch

from models.backbones import feature_size
from models.centernet import CenterNetOptions, centernet
from models.cornernet import CornerNetOptions, cornernet
from models.hourglass import HourglassOptions
from models.losses import detection_loss
from nnet.runtime.released_names import rename
from sample.targets import PLACES, KeypointTargets, gaussian_radius
from tests.golden_files import released_state

SHORT = {"top_left": "tl", "bottom_right": "br", "center": "ct"}
# The networks of the goldens: how each is built, and how many parameters it has.
NETWORKS = {
    "cornernet_hg104": (cornernet, CornerNetOptions(), 201_035_212),
    "centernet_hg104": (centernet, CenterNetOptions(), 210_062_960),
    "centernet_hg52": (centernet, CenterNetOptions(backbone=HourglassOptions(stacks=1)), 104_844_152),
}


def golden_weights(names: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Weights by our names, made by the formula of the goldens' README from the released names."""
    return {rename(name): weight for name, weight in released_state(names).items()}


def golden_network(golden, name, classes=80):
    names = json.loads(golden(f"params_{name}.json").read_text())
    build, options, _ = NETWORKS[name]
    network = build(classes, options)
    missing, unexpected = network.load_state_dict(golden_weights(names), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_parameter_names_and_shapes(golden, name):
    names = json.loads(golden(f"params_{name}.json").read_text())
    build, options, parameters = NETWORKS[name]
    with torch.device("meta"):
        network = build(80, options)
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert {rename(name): shape for name, shape in names.items()} == own
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_golden_forward(golden, name):
    seed = json.loads(golden("manifest.json").read_text())["seed"]
    expected = np.load(golden(f"forward_{name}.npz"))
    network = golden_network(golden, name).eval()
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


def training(name):
    """A parameter of the training golden. Weights, gradients and Adam's moments of Hourglass-104 take up to 10 GB."""
    memory = [pytest.mark.needs_memory(10)] if name.endswith("hg104") else []
    return pytest.param(name, marks=[pytest.mark.slow, *memory])


@pytest.mark.parametrize("name", [training(name) for name in NETWORKS])
def test_golden_training(golden, name):
    """Losses, gradient norms and running statistics of three Adam steps in float64."""
    expected = json.loads(golden(f"train_{name}.json").read_text())
    network = golden_network(golden, name).double().train()
    batch, size = expected["batch"], expected["size"]
    seed = json.loads(golden("manifest.json").read_text())["seed"]
    x = torch.from_numpy(np.random.RandomState(seed + 1).standard_normal((batch, 3, size, size)))
    targets, image_index = training_targets(expected["boxes"], batch, 80, size, network)
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-4)
    for step, (loss, components) in enumerate(zip(expected["losses"], expected["components"], strict=True)):
        terms = detection_loss(network(x), targets, image_index)
        assert terms.loss.item() == pytest.approx(loss, rel=1e-6)
        assert terms.focal.item() == pytest.approx(components["focal"], rel=1e-6)
        assert terms.pull.item() == pytest.approx(components["pull"], rel=1e-6)
        assert terms.push.item() == pytest.approx(components["push"], rel=1e-6)
        assert terms.offset.item() == pytest.approx(components["off"], rel=1e-6)
        if step == len(expected["losses"]) - 1:
            break  # nothing that follows is compared
        optimizer.zero_grad()
        terms.loss.backward()
        if step == 0:
            parameters = dict(network.named_parameters())
            assert len(parameters) == len(expected["grad_norms"])
            for name, norm in expected["grad_norms"].items():
                # the gradients of biases that no BatchNorm follows are tiny, but exact too
                assert parameters[rename(name)].grad.norm().item() == pytest.approx(norm, rel=1e-5, abs=1e-12), name
        optimizer.step()
    buffers = dict(network.named_buffers())
    for name, total in expected["bn_buffer_sums_after_3_steps"].items():
        values = buffers[rename(name)].double()
        # Relative to the sum of absolute values: means of both signs cancel to a sum near 0, whose own relative error
        # depends on the processor's order of additions.
        assert values.sum().item() == pytest.approx(total, rel=1e-6, abs=1e-6 * values.abs().sum().item()), name


def training_targets(boxes, batch, classes, size, network):
    """Targets of a training golden, in float64: a rounding error of float32 grows a thousandfold with every step."""
    out = feature_size((size, size), network.stride)[0]
    rows = np.array(boxes, dtype=np.float64)
    image_index, labels = rows[:, 0].astype(int), rows[:, 1].astype(int)
    height, width = (np.ceil((rows[:, 4 + a] - rows[:, 2 + a]) * out / size) for a in (1, 0))
    rule, overlap = ("centernet", 0.7) if "center" in network.keypoints else ("cornernet", 0.3)
    radii = np.maximum(0, np.floor(gaussian_radius(height, width, overlap, rule).numpy())).astype(int)
    y, x = np.mgrid[:out, :out]
    targets = {}
    for name in network.keypoints:
        exact = PLACES[name].locate(rows[:, 2:]) * (out / size)
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
