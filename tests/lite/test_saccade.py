"""CornerNet-Saccade, as configs/cornernet_saccade.yaml describes it, against the released implementation's outputs."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import configs
from db import read_image, to_results
from models.backbones import feature_size
from models.decode import decode_corners
from models.keypoints import CORNERS, KeypointMaps
from models.losses import stack_loss
from models.saccade import SaccadeMaps, SaccadeOptions, attention_loss
from nnet.detection.suppression import suppress
from nnet.families import build_family
from nnet.families.base import Candidates
from nnet.families.cornernet import batch_targets
from nnet.families.saccade.crops import Crop, first_crops
from nnet.families.saccade.family import all_objects, attention_scores
from nnet.families.saccade.locations import Locations, attention_locations, detected_locations
from nnet.runtime.released_names import rename
from sample.augment import Mirror, Sample, ZoomToReference, augmentations
from sample.batch import collate
from sample.colour import normalise
from sample.dataset import Batch, TrainingSample
from sample.geometry import clip_boxes
from sample.saccade import LEAST_SHARE, SCALES, ZoomOptions, areas, attention_targets, cut_crop, resized_size, too_small
from sample.targets import BatchObjects, Grid, penalty_spread
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
CONFIG = configs.load(FOLDER / "cornernet_saccade.yaml")
CLASSES = 80
PARAMETERS = 116_969_339


def build():
    return build_family(CLASSES, CONFIG.model, CONFIG.penalty, CONFIG.loss).network


def test_golden_parameter_names_and_shapes(golden_lite):
    with torch.device("meta"):
        network = build()
    compare_parameters(golden_lite, "saccade", network, PARAMETERS)
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


class ListedDraws:
    """A random generator that gives the draws of a golden image, if it is asked for their ranges."""

    def __init__(self, drawn: dict, boxes: int):
        """boxes: number of the image's boxes that have an area."""
        self.expected = []
        if "ref_index" in drawn:
            self.expected += [((boxes,), drawn["ref_index"]), (tuple(drawn["ref_size_range"]), drawn["ref_size_draw"])]
        else:
            choice = np.abs(np.array(SCALES) - drawn["scale_choice"]).argmin()
            self.expected.append(((len(SCALES),), choice))
        self.expected.append(("random", drawn["centered_draw"]))
        for axis in (drawn["crop_x"], drawn["crop_y"]):
            if axis["draw"] is not None:
                self.expected += [((15,), axis[name]) for name in ("jitter_low", "jitter_high") if name in axis]
                self.expected.append((tuple(axis["range"]), axis["draw"]))

    def integers(self, *limits: int) -> int:
        wanted, value = self.expected.pop(0)
        assert limits == wanted
        return value

    def random(self) -> float:
        wanted, value = self.expected.pop(0)
        assert wanted == "random"
        return value


def golden_samples(golden, shared_data):
    """For each image of targets_lite_saccade: its sample, made from the listed draws, and the entry of the image."""
    listed = json.loads(golden("targets_lite_saccade.json").read_text())
    index, where = tiny_index(shared_data, listed["split"])
    zoom, mirror, ignore, _ = augmentations(CONFIG.augment, CONFIG.data.input_size)
    assert isinstance(zoom, ZoomToReference) and isinstance(mirror, Mirror)
    for drawn in listed["images"]:
        i = where[drawn["file"]]
        sample = Sample(read_image(index.path(i)), *index.annotations(i))
        assert list(sample.image.shape[:2]) == drawn["image_size"]
        if drawn["boxes_removed"]:
            sample = sample._replace(boxes=sample.boxes[:0], labels=sample.labels[:0])
        with_area, _ = clip_boxes(sample.boxes, sample.labels, sample.image.shape[:2])
        draws = ListedDraws(drawn, len(with_area))
        crop = zoom.draw(sample, draws)
        assert not draws.expected
        assert crop.scale == pytest.approx(drawn["scale"], rel=1e-12)
        assert [crop.center_y, crop.center_x] == drawn["center_yx"]
        assert list(resized_size(sample.image.shape[:2], crop.scale)) == drawn["resized_size"]
        _, offset, (x1, y1, x2, y2) = cut_crop(sample.image, crop, CONFIG.data.input_size)
        assert offset[::-1].tolist() == drawn["offset_yx"]
        assert [y1, y2, x1, x2] == drawn["border_y0_y1_x0_x1"]
        yield ignore.apply(mirror.apply(zoom.apply(sample, crop), drawn["flip"])), sample, drawn


