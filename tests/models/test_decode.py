"""Decoding against the released implementation and against loops."""

import json

import numpy as np
import pytest
import torch

from models.cornernet import KeypointMaps
from models.decode import decode_corners, top_keypoints
from nnet.centers import center_rows
from nnet.inference import detection_rows

# What the goldens' README lists: (batch, classes, h, w, K, pairs), drawn one after the other.
CASES = {"a": (2, 80, 32, 32, 100, 1000), "b": (1, 80, 48, 64, 70, 1000), "c": (1, 3, 16, 16, 20, 300)}


def golden_maps(seed, centers):
    """(name, K, pairs, top-left maps, bottom-right maps) for each case; with centers, their maps too."""
    r = np.random.RandomState(seed + 30)
    for name, (batch, classes, h, w, k, pairs) in CASES.items():
        heats = [r.standard_normal((batch, classes, h, w)) * 1.5 - 2 for _ in range(2)]
        tags = [r.standard_normal((batch, 1, h, w)) * 0.5 for _ in range(2)]
        offs = [r.uniform(0, 1, (batch, 2, h, w)) for _ in range(2)]
        maps = [
            KeypointMaps(*(torch.from_numpy(v.astype(np.float32)) for v in parts))
            for parts in zip(heats, tags, offs, strict=True)
        ]
        if centers:
            heat, off = r.standard_normal((batch, classes, h, w)) * 1.5 - 2, r.uniform(0, 1, (batch, 2, h, w))
            heat, off = (torch.from_numpy(v.astype(np.float32)) for v in (heat, off))
            maps.append(KeypointMaps(heat, None, off))
        yield name, k, pairs, *maps


@pytest.mark.parametrize("detector", ["cornernet", "centernet"])
def test_golden_decode(goldens, detector):
    expected = np.load(goldens / f"decode_{detector}.npz")
    seed = json.loads((goldens / "manifest.json").read_text())["seed"]
    for name, k, pairs, tl, br, *center in golden_maps(seed, detector == "centernet"):
        found = detection_rows(decode_corners(tl, br, k, pairs, 3, 0.5))
        want = expected[f"{name}_dets"]
        assert found.shape == want.shape
        for ours, theirs in zip(found, want, strict=True):
            kept = theirs[:, 4] > -1
            assert np.array_equal(ours[:, 4] > -1, kept)
            np.testing.assert_allclose(ours[kept], theirs[kept], rtol=0, atol=1e-5)
        if center:
            centers = center_rows(*center, k, 3)
            assert centers.shape == expected[f"{name}_centers"].shape
            np.testing.assert_allclose(centers, expected[f"{name}_centers"], rtol=0, atol=1e-5)


def test_by_hand():
    """Two objects of different classes; their corners pair by class and embedding, and offsets are added."""
    heat = torch.full((2, 1, 2, 8, 8), -9.0)
    tag, off = torch.zeros(2, 1, 1, 8, 8), torch.zeros(2, 1, 2, 8, 8)
    for corner, label, y, x, score, embedding in [
        (0, 0, 1, 1, 2.0, 0.0),
        (1, 0, 5, 6, 1.0, 0.1),
        (0, 1, 2, 3, 3.0, 5.0),
        (1, 1, 4, 4, 3.0, 5.2),
        (1, 0, 7, 7, 4.0, 3.0),  # of the first object's class, with another embedding
        (1, 0, 0, 0, 4.0, 0.0),  # above and left of every top-left corner
    ]:
        heat[corner, 0, label, y, x] = score
        tag[corner, 0, 0, y, x] = embedding
        off[corner, 0, :, y, x] = torch.tensor([0.25, 0.5])
    tl, br = (KeypointMaps(heat[i], tag[i], off[i]) for i in range(2))
    found = decode_corners(tl, br, k=6, pairs=10)
    good = found.scores[0] > 0.5
    assert found.labels[0][good].tolist() == [1, 0]
    assert found.boxes[0][good].tolist() == [[3.25, 2.5, 4.25, 4.5], [1.25, 1.5, 6.25, 5.5]]
    p = torch.tensor([[3.0, 3.0], [2.0, 1.0]]).sigmoid()
    torch.testing.assert_close(found.scores[0][good], p.mean(1))
    torch.testing.assert_close(torch.stack([found.tl_scores[0][good], found.br_scores[0][good]], 1), p)


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_more_asked_for_than_there_is(size):
    tl, br = (KeypointMaps(torch.randn(1, 2, *size), torch.randn(1, 1, *size), torch.rand(1, 2, *size)) for _ in "ab")
    cells = 2 * size[0] * size[1]
    assert top_keypoints(tl.heatmap.sigmoid(), 100).scores.shape == (1, cells)
    assert decode_corners(tl, br, k=100, pairs=1000).boxes.shape == (1, min(1000, cells**2), 4)


def test_maxima_alone_are_keypoints():
    heat = torch.zeros(1, 1, 5, 5)
    heat[0, 0, 2, 2], heat[0, 0, 2, 3] = 0.9, 0.8
    points = top_keypoints(heat, 2)
    assert points.scores[0].tolist() == [pytest.approx(0.9), 0.0]
    assert (points.x[0, 0].item(), points.y[0, 0].item()) == (2, 2)
