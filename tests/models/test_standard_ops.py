"""Pools and decoding in standard operators: equal to the custom ones, bit for bit, and to the released decoding."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.export import Dim

from external.corner_pool import DIRECTIONS, pool, pool_sum
from models.decode import best, decode_corners, decode_points
from models.keypoints import KeypointMaps
from models.standard_ops import (
    LONGEST,
    PairDecoder,
    TripletDecoder,
    highest,
    standard_pool,
    standard_pool_sum,
)
from tests.models.test_decode import CASES, golden_maps

KINDS = ("top_left", "bottom_right", "center")


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (33, 64), (3, LONGEST), (LONGEST, 2)])
def test_pools_are_equal_bit_for_bit(direction, size):
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    x[0, 0, 0, 0] = float("-inf")
    assert torch.equal(standard_pool(x, *DIRECTIONS[direction]), pool(x, direction))


def test_the_sum_of_two_pools():
    a, b = torch.randn(2, 1, 4, 20, 30)
    wanted = pool_sum(a, "top", b, "right")
    assert torch.equal(standard_pool_sum(a, DIRECTIONS["top"].scan, b, DIRECTIONS["right"].scan), wanted)


class OfMaps(nn.Module):
    """A decoder with tensors in place of named maps. Boxes stay in cells: the images have the size of the maps."""

    def __init__(self, decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, maps):
        return self.decoder(named(maps), maps[0][0])


def named(maps):
    return {kind: KeypointMaps(heat, tag, off) for kind, (heat, tag, off) in zip(KINDS, maps, strict=False)}


def onnx_session(decoder, maps, path):
    """ONNX Runtime with a decoder exported for maps like these, of any size."""
    import onnxruntime

    size = {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")}
    given = [tuple(kind) for kind in maps]
    dynamic = ([tuple(None if value is None else size for value in kind) for kind in given],)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(OfMaps(decoder), (given,), dynamic_shapes=dynamic)
    names = [f"{kind}_{name}" for kind, m in zip(KINDS, maps, strict=False) for name in present(m)]
    exported = torch.onnx.export(
        program, dynamo=True, input_names=names, output_names=list(decoder.outputs), verbose=False
    )
    exported.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(maps):
        values = [v.numpy() for m in maps for v in m if v is not None]
        found = session.run(None, dict(zip(names, values, strict=True)))
        return {name: torch.from_numpy(v) for name, v in zip(decoder.outputs, found, strict=True)}

    return run


def present(maps):
    return [name for name, value in maps._asdict().items() if value is not None]


def rows(found, score):
    columns = found["boxes"], found[score][..., None], found["corner_scores"], found["labels"][..., None]
    return torch.cat([v.float() for v in columns], 2).numpy()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_golden_decode_by_onnx_runtime(golden, case, tmp_path):
    """Boxes of both detectors, and CenterNet's centers, on maps of another size than the file was exported with."""
    seed = json.loads(golden("manifest.json").read_text())["seed"]
    session = None
    for detector in ("centernet", "cornernet"):
        expected = np.load(golden(f"decode_{detector}.npz"))
        drawn = {name: rest for name, *rest in golden_maps(seed, detector == "centernet")}
        k, pairs, *maps = drawn[case]
        if session is None:
            options = {"k": k, "pairs": pairs, "kernel": 3, "max_distance": 0.5, "mirror": False, "best": highest}
            small = [KeypointMaps(*(None if v is None else torch.randn(2, v.shape[1], 5, 7) for v in m)) for m in maps]
            session = onnx_session(TripletDecoder(k, "first", (3, 5), 150.0, **options), small, tmp_path / "x.onnx")
        if detector == "cornernet":  # no centers are wanted
            maps.append(maps[0]._replace(embedding=None))
        found = session(maps)
        ours, want = rows(found, "pair_scores"), expected[f"{case}_dets"]
        assert ours.shape == want.shape
        for mine, theirs in zip(ours, want, strict=True):
            kept = theirs[:, 4] > -1
            assert np.array_equal(mine[:, 4] > -1, kept)
            np.testing.assert_allclose(mine[kept], theirs[kept], rtol=0, atol=1e-5)
        if detector == "centernet":
            columns = found["centers"], found["center_labels"][..., None], found["center_scores"][..., None]
            centers = torch.cat([v.float() for v in columns], 2).numpy()
            np.testing.assert_allclose(centers, expected[f"{case}_centers"], rtol=0, atol=1e-5)


