"""Decoding against the released implementation and against loops."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models import decode
from models.decode import decode_corners, decode_points, max_around, top_keypoints
from models.keypoints import KeypointMaps

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


def detection_rows(found):
    """Detections as the goldens hold them: boxes, score, corner scores, label; (B, n, 8) float32."""
    columns = found.boxes, found.scores[..., None], found.corner_scores, found.labels[..., None]
    return torch.cat(columns, 2).float().numpy()


def point_rows(maps, k, kernel):
    """The best centers as the goldens hold them: x, y, label, score; (B, K, 4) float32."""
    points = decode_points(maps, k, kernel)
    return torch.stack([points.x, points.y, points.labels, points.scores], 2).float().numpy()


@pytest.mark.parametrize("detector", ["cornernet", "centernet"])
def test_golden_decode(golden, detector):
    expected = np.load(golden(f"decode_{detector}.npz"))
    seed = json.loads(golden("manifest.json").read_text())["seed"]
    for name, k, pairs, tl, br, *center in golden_maps(seed, detector == "centernet"):
        found = detection_rows(decode_corners(tl, br, k, pairs, 3, 0.5))
        want = expected[f"{name}_dets"]
        assert found.shape == want.shape
        for ours, theirs in zip(found, want, strict=True):
            kept = theirs[:, 4] > -1
            assert np.array_equal(ours[:, 4] > -1, kept)
            np.testing.assert_allclose(ours[kept], theirs[kept], rtol=0, atol=1e-5)
        if center:
            centers = point_rows(*center, k, 3)
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
    torch.testing.assert_close(found.corner_scores[0][good], p)


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


def keypoints_by_loops(scores, k, kernel):
    """(score, class, y, x) of one image's k best maxima, (classes, h, w); the cells that are none follow with 0."""
    classes, height, width = scores.shape
    cells, reach = [], kernel // 2
    for c, y, x in np.ndindex(classes, height, width):
        around = scores[c, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        cells.append((scores[c, y, x] * (scores[c, y, x] == around.max()), c, y, x))
    return sorted(cells, key=lambda cell: -cell[0])[:k]  # stable: ties by class, y, x


def pairs_by_loops(corners, tags, offsets, pairs, max_distance):
    """Rows of one image's best pairs of corners, as detection_rows gives them."""
    rows = []
    for tl_score, tl_label, y1, x1 in corners[0]:
        for br_score, br_label, y2, x2 in corners[1]:
            where = (y1, x1), (y2, x2)
            box = [
                np.float32(v) + off[axis][at]
                for off, at in zip(offsets, where, strict=True)
                for axis, v in ((0, at[1]), (1, at[0]))
            ]
            apart = abs(tags[0][where[0]] - tags[1][where[1]]) > max_distance
            rejected = tl_label != br_label or apart or box[2] < box[0] or box[3] < box[1]
            score = np.float32(-1) if rejected else (tl_score + br_score) / np.float32(2)
            rows.append([*box, score, tl_score, br_score, tl_label])
    return np.array(sorted(rows, key=lambda row: -row[4])[:pairs], np.float32)


def heatmaps(random, shape, kind):
    """Scores or logits, by kind with few ties, many, or saturated: 1 in float32."""
    if kind == "few":
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))
    levels = {"many": [-3.0, -1.0, 0.0, 2.0], "saturated": [-200.0, 0.0, 17.5, 30.0, 200.0]}[kind]
    return torch.from_numpy(random.choice(np.float32(levels), shape))


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
KINDS = st.sampled_from(["few", "many", "saturated"])


@settings(max_examples=100, deadline=None)
@given(
    shape=SHAPES,
    kind=KINDS,
    k=st.sampled_from([1, 2, 7, 30, 1000]),
    kernel=st.sampled_from([1, 3, 5, 7]),
    cached=st.sampled_from([1, 100, 2**18]),
    channels_last=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_keypoints_by_loops(shape, kind, k, kernel, cached, channels_last, seed):
    """Exact, whatever the ties, the memory format and how many classes are taken at a time."""
    scores = heatmaps(np.random.RandomState(seed), shape, kind).sigmoid()
    given = scores.contiguous(memory_format=torch.channels_last) if channels_last else scores
    before = given.clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "CELLS_IN_CACHE", cached)
        found = top_keypoints(given, k, kernel)
    assert torch.equal(given, before)
    for image in range(shape[0]):
        wanted = keypoints_by_loops(scores[image].numpy(), k, kernel)
        ours = zip(*(v[image].tolist() for v in (found.scores, found.labels, found.y, found.x)), strict=True)
        assert list(ours) == [(float(score), *where) for score, *where in wanted]