def test_golden_crops_and_colours(golden_lite, shared_data):
    samples = golden_samples(golden_lite, shared_data)
    compare_crops(golden_lite, "saccade", ((sample, drawn) for sample, _, drawn in samples))


def test_golden_targets(golden_lite, shared_data):
    """The objects of the samples, and the targets of the batch that they make."""
    expected = np.load(golden_lite("targets_lite_saccade.npz"))
    samples = []
    for n, (sample, before, _) in enumerate(golden_samples(golden_lite, shared_data)):
        kept, dets = expected[f"{n}_kept"], expected[f"{n}_dets"]
        assert sample.labels.tolist() == before.labels[kept].tolist()
        np.testing.assert_allclose(sample.boxes, dets[:, :4], rtol=0, atol=1e-3)
        assert sample.ignored.tolist() == expected[f"{n}_ignored"].tolist()
        samples.append(TrainingSample(sample._replace(colour=None), n, []))
    assert any(s.sample.ignored.any() for s in samples)
    batch = collate(samples)
    size = CONFIG.data.input_size
    output_size = feature_size(size, CONFIG.model.backbone.stride)
    grid = Grid(len(samples), CLASSES, size, output_size)
    targets = batch_targets(CORNERS, batch, grid, CONFIG.penalty, torch.contiguous_format)
    there = expected["mask"].astype(bool)
    owners = batch.objects.image_index
    assert there.sum(1).tolist() == torch.bincount(owners, minlength=len(samples)).tolist()
    everything = all_objects(batch)
    order = everything.image_index.argsort(stable=True)  # the used objects of an image, then the ignored ones
    listed = expected["draws"].astype(int)  # image, box, x, y, x, y, radius
    number = np.concatenate([np.argsort(s.sample.ignored, kind="stable") for s in samples])
    listed = listed[np.lexsort((listed[:, 1], listed[:, 0]))]
    starts = np.searchsorted(listed[:, 0], everything.image_index[order].numpy())
    listed = listed[starts + number]
    radii = penalty_spread(everything.boxes[order], size, output_size, CONFIG.penalty).cut
    assert listed[:, -1].tolist() == radii.tolist()
    for short, name in zip(("tl", "br"), CORNERS, strict=True):
        heatmap, cells, offsets = targets[name]
        wanted, masks = np.zeros(heatmap.shape, np.float32), np.zeros(heatmap.shape, bool)
        wanted[tuple(expected[f"{short}_heat_idx"].T.astype(int))] = expected[f"{short}_heat_val"]
        masks[tuple(expected[f"{short}_valid_zero_idx"].T.astype(int))] = True
        assert np.array_equal(heatmap < 0, masks) and masks.any()
        np.testing.assert_allclose(np.where(masks, wanted, heatmap), wanted, rtol=0, atol=1e-6)
        assert np.array_equal(heatmap[masks], np.where(wanted[masks] == 1, -1, -2))
        assert expected[f"{short}_ind"][there].tolist() == cells.tolist()
        np.testing.assert_allclose(offsets, expected[f"{short}_off"][there], rtol=0, atol=1e-5)
    attention = attention_targets(everything, len(samples), size, CONFIG.model.backbone.stride)
    for level, target in enumerate(attention):
        cells = sorted(map(tuple, expected[f"att{level}_idx"].astype(int).tolist()))
        assert sorted(map(tuple, target[:, 0].nonzero().tolist())) == cells


class StandIn:
    """Takes the place of the Detector: gives listed predictions, and records the network's inputs."""

    def __init__(self, predictions: list[SaccadeMaps]):
        self.options, self.input_size = CONFIG.test, CONFIG.data.input_size
        self.predictions, self.inputs = predictions, []

    def timed(self, part):
        return nullcontext()

    def stack(self, canvases):
        return torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2)

    def predict(self, images, attention):
        self.inputs.append(normalise(images).numpy())
        maps = self.predictions.pop(0)
        assert (maps.attention is not None) == attention and len(maps.keypoints["top_left"].heatmap) == len(images)
        return maps