def draw_maps(seed, size, ties=False, batch=2):
    """Random maps of three kinds of keypoint, 3 classes; with ties, a few values only."""
    r = torch.Generator().manual_seed(seed)
    maps = []
    for tagged in (True, True, False):
        heat, tag, off = (torch.randn(batch, c, *size, generator=r) for c in (3, 1, 2))
        maps.append(KeypointMaps(heat.round() if ties else heat, tag if tagged else None, off.sigmoid()))
    return maps


def same_as_decode(found, maps, k, pairs):
    """Compare with models.decode: keypoints that the image lacks are filled up."""
    wanted = decode_corners(*maps[:2], k, pairs, 3, 0.5)
    n = wanted.scores.shape[1]
    assert torch.equal(found["pair_scores"][:, :n], wanted.scores) and (found["pair_scores"][:, n:] == -1).all()
    valid = wanted.scores >= 0
    torch.testing.assert_close(found["boxes"][:, :n][valid], wanted.boxes[valid], rtol=1e-6, atol=1e-6)  # scaled by 1
    assert torch.equal(found["labels"][:, :n][valid], wanted.labels[valid])
    points = decode_points(maps[2], k)
    m = points.scores.shape[1]
    assert torch.equal(found["center_scores"][:, :m], points.scores) and (found["center_scores"][:, m:] == -1).all()
    torch.testing.assert_close(found["centers"][:, :m], torch.stack([points.x, points.y], 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 7), (12, 9)])
def test_decoding_equals_that_of_tensors_of_any_size(size, ties):
    """The same keypoints in the same order, ties too, also with fewer cells than keypoints."""
    maps = draw_maps(0, size, ties)
    decoder = TripletDecoder(
        30, "first", (3, 5), 150.0, k=30, pairs=200, kernel=3, max_distance=0.5, mirror=False, best=best
    )
    same_as_decode(decoder(named(maps), maps[0][0]), maps, 30, 200)


def test_no_peak():
    """All cells are equal: ties go to the lower index."""
    maps = [KeypointMaps(torch.full((1, 3, 6, 6), -4.0), m.embedding, m.offset) for m in draw_maps(0, (6, 6), batch=1)]
    decoder = TripletDecoder(
        10, "best", (3, 5), 150.0, k=10, pairs=50, kernel=3, max_distance=9, mirror=False, best=best
    )
    wanted = decode_corners(*maps[:2], 10, 50, 3, 9)
    assert torch.equal(decoder(named(maps), maps[0][0])["pair_scores"], wanted.scores)


def test_pairs_at_the_edge():
    maps = draw_maps(1, (6, 8))
    options = {"k": 40, "pairs": 200, "kernel": 3, "max_distance": 9.0, "mirror": False, "best": best}
    found = PairDecoder(**options, edge_pairs=False)(named(maps), maps[0][0])
    wanted = decode_corners(*maps[:2], 40, 200, 3, 9.0, edge_pairs=False)
    assert torch.equal(found["scores"], wanted.scores)
    assert not torch.equal(found["scores"], PairDecoder(**options)(named(maps), maps[0][0])["scores"])


@pytest.mark.parametrize("exact", [False, True])
def test_mirror_images_are_mapped_back(exact):
    """An image whose mirror image has the same maps: x -> width - x as released, or width - 1 - x."""
    maps = draw_maps(3, (6, 8), batch=1)[:2]
    mirrored = {kind: KeypointMaps(*(torch.cat([v, v]) for v in m)) for kind, m in zip(KINDS, maps, strict=False)}
    options = {"k": 20, "pairs": 40, "kernel": 3, "max_distance": 9.0, "best": best, "exact_mirror": exact}
    boxes = PairDecoder(**options, mirror=False)(named(maps), torch.zeros(1, 3, 23, 31))["boxes"]
    both = PairDecoder(**options, mirror=True)(mirrored, torch.zeros(1, 3, 23, 31))["boxes"]
    end = 30 if exact else 31
    flipped = torch.stack([end - boxes[..., 2], boxes[..., 1], end - boxes[..., 0], boxes[..., 3]], 2)
    assert both.shape == (1, 80, 4)
    assert torch.equal(both[:, :40], boxes)
    torch.testing.assert_close(both[:, 40:], flipped)
