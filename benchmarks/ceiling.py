"""Lists the objects that are lost when ground-truth maps replace the network's predictions, and why:

python -m benchmarks.ceiling CONFIG [--split val|train] [key.sub=value ...]

Detections are matched to objects in the order of their scores, as in COCO's evaluation. An object is lost if no
detection of its class with an IoU of at least 0.95 is left for it. Prints a line for each image with lost objects, and
a table of the reasons. The network needs no weights.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter

import numpy as np
import torch

import configs
from db import Objects, load_split, read_image
from nnet.analysis.overlap import iou_with_objects
from nnet.detection.detector import Detector
from nnet.families import build_family
from nnet.families.base import REJECTED
from nnet.families.ground_truth import MAPS, mirrored
from nnet.families.placement import to_canvas
from nnet.runtime.errors import exit_code

IOU = 0.95


def taken(boxes: np.ndarray, labels: np.ndarray, truth: Objects) -> np.ndarray:
    """Which objects have a detection: (m,) bool.

    boxes: (n, 4), sorted by decreasing score. Each box is matched to the unmatched object with the highest IoU.
    """
    free = iou_with_objects(boxes, truth) * (labels[:, None] == truth.labels)
    got = np.zeros(len(truth.labels), bool)
    for iou in free:
        best = int(np.argmax(np.where(got, 0, iou))) if len(iou) else 0
        if len(iou) and iou[best] >= IOU and not got[best]:
            got[best] = True
    return got


def cells_of(detector: Detector, image: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """The cells of the corners of boxes (n, 4), for the image and its mirror image.

    Returns (n, 2, 2) for each: x, y of the top-left and the bottom-right corner.
    """
    _, placement = detector.place(image, 1.0)
    size = placement.cells
    canvas = to_canvas(boxes, placement)
    views = [canvas, mirrored(canvas, placement.canvas[1])]
    ratio = np.array(size[::-1]) / placement.canvas[::-1]
    return [np.minimum((v.reshape(-1, 2, 2) * ratio).astype(int), np.array(size[::-1]) - 1) for v in views]


def reason(o: int, views: list[np.ndarray], truth: Objects, corners: int, paired: bool) -> str:
    """The reason why object o is lost.

    paired: decoding found its box, which suppression or the limit of 100 detections then removed.
    """
    if (truth.boxes[o, 2:] <= truth.boxes[o, :2]).any():
        return "without area"
    if paired:
        twin = iou_with_objects(truth.boxes[o : o + 1], truth)[0] * (truth.labels == truth.labels[o])
        twin[o] = 0
        return "suppressed by an object of its class" + (", a crowd" if truth.crowd[twin.argmax()] else "")
    others = np.arange(len(truth.labels)) != o
    shared = np.any([(view == view[o]).all(-1).any(-1) & others for view in views], axis=0)
    if shared.any():
        kind = "of its class" if (truth.labels[shared] == truth.labels[o]).any() else "of another class"
        return f"a corner in the cell of an object {kind}" + (", a crowd" if truth.crowd[shared].all() else "")
    counts = [len(set(zip(truth.labels, *view[:, k].T, strict=True))) for view in views for k in (0, 1)]
    return f"more corners than {corners}" if max(counts) > corners else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value")
    parser.add_argument("--split", choices=["val", "train"], default="val")
    args = parser.parse_intermixed_args()
    return exit_code(lambda: explain(args), configs.ConfigError)


def explain(args: argparse.Namespace) -> int:
    config = configs.load(args.config, args.overrides)
    index, options = load_split(config.data, args.split), config.test
    family = build_family(index.num_classes, config.model, config.penalty, config.loss)
    detector = Detector(family, options, config.data.input_size, torch.device("cpu"), truth=MAPS)
    reasons, objects = Counter(), 0
    for i in range(len(index)):
        image, truth = read_image(index.path(i), tuple(index.sizes[i].tolist())), index.objects(i)
        found = detector(image, truth)
        order = np.argsort(-found.scores, kind="stable")[: options.detections]
        lost = np.flatnonzero(~taken(found.boxes[order], found.labels[order], truth) & ~truth.crowd)
        objects += int((~truth.crowd).sum())
        if not len(lost):
            continue
        pairs = family.propose(detector.views(image, truth), options)
        pairs = pairs.take(pairs.scores > REJECTED)
        # (pairs, objects): which boxes equal an object's box within 0.1 pixels
        same = (np.abs(pairs.boxes[:, None] - truth.boxes) < 0.1).all(-1) & (pairs.labels[:, None] == truth.labels)
        views = cells_of(detector, image, truth.boxes)
        why = Counter(reason(o, views, truth, options.corners, bool(same[:, o].any())) for o in lost)
        print(f"image {index.image_ids[i]}, {len(truth.labels)} objects, lost: {dict(why)}")
        reasons += why
    print(f"\n{objects} objects in {len(index)} images, {sum(reasons.values())} lost at an IoU of {IOU}")
    for name, count in reasons.most_common():
        print(f"| {name} | {count} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
