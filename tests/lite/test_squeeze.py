"""CornerNet-Squeeze, as configs/cornernet_squeeze.yaml describes it, against the released implementation's outputs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from db import read_image, to_results
from models.backbones import feature_size
from models.decode import Detections, decode_corners
from models.keypoints import CORNERS
from models.losses import detection_loss
from nnet.detection.suppression import suppress
from nnet.families import build_family
from nnet.families.base import candidates_from_cells
from nnet.families.placement import paste, place_original
from nnet.runtime.released_names import rename
from sample.augment import Crop, Mirror, RandomCrop, Sample, augmentations
from sample.colour import normalise
from sample.geometry import clip_boxes
from sample.targets import BatchObjects, Grid, box_targets, penalty_spread
from tests.lite.golden_files import (
    compare_crops,
    compare_parameters,
    compare_results,
    counts_in_float64,
    decode_cases,
    released_network,
    seed_of,
    tiny_index,
)

FOLDER = Path(configs.__file__).parent
CONFIG = configs.load(FOLDER / "cornernet_squeeze.yaml")
CLASSES = 80
PARAMETERS = 31_771_852


def build():
    return build_family(CLASSES, CONFIG.model, CONFIG.penalty, CONFIG.loss).network


def meta_network():
    with torch.device("meta"):
        return build()


def test_golden_parameter_names_and_shapes(golden_lite):
    network = meta_network()
    compare_parameters(golden_lite, "squeeze", network, PARAMETERS)
    assert (network.stride, network.divisor) == (8, 128)


def test_golden_forward(golden_lite, tmp_path):
    expected = np.load(golden_lite("forward_lite_squeeze.npz"))
    network = released_network(golden_lite, tmp_path, "squeeze", build()).eval()
    sizes = sorted({key.partition("_")[0] for key in expected.files})
    assert sizes
    for size in sizes:
        shape = tuple(map(int, size.split("x")))
        x = np.random.RandomState(seed_of(golden_lite)).standard_normal((1, 3, *shape)).astype(np.float32)
        with torch.inference_mode():
            (maps,) = network(torch.from_numpy(x))
        found = {
            f"{size}_{short}_{part}": value
            for short, name in zip(("tl", "br"), CORNERS, strict=True)
            for part, value in zip(("heat", "tag", "off"), maps[name], strict=True)
        }
        assert found.keys() == {key for key in expected.files if key.startswith(f"{size}_")}
        for key, value in found.items():
            np.testing.assert_allclose(value.numpy(), expected[key], rtol=0, atol=1e-4, err_msg=key)


@pytest.mark.slow
@pytest.mark.needs_memory(3)
def test_golden_training(golden_lite, tmp_path):
    """Losses, gradient norms and running statistics of three Adam steps in float64."""
    expected = json.loads(golden_lite("train_lite_squeeze.json").read_text())
    network = released_network(golden_lite, tmp_path, "squeeze", build()).double().train()
    images = np.random.RandomState(expected["seed"]).standard_normal((expected["batch"], 3, *expected["size"]))
    images = torch.from_numpy(images)
    targets, image_index = training_targets(expected)
    optimizer = torch.optim.Adam(network.parameters(), lr=expected["lr"])
    for step, (loss, parts) in enumerate(zip(expected["losses"], expected["components"], strict=True)):
        optimizer.zero_grad()
        outputs = network(images)
        with counts_in_float64():
            terms = detection_loss(outputs, targets, image_index, CONFIG.loss)
        terms.loss.backward()
        assert terms.loss.item() == pytest.approx(loss, rel=1e-6)
        found = {"focal": terms.focal, "pull": terms.pull, "push": terms.push, "off": terms.offset}
        assert {name: term.item() for name, term in found.items()} == pytest.approx(parts, rel=1e-6)
        if step == 0:
            norms = {name: p.grad.norm().item() for name, p in network.named_parameters()}
            wanted = {rename(name): norm for name, norm in expected["grad_norms"].items()}
            assert norms == pytest.approx(wanted, rel=1e-5, abs=1e-12)
        optimizer.step()
    buffers = {name: b.double().sum().item() for name, b in network.named_buffers()}
    for name, total in expected["bn_buffer_sums_after_3_steps"].items():
        assert buffers[rename(name)] == pytest.approx(total, rel=1e-5), name


def training_targets(expected):
    """Targets of the training golden, compared with those it lists.

    As released, they are rounded to float32: one bit of float32 grows a thousandfold with every step.
    """
    size, output_size = tuple(expected["size"]), tuple(expected["output_size"])
    assert feature_size(size, CONFIG.model.backbone.stride) == output_size
    rows = np.array(expected["boxes"], dtype=np.float64)
    boxes, numbers = clip_boxes(rows[:, 2:], np.arange(len(rows)), size)
    image_index, labels = (torch.from_numpy(rows[numbers, column].astype(np.int64)) for column in (0, 1))
    objects = BatchObjects(torch.from_numpy(boxes), labels, image_index)
    listed = expected["targets"]
    assert numbers.tolist() == [entry["box"] for entry in listed]
    np.testing.assert_allclose(boxes, [entry["clipped"] for entry in listed], rtol=0, atol=1e-12)
    spread = penalty_spread(objects.boxes, size, output_size, CONFIG.penalty)
    assert CONFIG.penalty.overlap == expected["gaussian_iou"]
    assert spread.cut.tolist() == [entry["radius"] for entry in listed]
    targets = box_targets(CORNERS, objects, Grid(expected["batch"], CLASSES, size, output_size), CONFIG.penalty)
    for n, (short, name) in enumerate(zip(("tl", "br"), CORNERS, strict=True)):
        heatmap, cells, offsets = targets[name]
        assert [[cell % output_size[1], cell // output_size[1]] for cell in cells.tolist()] == [
            entry[f"{short}_cell_xy"] for entry in listed
        ]
        assert (heatmap == 1).sum() == expected["positives"][n]
        assert heatmap.sum(dtype=torch.float64).item() == pytest.approx(expected["heat_sums"][n], rel=1e-6)
        np.testing.assert_allclose(offsets, [entry[f"{short}_off"] for entry in listed], rtol=0, atol=1e-6)
        targets[name] = targets[name]._replace(heatmap=heatmap.double(), offsets=offsets.float().double())
    return targets, image_index


def golden_samples(golden, shared_data):
    """For each image of targets_lite_squeeze: its sample, made from the listed draws, and the draws."""
    listed = json.loads(golden("targets_lite_squeeze.json").read_text())
    index, where = tiny_index(shared_data, listed["split"])
    crop, mirror, _ = augmentations(CONFIG.augment, CONFIG.data.input_size)
    assert isinstance(crop, RandomCrop) and isinstance(mirror, Mirror)
    for drawn in listed["images"]:
        i = where[drawn["file"]]
        assert drawn["scale"] in crop.scales
        sample = Sample(read_image(index.path(i)), *index.annotations(i))
        assert list(sample.image.shape[:2]) == drawn["image_size"]
        sample = crop.apply(sample, Crop(drawn["scale"], drawn["center_x"], drawn["center_y"]))
        yield mirror.apply(sample, drawn["flip"]), drawn


def test_golden_crops_and_colours(golden_lite, shared_data):
    compare_crops(golden_lite, "squeeze", golden_samples(golden_lite, shared_data))


def test_golden_targets(golden_lite, shared_data):
    expected = np.load(golden_lite("targets_lite_squeeze.npz"))
    samples = [sample for sample, _ in golden_samples(golden_lite, shared_data)]
    counts = [len(sample.boxes) for sample in samples]
    objects = BatchObjects(
        *(torch.from_numpy(np.concatenate(parts)) for parts in zip(*(s[1:3] for s in samples), strict=True)),
        torch.arange(len(samples)).repeat_interleave(torch.tensor(counts)),
    )
    size = CONFIG.data.input_size
    output_size = feature_size(size, CONFIG.model.backbone.stride)
    targets = box_targets(CORNERS, objects, Grid(len(samples), CLASSES, size, output_size), CONFIG.penalty)
    there = expected["mask"].astype(bool)
    assert there.sum(1).tolist() == counts
    radii = penalty_spread(objects.boxes, size, output_size, CONFIG.penalty).cut
    assert expected["draws"][:, -1].tolist() == radii.tolist()
    assert expected["draws"][:, 0].tolist() == objects.image_index.tolist()
    for n, (short, name) in enumerate(zip(("tl", "br"), CORNERS, strict=True)):
        heatmap, cells, offsets = targets[name]
        listed = np.zeros(heatmap.shape, np.float32)
        listed[tuple(expected[f"{short}_heat_idx"].T.astype(int))] = expected[f"{short}_heat_val"]
        np.testing.assert_allclose(heatmap, listed, rtol=0, atol=1e-6)
        assert np.array_equal(heatmap > 0, listed > 0)
        assert expected[f"{short}_ind"][there].tolist() == cells.tolist()
        x, y = expected["draws"][:, 2 + 2 * n : 4 + 2 * n].astype(int).T
        assert (y * output_size[1] + x).tolist() == cells.tolist()
        np.testing.assert_allclose(offsets, expected[f"{short}_off"][there], rtol=0, atol=1e-5)


def test_golden_decoding(golden_lite):
    """The cases without the border rule, which is CornerNet-Saccade's."""
    expected = np.load(golden_lite("decode_lite.npz"))
    compared = 0
    for case, corners in decode_cases(golden_lite):
        if case.border_rule:
            continue
        found = decode_corners(*corners, case.k, case.pairs, max_distance=case.distance)
        rows = np.concatenate([found.boxes, found.scores[..., None], found.corner_scores, found.labels[..., None]], 2)
        wanted = expected[f"{case.case}_dets"]
        assert rows.shape == wanted.shape
        for own, released in zip(rows, wanted, strict=True):
            assert (own[:, 4] > -1).sum() == (released[:, 4] > -1).sum() > 0
            kept = released[:, 4] > -1
            np.testing.assert_allclose(own[own[:, 4] > -1], released[kept], rtol=0, atol=1e-6)
        options = CONFIG.test
        compared += (case.k, case.pairs, case.distance) == (options.corners, options.pairs, options.embedding_distance)
    assert compared, "no case has the options of the config"


