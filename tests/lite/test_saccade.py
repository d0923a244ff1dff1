"""CornerNet-Saccade, as configs/cornernet_saccade.yaml describes it, against the released implementation's outputs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from models.decode import decode_corners
from models.keypoints import CORNERS
from models.losses import stack_loss
from models.saccade import attention_loss
from nnet.families import build_family
from nnet.families.cornernet import batch_targets
from nnet.families.saccade.family import all_objects
from nnet.runtime.released_names import rename
from sample.dataset import Batch
from sample.saccade import LEAST_SHARE, areas, attention_targets, too_small
from sample.targets import BatchObjects, Grid, penalty_spread
from tests.lite.golden_files import counts_in_float64, decode_cases, released_network, seed_of

FOLDER = Path(configs.__file__).parent
CONFIG = configs.load(FOLDER / "cornernet_saccade.yaml")
CLASSES = 80
PARAMETERS = 116_969_339


def build():
    return build_family(CLASSES, CONFIG.model, CONFIG.penalty, CONFIG.loss).network


def test_golden_parameter_names_and_shapes(golden_lite):
    names = json.loads(golden_lite("params_lite_saccade.json").read_text())
    with torch.device("meta"):
        network = build()
    own = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert {rename(name): shape for name, shape in names.items()} == own
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS
    assert (network.stride, network.divisor) == (4, 32)


@pytest.mark.slow
@pytest.mark.needs_memory(2)
def test_golden_forward(golden_lite, tmp_path):
    expected = np.load(golden_lite("forward_lite_saccade.npz"))
    network = released_network(golden_lite, tmp_path, "saccade", build()).eval()
    sizes = sorted({key.partition("_")[0] for key in expected.files})
    assert sizes
    for size in sizes:
        shape = tuple(map(int, size.split("x")))
        x = np.random.RandomState(seed_of(golden_lite)).standard_normal((1, 3, *shape)).astype(np.float32)
        with torch.inference_mode():
            (maps,) = network(torch.from_numpy(x))
            (without,) = network(torch.from_numpy(x), attention=False)
        found = {
            f"{size}_{short}_{part}": value
            for short, name in zip(("tl", "br"), CORNERS, strict=True)
            for part, value in zip(("heat", "tag", "off"), maps.keypoints[name], strict=True)
        }
        found |= {f"{size}_att{level}": value for level, value in enumerate(maps.attention)}
        assert found.keys() == {key for key in expected.files if key.startswith(f"{size}_")}
        for key, value in found.items():
            np.testing.assert_allclose(value.numpy(), expected[key], rtol=0, atol=1e-4, err_msg=key)
        assert without.attention is None
        assert torch.equal(without.keypoints["top_left"].heatmap, maps.keypoints["top_left"].heatmap)


@pytest.mark.slow
@pytest.mark.needs_memory(6)
def test_golden_training(golden_lite, tmp_path):
    """Losses, gradient norms and running statistics of three Adam steps in float64."""
    expected = json.loads(golden_lite("train_lite_saccade.json").read_text())
    network = released_network(golden_lite, tmp_path, "saccade", build()).double().train()
    images = np.random.RandomState(expected["seed"]).standard_normal((expected["batch"], 3, *expected["size"]))
    batch = training_batch(expected, torch.from_numpy(images))
    targets, attention = training_targets(expected, batch)
    optimizer = torch.optim.Adam(network.parameters(), lr=expected["lr"])
    for step, (loss, parts) in enumerate(zip(expected["losses"], expected["components"], strict=True)):
        optimizer.zero_grad()
        outputs = network(batch.images)
        with counts_in_float64():
            stacks = [stack_loss(maps.keypoints, targets, batch.objects.image_index, CONFIG.loss) for maps in outputs]
        levels = torch.stack([torch.stack(attention_loss(m.attention, attention, CONFIG.loss)) for m in outputs])
        levels = levels.mean(0) / len(outputs)  # averaged twice
        terms = [sum(values) / len(stacks) for values in zip(*stacks, strict=True)]
        total = terms[0] + levels.sum()
        total.backward()
        assert total.item() == pytest.approx(loss, rel=1e-6)
        assert levels.tolist() == pytest.approx(parts.pop("att_levels"), rel=1e-6)
        assert levels.sum().item() == pytest.approx(parts.pop("att"), rel=1e-6)
        found = dict(zip(("focal", "pull", "push", "off"), (term.item() for term in terms[1:]), strict=True))
        assert found == pytest.approx(parts, rel=1e-6)
        if step == 0:
            norms = {name: p.grad.norm().item() for name, p in network.named_parameters()}
            wanted = {rename(name): norm for name, norm in expected["grad_norms"].items()}
            assert norms == pytest.approx(wanted, rel=1e-5, abs=1e-12)
        optimizer.step()
    buffers = {name: b.double().sum().item() for name, b in network.named_buffers()}
    for name, total in expected["bn_buffer_sums_after_3_steps"].items():
        assert buffers[rename(name)] == pytest.approx(total, rel=1e-5), name


def training_batch(expected, images):
    """The batch of the training golden, with its objects clipped and ignored as the sampler does it."""
    rows, (height, width) = np.array(expected["boxes"], dtype=np.float64), expected["size"]
    boxes = rows[:, 2:].clip(0, [width - 2, height - 2] * 2)  # a published crop is one pixel short
    (kept,) = np.nonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    share = areas(boxes[kept]) / areas(rows[kept, 2:])
    ignored = (share <= LEAST_SHARE) | too_small(boxes[kept], expected["size"])
    listed = expected["targets"]
    assert kept.tolist() == [entry["box"] for entry in listed]
    np.testing.assert_allclose(boxes[kept], [entry["clipped"] for entry in listed], rtol=0, atol=1e-12)
    np.testing.assert_allclose(share, [entry["share"] for entry in listed], rtol=0, atol=1e-6)
    assert ignored.tolist() == [entry["ignored"] for entry in listed]
    parts = []
    for some in (kept[~ignored], kept[ignored]):
        image_index, labels = (torch.from_numpy(rows[some, column].astype(np.int64)) for column in (0, 1))
        parts.append(BatchObjects(torch.from_numpy(boxes[some]), labels, image_index))
    return Batch(images, parts[0], None, torch.arange(len(images)), [], parts[1])


def training_targets(expected, batch):
    """Targets of the training golden, compared with those it lists.

    As released, they are rounded to float32: one bit of float32 grows a thousandfold with every step.
    """
    size, output_size = tuple(expected["size"]), tuple(expected["output_size"])
    grid = Grid(expected["batch"], CLASSES, size, output_size)
    everything = all_objects(batch)
    listed = sorted(expected["targets"], key=lambda entry: entry["ignored"])  # the used ones first, in order
    assert CONFIG.penalty.overlap == expected["gaussian_iou"]
    spread = penalty_spread(everything.boxes, size, output_size, CONFIG.penalty)
    assert spread.cut.tolist() == [entry["radius"] for entry in listed]
    targets = batch_targets(CORNERS, batch, grid, CONFIG.penalty, torch.contiguous_format)
    used = [entry for entry in listed if not entry["ignored"]]
    for n, (short, name) in enumerate(zip(("tl", "br"), CORNERS, strict=True)):
        heatmap, cells, offsets = targets[name]
        assert [[cell % output_size[1], cell // output_size[1]] for cell in cells.tolist()] == [
            entry[f"{short}_cell_xy"] for entry in used
        ]
        masked = heatmap < 0
        values = torch.where(masked, heatmap + 2, heatmap)
        assert masked.sum() == expected["masked_cells"][n]
        assert (masked & (values == 1)).sum() == expected["masked_positives"][n]
        assert (values == 1).sum() == expected["positives"][n]
        assert values.sum(dtype=torch.float64).item() == pytest.approx(expected["heat_sums"][n], rel=1e-6)
        np.testing.assert_allclose(offsets, [entry[f"{short}_off"] for entry in used], rtol=0, atol=1e-6)
        # The value under a mask was rounded by the subtraction of 2, and only counts where it is 1
        targets[name] = targets[name]._replace(heatmap=heatmap.double(), offsets=offsets.float().double())
    attention = attention_targets(everything, expected["batch"], size, CONFIG.model.backbone.stride)
    assert [list(level.shape[-2:]) for level in attention] == expected["att_sizes"]
    assert [level[:, 0].nonzero().tolist() for level in attention] == expected["attention_cells"]
    return targets, [level.double() for level in attention]


def test_golden_decoding(golden_lite):
    """All cases, with and without the rule that drops pairs at the edge of the map.

    Where a map has fewer local maxima than corners are asked for, the rest are cells of score 0, in the order that
    torch.topk happens to have. Pairs with such a corner are left out.
    """
    expected = np.load(golden_lite("decode_lite.npz"))
    ruled = compared = 0
    for case, corners in decode_cases(golden_lite):
        edge_pairs = not case.border_rule
        found = decode_corners(*corners, case.k, case.pairs, max_distance=case.distance, edge_pairs=edge_pairs)
        rows = np.concatenate([found.boxes, found.scores[..., None], found.corner_scores, found.labels[..., None]], 2)
        wanted = expected[f"{case.case}_dets"]
        assert rows.shape == wanted.shape
        for own, released in zip(rows, wanted, strict=True):
            pairs = [some[(some[:, 4] > -1) & (some[:, 5:7] > 0).all(1)] for some in (own, released)]
            np.testing.assert_allclose(*pairs, rtol=0, atol=1e-6)
            compared += len(pairs[0])
        everything = decode_corners(*corners, case.k, case.pairs, max_distance=case.distance)
        ruled += case.border_rule and not torch.equal(everything.scores, found.scores)
        options = CONFIG.test
        if (case.k, case.pairs, case.distance) == (options.corners, options.pairs, options.embedding_distance):
            assert edge_pairs == options.edge_pairs
    assert ruled and compared > 100, "the cases do not show enough"
