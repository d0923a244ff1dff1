"""From decoded corners to results, against the released implementation and by hand."""

import json

import numpy as np
import pytest

from db import evaluate, load_index, to_results
from nnet.inference import DetectSettings, place_original, suppress, to_image

MULTI = DetectSettings(scales=(0.5, 0.75, 1.0, 1.25, 1.5), merge=True)


@pytest.mark.parametrize("name, settings", [("single", DetectSettings()), ("multi", MULTI)])
def test_golden_post(goldens, shared_data, name, settings):
    """Decoded corners of several images -> the same result list and the same COCO figures."""
    expected = json.loads((goldens / f"post_cornernet_{name}.json").read_text())
    rows = np.load(goldens / f"post_cornernet_{name}.npz")
    root = shared_data / "coco_tiny"
    annotations = root / "annotations" / f"instances_{expected['split']}.json"
    index = load_index([annotations], [root / expected["split"]])
    positions = {index.path(i).rsplit("/", 1)[-1]: i for i in range(len(index))}
    assert list(settings.scales) == expected["scales"]
    results, image_ids = [], []
    for image, file in enumerate(expected["files"]):
        i = positions[file]
        image_ids.append(int(index.image_ids[i]))
        parts = [
            to_image(rows[f"dets_{image}_{n}"], place_original(*index.sizes[i].tolist(), scale))
            for n, scale in enumerate(expected["scales"])
        ]
        results += to_results(index, i, *suppress(np.concatenate(parts), settings), decimals=2)
    assert results == expected["results"]
    figures = evaluate([annotations], results, image_ids)
    stats = [-1 if v is None else v for v in figures.values()]
    assert stats == pytest.approx(expected["ap_stats"], abs=1e-12)