def stand_in(expected, n: int) -> StandIn:
    """The stand-in network for image n: both passes' maps, made from their peaks."""
    attention = [torch.logit(torch.from_numpy(expected[f"{n}_first_att{level}"]))[:, None] for level in range(3)]
    predictions = [SaccadeMaps(maps_of(expected[f"{n}_first_peaks"], 2), attention)]
    if f"{n}_peaks" in expected:
        peaks, crops, batch = expected[f"{n}_peaks"], len(expected[f"{n}_locs"]), CONFIG.test.saccade.at_once
        for first in range(0, crops, batch):
            some = peaks[(peaks[:, 0] >= first) & (peaks[:, 0] < first + batch)] - [first, *[0] * 8]
            predictions.append(SaccadeMaps(maps_of(some, min(batch, crops - first)), None))
    return StandIn(predictions)


def maps_of(peaks, crops: int) -> dict[str, KeypointMaps]:
    """Maps of 64x64 cells from peaks: crop, side, class, y, x, logit, embedding, offset x, offset y."""
    maps = {}
    for side, name in enumerate(CORNERS):
        heatmap = torch.full((crops, CLASSES, 64, 64), -12.0)
        embedding, offset = torch.zeros(crops, 1, 64, 64), torch.zeros(crops, 2, 64, 64)
        rows = peaks[peaks[:, 1] == side]
        i, _, label, y, x = rows[:, :5].astype(int).T
        values = torch.from_numpy(rows[:, 5:].astype(np.float32))
        heatmap[i, label, y, x], embedding[i, 0, y, x] = values[:, 0], values[:, 1]
        offset[i, 0, y, x], offset[i, 1, y, x] = values[:, 2], values[:, 3]
        maps[name] = KeypointMaps(heatmap, embedding, offset)
    return maps


def rows_of(found) -> np.ndarray:
    """Candidates as rows: box, score, top-left score, bottom-right score, class; without rejected ones."""
    rows = np.concatenate([found.boxes, found.scores[:, None], found.corner_scores, found.labels[:, None]], 1)
    return rows[found.scores > -1]


def compare_inputs(inputs, rows, row_indices, means, step: int = 1):
    """Compare the network's inputs with the listed rows of some of them, and the means of all."""
    np.testing.assert_allclose(inputs[::step][:, :, row_indices], rows, rtol=0, atol=1e-4)
    np.testing.assert_allclose(inputs.astype(np.float64).mean((2, 3)), means, rtol=0, atol=1e-4)


def compare_locations(locations, expected, tolerance: float = 0):
    found = np.stack(locations[:4], 1)
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found[:, 3], expected[:, 3], rtol=0, atol=1e-6)


def compare_first_pass(first, image, own, listed, looking):
    """The inputs of the first pass, and the detections in it that are kept. first: the views."""
    crops = first_crops(image.shape[:2], CONFIG.data.input_size[0], CONFIG.test.saccade.first)
    assert [[c.y, c.x, np.float32(c.scale)] for c in crops] == own["first_locs"].tolist()
    assert [list(c.offset) for c in crops] == own["first_offsets"].tolist()
    compare_inputs(looking.inputs[0], own["first_rows"], listed["first_row_indices"], own["first_means"])
    kept = Candidates.join([view.found for view in first])
    np.testing.assert_allclose(rows_of(kept), own["first_dets"], rtol=0, atol=1e-2)


def compare_where_to_look(family, image, own, eye):
    """The detections of the first pass before any is dropped, and the locations from them and from attention.

    Returns the locations after suppression.
    """
    size, options = image.shape[:2], CONFIG.test.saccade
    crops = first_crops(size, CONFIG.data.input_size[0], options.first)
    seen = list(family.look(image, crops, eye, attention=True))
    mapped = own["first_dets_mapped"].reshape(-1, 8)
    everything = Candidates.join([view.found for view in seen])
    np.testing.assert_allclose(rows_of(everything), mapped[mapped[:, 4] > -1], rtol=0, atol=1e-2)
    scores = [attention_scores(torch.cat(level)) for level in zip(*(v.maps.attention for v in seen), strict=True)]
    attention = attention_locations(scores, crops, size, 4, options.attention_threshold)
    compare_locations(attention, own["att_locs"])
    detected = detected_locations(everything, 1.0, options.reference_threshold)
    compare_locations(detected, own["ref_locs"], 1e-3)
    locations = family.locations(size, crops, seen, eye)
    compare_locations(Locations.join([attention, detected]), own["locs_before_nms"], 1e-3)
    compare_locations(locations, own["locs_after_nms"], 1e-3)
    return locations