def test_golden_post(golden_lite, shared_data):
    """The network's inputs; decoded pairs of several images -> the same results and the same COCO figures."""
    listed = json.loads(golden_lite("post_lite_squeeze.json").read_text())
    expected = np.load(golden_lite("post_lite_squeeze.npz"))
    options, network = CONFIG.test, meta_network()
    index, where = tiny_index(shared_data, listed["split"])
    assert list(options.scales) == listed["scales"] and not options.mirror
    results, stale = [], 0
    for n, file in enumerate(listed["files"]):
        i = where[file]
        image = read_image(index.path(i))
        placement = place_original(*image.shape[:2], 1.0, network.stride, network.divisor)
        pixels = normalise(torch.from_numpy(paste(image, placement)).permute(2, 0, 1)[None])[0]
        h = placement.canvas[0]
        rows = pixels[:, [0, h // 4, h // 2, h - 1], ::2].transpose(0, 1)
        np.testing.assert_allclose(rows, expected[f"rows_{n}"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(pixels.double().mean((1, 2)), expected[f"mean_{n}"], rtol=0, atol=1e-4)

        dets = expected[f"dets_{n}_0"]
        decoded = Detections(dets[..., :4], dets[..., 4], dets[..., 7], dets[..., 5:7])
        candidates = candidates_from_cells(decoded, placement, options.outside)
        found = suppress(candidates, options)
        final = np.concatenate([found.labels[:, None], found.boxes, found.scores[:, None]], 1)
        np.testing.assert_allclose(final, expected[f"final_{n}"], rtol=0, atol=1e-4)
        stale += len(found.scores) > len(suppress(candidates, replace(options, as_published=False)).scores)
        results += to_results(index, i, found.boxes, found.scores, found.labels, 2)
    assert stale, "no image exercises the stale rows of the released soft-NMS"
    compare_results(index, results, listed, [int(index.image_ids[where[file]]) for file in listed["files"]], atol=0.02)


def test_configs_are_the_recipe():
    assert CONFIG.train.batch == (13, 14, 14, 14)
    assert (CONFIG.train.iterations, CONFIG.train.lr, CONFIG.train.lr_drops) == (500_000, 2.5e-4, (450_000,))
    assert CONFIG.test.as_published and CONFIG.data.input_size == (511, 511)
    paper = configs.load(FOLDER / "cornernet_hg104.yaml")
    assert (CONFIG.augment, CONFIG.penalty, CONFIG.loss) == (paper.augment, paper.penalty, paper.loss)
    small, toy = (configs.load(FOLDER / f"{name}.yaml") for name in ("toy_squeeze", "toy"))
    assert (small.train, small.data) == (toy.train, toy.data)
    for parts in (lambda c: c.model.head, lambda c: c.model.backbone.block, lambda c: c.model.backbone.upsampling):
        assert parts(small) == parts(CONFIG) != parts(toy)
    assert replace(small.test, as_published=True) == CONFIG.test
    for config in (CONFIG, small):
        assert configs.from_dict(configs.to_dict(config), "checkpoint") == config
