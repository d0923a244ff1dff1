"""Find objects in pictures with an exported network, without PyTorch and without this repository:

python onnx_detect.py NETWORK.onnx PICTURE ... [--threshold 0.3]

Needs numpy, opencv-python(-headless) and onnxruntime. Prints a line per object: picture, class, score, x1, y1, x2, y2.
With options of testing other than the defaults (scales, merging, outside, other kinds of suppression), use detect.py.
"""

import argparse
import json

import cv2
import numpy as np
import onnxruntime


def place(image: np.ndarray, divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """The image (H, W, 3) in the middle of a black canvas, and x, y of its first pixel there."""
    size = np.array(image.shape[:2])
    canvas = size | (divisor - 1)
    top, left = canvas // 2 - size // 2
    height, width = np.minimum(
        size, canvas // 2 * 2
    )  # an image as high as its canvas loses its last row, as in training
    padded = np.zeros((*canvas, 3), np.uint8)
    padded[top : top + height, left : left + width] = image[:height, :width]
    return padded, np.array([left, top], np.float32)


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of a box (4,) with others (n, 4). Widths and heights are differences of coordinates plus 1."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1
    shared = sides.clip(0).prod(1)
    return shared / ((box[2:] - box[:2] + 1).prod() + (others[:, 2:] - others[:, :2] + 1).prod(1) - shared)


def soft_nms(boxes: np.ndarray, scores: np.ndarray, sigma: float, floor: float) -> tuple[list[int], np.ndarray]:
    """Gaussian soft-NMS of the boxes of a class: the indices of the boxes that are kept, and all scores, decayed."""
    scores, left, kept = scores.copy(), np.arange(len(scores)), []
    while len(left):
        best = left[scores[left].argmax()]
        kept.append(int(best))
        left = left[left != best]
        scores[left] *= np.exp(-(overlap(boxes[best], boxes[left]) ** 2) / sigma)
        left = left[scores[left] >= floor]
    return kept, scores


def detect(session: onnxruntime.InferenceSession, image: np.ndarray, threshold: float = 0.3) -> list[tuple]:
    """(class name, score, x1, y1, x2, y2) of the objects in an image (H, W, 3) uint8 BGR, best first."""
    about = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    canvas, border = place(image, about["divisor"])
    names = ["boxes", "scores", "labels"]
    boxes, scores, labels = (v[0] for v in session.run(names, {"images": canvas.transpose(2, 0, 1)[None]}))
    boxes, scores, labels = (v[scores >= 0] for v in (boxes, scores, labels))  # -1: no box
    boxes = (boxes - np.tile(border, 2)).clip(0, np.tile(image.shape[1::-1], 2).astype(np.float32))
    found, options = [], about["config"]["test"]
    for label in np.unique(labels):
        own = labels == label
        kept, decayed = soft_nms(boxes[own], scores[own], options["nms_sigma"], options["nms_floor"])
        found += [(about["class_names"][label], float(decayed[i]), *boxes[own][i].tolist()) for i in kept]
    found.sort(key=lambda row: -row[1])
    return [row for row in found[: options["detections"]] if row[1] >= threshold]


def main() -> None:
    parser = argparse.ArgumentParser(description="Find objects in pictures with an exported network.")
    parser.add_argument("network", help="file of export.py --format onnx")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--threshold", type=float, default=0.3, help="lowest score of an object (%(default)s)")
    args = parser.parse_args()
    session = onnxruntime.InferenceSession(args.network, providers=["CPUExecutionProvider"])
    for path in args.pictures:
        for name, score, *box in detect(session, cv2.imread(path), args.threshold):
            print(path, name, f"{score:.3f}", *(f"{v:.1f}" for v in box))


if __name__ == "__main__":
    main()