def compare_second_pass(second, locations, own, listed, looking):
    """The locations that are looked at, the inputs there, and the detections in them. second: the views."""
    compare_locations(locations.take(slice(CONFIG.test.saccade.crops)), own["locs"], 1e-3)
    closer = [Crop.at(y, x, s, CONFIG.data.input_size[0], "") for y, x, s in own["locs"][:, :3]]
    assert [[crop.pixels] * 2 for crop in closer] == own["crop_sizes"].tolist()
    assert [list(crop.offset) for crop in closer] == own["offsets"].tolist()
    inputs, rows = np.concatenate(looking.inputs[1:]), listed["row_indices"]
    compare_inputs(inputs, own["rows"], rows, own["means"], listed["row_crop_step"])
    mapped, found = own["dets_mapped"].reshape(-1, 8), Candidates.join([view.found for view in second])
    np.testing.assert_allclose(rows_of(found), mapped[mapped[:, 4] > -1], rtol=0, atol=1e-2)


def compare_suppression(candidates, own):
    """Soft-NMS of all detections of an image. Returns what is left."""
    rows = rows_of(candidates)
    rows = rows[np.argsort(rows[:, 7], kind="stable")]
    np.testing.assert_allclose(rows[:, [7, *range(7)]], own["soft_nms_in"], rtol=0, atol=1e-2)
    for limit, name in ((10_000, "soft_nms_out"), (CONFIG.test.detections, "final")):
        found = suppress(candidates, replace(CONFIG.test, detections=limit))
        final = np.concatenate([found.labels[:, None], found.boxes, found.scores[:, None]], 1)
        np.testing.assert_allclose(final[:, :5], own[name][:, :5], rtol=0, atol=1e-2)
        np.testing.assert_allclose(final[:, 5], own[name][:, 5], rtol=0, atol=1e-4)
    return found


def test_golden_inference(golden_lite, shared_data):
    """Both passes over several images, with every intermediate result, and COCO's figures."""
    listed = json.loads(golden_lite("test_lite_saccade.json").read_text())
    expected = np.load(golden_lite("test_lite_saccade.npz"))
    index, where = tiny_index(shared_data, listed["split"])
    with torch.device("meta"):
        family = build_family(CLASSES, CONFIG.model, CONFIG.penalty, CONFIG.loss)
    results = []
    for n, file in enumerate(listed["files"]):
        own = {name.partition("_")[2]: expected[name] for name in expected.files if name.startswith(f"{n}_")}
        image, looking = read_image(index.path(where[file])), stand_in(expected, n)
        views = list(family.views(image, looking))
        first, second = views[: len(CONFIG.test.saccade.first)], views[len(CONFIG.test.saccade.first) :]
        compare_first_pass(first, image, own, listed, looking)
        locations = compare_where_to_look(family, image, own, stand_in(expected, n))
        counts = listed["images"][n]
        assert (len(locations.y), len(second)) == (counts["after_nms"], counts["crops"])
        if second:
            compare_second_pass(second, locations, own, listed, looking)
        found = compare_suppression(family.propose(iter(views), CONFIG.test), own)
        results += to_results(index, where[file], found.boxes, found.scores, found.labels, 2)
    compare_results(index, results, listed, [int(index.image_ids[where[file]]) for file in listed["files"]], atol=0.011)


def test_configs_are_the_recipe():
    paper = configs.load(FOLDER / "cornernet_hg104.yaml")
    assert CONFIG.model == SaccadeOptions() and CONFIG.data.input_size == (255, 255)
    assert CONFIG.train == replace(paper.train, batch=(12, 12, 12, 12)) and CONFIG.loss == paper.loss
    assert CONFIG.augment == replace(paper.augment, zoom=ZoomOptions())
    assert CONFIG.penalty == replace(paper.penalty, overlap=0.5)
    assert CONFIG.test.as_published and not CONFIG.test.stale_rows and not CONFIG.test.mirror
    large, small, toy = (
        configs.load(FOLDER / f"{name}.yaml") for name in ("cornernet_saccade_hg104", "toy_saccade", "toy")
    )
    assert large == replace(CONFIG, model=replace(CONFIG.model, backbone=paper.model.backbone))
    assert (small.train, small.penalty, small.augment) == (toy.train, CONFIG.penalty, CONFIG.augment)
    assert replace(small.test, as_published=True, stale_rows=False) == CONFIG.test