@settings(max_examples=60, deadline=None)
@given(
    shape=SHAPES,
    kind=KINDS,
    k=st.sampled_from([1, 5, 12]),
    pairs=st.sampled_from([1, 20, 1000]),
    seed=st.integers(0, 10_000),
)
def test_pairs_by_loops(shape, kind, k, pairs, seed):
    """Exact, in every image of a batch; rejected pairs too."""
    random = np.random.RandomState(seed)
    batch, _, *size = shape
    corners = []
    for _ in range(2):
        tag = random.choice(np.float32([0, 0.25, 0.5, 1, 3]), (batch, 1, *size))
        offset = random.uniform(0, 1, (batch, 2, *size)).astype(np.float32)
        corners.append(KeypointMaps(heatmaps(random, shape, kind), torch.from_numpy(tag), torch.from_numpy(offset)))
    found = detection_rows(decode_corners(*corners, k=k, pairs=pairs))
    for image in range(batch):
        points = [keypoints_by_loops(maps.heatmap.sigmoid()[image].numpy(), k, 3) for maps in corners]
        tags = [maps.embedding[image, 0].numpy() for maps in corners]
        offsets = [maps.offset[image].numpy() for maps in corners]
        np.testing.assert_array_equal(found[image], pairs_by_loops(points, tags, offsets, pairs, 0.5))


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, kind=KINDS, kernel=st.sampled_from([1, 3, 5, 9]), seed=st.integers(0, 10_000))
def test_max_around(shape, kind, kernel, seed):
    maps = heatmaps(np.random.RandomState(seed), shape, kind)
    assert torch.equal(max_around(maps, kernel), F.max_pool2d(maps, kernel, 1, kernel // 2))


def test_logits_that_differ_and_scores_that_do_not():
    """Maxima are those of float32 scores: neighbours that both saturate are maxima both."""
    heat = torch.full((1, 1, 3, 6), -9.0)
    heat[0, 0, 1, 1:5] = torch.tensor([20.0, 30.0, 1.0, 30.0])
    points = decode_points(KeypointMaps(heat, None, torch.zeros(1, 2, 3, 6)), k=3)
    assert points.scores.tolist() == [[1.0, 1.0, 1.0]]
    assert points.x.tolist() == [[1.0, 2.0, 4.0]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gpu_decodes_as_the_cpu_and_the_host_does_not_wait(dtype, memory_format):
    random = np.random.RandomState(0)
    maps = [
        KeypointMaps(
            *(torch.from_numpy(random.standard_normal((2, c, 32, 48)).astype(np.float32)).to(dtype) for c in (80, 1, 2))
        )
        for _ in range(2)
    ]
    on_gpu = [KeypointMaps(*(v.cuda().contiguous(memory_format=memory_format) for v in part)) for part in maps]
    scores = on_gpu[0].heatmap.float().sigmoid()
    for mode in ("default", "error"):  # the first time, libraries may set themselves up
        torch.cuda.set_sync_debug_mode(mode)
        try:
            found, centers = decode_corners(*on_gpu), decode_points(on_gpu[0])
            points = top_keypoints(scores, 100)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a.cpu(), b) for a, b in zip(points, top_keypoints(scores.cpu(), 100), strict=True))
    # sigmoid itself may differ in its last bit
    wanted = decode_corners(*maps)
    torch.testing.assert_close(found.scores.cpu(), wanted.scores, rtol=0, atol=1e-6)
    torch.testing.assert_close(centers.scores.cpu(), decode_points(maps[0]).scores, rtol=0, atol=1e-6)


def test_no_image_has_no_keypoints():
    points = top_keypoints(torch.zeros(0, 3, 4, 4), 5)
    assert [value.shape for value in points] == [(0, 5)] * 4
