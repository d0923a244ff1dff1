"""Look at training samples: python -m nnet.drawing.browse CONFIG [key.sub=value ...]
    [--n 24] [--samples 5000] [--output DIR]

Writes to DIR (runs/<name of the config>/samples by default) samples.png, the first N samples of a training run exactly
as the network gets them with their targets, and statistics of the data set as statistics.txt and statistics.json; the
text is printed, too. Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

import configs
from db import AnnotationIndex, load_split
from models.backbones import feature_size
from nnet.drawing.boxes import class_colour, draw_boxes
from nnet.drawing.heatmaps import draw_heatmap
from nnet.drawing.images import COLUMN_GAP, WHITE, resized, side_by_side, write_image
from nnet.drawing.pictures.base import CYAN, GREEN, ORANGE
from nnet.families import build_family
from nnet.runtime.console import progress_bar
from nnet.runtime.errors import exit_code
from nnet.runtime.files import make_folder
from sample.batch import collate
from sample.colour import MEAN, STD, normalise
from sample.dataset import TrainingSet
from sample.order import MicroBatches
from sample.statistics import annotation_statistics, describe, sample_objects, sample_statistics
from sample.targets import Grid, KeypointTargets, PenaltyOptions, box_targets, penalty_spread

PANEL = 400  # height of a panel in pixels
COLUMNS = 2  # samples in a row of the sheet
MARGIN = 2  # cells around the radius in the view of one keypoint
GREY = (120, 120, 120)


class SampleView(NamedTuple):
    """A sample as the network gets it, with its targets; n objects."""

    image: np.ndarray  # (H, W, 3) uint8 BGR
    image_id: int
    boxes: np.ndarray  # (n, 4) in pixels of the input
    labels: np.ndarray  # (n,)
    radii: np.ndarray  # (n,) in cells
    targets: dict[str, KeypointTargets]  # of this image alone, by kind of keypoint
    cells: tuple[int, int]  # (height, width) of the heatmaps


def view_samples(
    samples: TrainingSet, n: int, seed: int, keypoints: Sequence[str], stride: int, penalty: PenaltyOptions
) -> list[SampleView]:
    """The first n samples of a training run with this seed. Unreadable images are reported on stderr."""
    views = []
    for ((epoch, i),) in MicroBatches(len(samples), [1], seed, 0, n):
        batch = collate([samples[epoch, i]])
        for path, reason in batch.unreadable:
            print(f"replaced {path}: {reason}", file=sys.stderr)
        image = as_picture(normalise(batch.images, batch.colour)[0])
        size, objects = tuple(batch.images.shape[-2:]), batch.objects
        cells = feature_size(size, stride)
        grid = Grid(1, samples.index.num_classes, size, cells)
        targets = box_targets(keypoints, objects, grid, penalty) if keypoints else {}
        radii = penalty_spread(objects.boxes, size, cells, penalty).radius.numpy()
        boxes, labels = objects.boxes.numpy(), objects.labels.numpy()
        views.append(SampleView(image, int(batch.image_ids[0]), boxes, labels, radii, targets, cells))
    return views


def as_picture(image: torch.Tensor) -> np.ndarray:
    """The network's input (3, H, W) as uint8 (H, W, 3). Values outside 0 to 1 are clipped."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((image * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def contact_sheet(views: Sequence[SampleView], index: AnnotationIndex) -> np.ndarray:
    """All samples on one picture (H, W, 3)."""
    strips = [draw_sample(view, index) for view in views]
    width = max(strip.shape[1] for strip in strips)
    strips = [padded(strip, width) for strip in strips]
    blank = np.full_like(strips[0], WHITE[0])
    rows = []
    for at in range(0, len(strips), COLUMNS):
        row = strips[at : at + COLUMNS]
        row += [blank] * (min(COLUMNS, len(strips)) - len(row))
        gap = np.full((row[0].shape[0], 4 * COLUMN_GAP, 3), WHITE, np.uint8)
        rows.append(np.hstack([part for strip in row for part in (strip, gap)][:-1]))
    return np.vstack(rows)


def padded(strip: np.ndarray, width: int) -> np.ndarray:
    """The picture with white on its right, up to this width."""
    return cv2.copyMakeBorder(strip, 0, 0, 0, width - strip.shape[1], cv2.BORDER_CONSTANT, value=WHITE)


def draw_sample(view: SampleView, index: AnnotationIndex) -> np.ndarray:
    """A sample with its boxes, its targets, and one object's keypoints of each kind enlarged, side by side."""
    colours = [class_colour(int(label)) for label in view.labels]
    texts = [index.category_names[label] for label in view.labels]
    areas = (view.boxes[:, 2:] - view.boxes[:, :2]).prod(1)
    chosen = int(np.argsort(areas, kind="stable")[len(areas) // 2]) if len(areas) else None  # of middling size
    title = f"image {view.image_id}, objects: {len(view.boxes)}"
    pictures = {title: draw_boxes(view.image, view.boxes, texts, colours)}
    if view.targets:
        pictures[f"targets, radius: {radius_words(view.radii)}"] = draw_targets(view, chosen)
    for name, target in view.targets.items() if chosen is not None else ():
        x, y = target.offsets[chosen].tolist()
        title = f"{name.replace('_', '-')} of {texts[chosen]}: radius {view.radii[chosen]:g}, offset {x:.2f} {y:.2f}"
        pictures[title] = draw_cells(view, name, chosen)
    sized = [resized(p, PANEL, max(1, round(p.shape[1] * PANEL / p.shape[0]))) for p in pictures.values()]
    return side_by_side(sized, list(pictures))


def radius_words(radii: np.ndarray) -> str:
    """The range of the radii (n,)."""
    return f"{radii.min():g} to {radii.max():g} cells" if len(radii) else "no objects"


def draw_targets(view: SampleView, chosen: int | None) -> np.ndarray:
    """The target heatmaps of all kinds and classes over the image, with a circle of the radius at each keypoint.

    Green: the keypoints of the object that is enlarged beside.
    """
    heat = np.maximum.reduce([target.heatmap[0].amax(0).numpy() for target in view.targets.values()])
    picture = draw_heatmap(view.image, heat)
    pixels = picture.shape[1] / view.cells[1]  # per cell
    for target in view.targets.values():
        points = exact_points(target, view.cells[1]) * pixels
        for i, (x, y) in enumerate(points.round().astype(int).tolist()):
            colour, line = (GREEN, 2) if i == chosen else (ORANGE, 1)
            cv2.circle(picture, (x, y), max(2, round(view.radii[i] * pixels)), colour, line, cv2.LINE_AA)
    return picture


def exact_points(target: KeypointTargets, width: int) -> np.ndarray:
    """Keypoints (n, 2) x, y in cells. width: of the heatmap."""
    cells = target.cells.numpy()
    return np.stack([cells % width, cells // width], 1) + target.offsets.numpy()


def draw_cells(view: SampleView, name: str, chosen: int) -> np.ndarray:
    """The heatmap around a keypoint, cell by cell (PANEL, PANEL, 3): its cell, its radius, and where it lies exactly.

    The heatmap is that of the object's class. Orange: the radius. Green: the keypoint's cell. Cyan: the offset, from
    the corner of the cell to the keypoint. Grey: beyond the image.
    """
    target, (height, width) = view.targets[name], view.cells
    reach = int(view.radii[chosen]) + MARGIN
    side = 2 * reach + 1
    cell = int(target.cells[chosen])
    left, top = cell % width - reach, cell // width - reach
    heat = np.zeros((side, side), np.float32)
    inside = np.zeros((side, side), bool)
    rows, columns = (slice(max(0, -at), min(side, n - at)) for at, n in ((top, height), (left, width)))
    source = target.heatmap[0, int(view.labels[chosen])].numpy()
    heat[rows, columns] = source[max(0, top) : top + side, max(0, left) : left + side]
    inside[rows, columns] = True
    picture = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_INFERNO)
    picture[~inside] = GREY  # beyond the image
    picture = cv2.resize(picture, (PANEL, PANEL), interpolation=cv2.INTER_NEAREST)
    pixels = PANEL / side
    for k in range(1, side):
        at = round(k * pixels)
        cv2.line(picture, (at, 0), (at, PANEL), GREY, 1)
        cv2.line(picture, (0, at), (PANEL, at), GREY, 1)
    corner, x, y = round(reach * pixels), *(target.offsets[chosen].numpy() + reach) * pixels
    far = round((reach + 1) * pixels)
    cv2.rectangle(picture, (corner, corner), (far, far), GREEN, 2)
    cv2.circle(picture, (PANEL // 2, PANEL // 2), round((reach - MARGIN + 0.5) * pixels), ORANGE, 2, cv2.LINE_AA)
    cv2.arrowedLine(picture, (corner, corner), (round(x), round(y)), CYAN, 2, cv2.LINE_AA, tipLength=0.25)
    cv2.drawMarker(picture, (round(x), round(y)), CYAN, cv2.MARKER_TILTED_CROSS, max(6, round(pixels / 3)), 2)
    return picture


def browse(config: configs.Config, n: int, counted: int, output: Path) -> None:
    """Draw n samples and count the objects of others. Raises DataError."""
    index = load_split(config.data, "train")
    make_folder(output)
    size = tuple(config.data.input_size)
    with torch.device("meta"):
        family = build_family(index.num_classes, config.model, config.penalty, config.loss)
    keypoints, stride = family.network.keypoints, family.network.stride
    samples = TrainingSet(index, size, config.augment, config.seed)
    keys = [key for (key,) in MicroBatches(len(index), [1], config.seed, 0, min(counted, len(index)))]
    found = [
        sample_objects(samples, key)
        for key in progress_bar(keys, desc="statistics", unit="image", leave=False, disable=None)
    ]
    annotations = annotation_statistics(index)
    counts = sample_statistics(index, found, size, feature_size(size, stride), keypoints, config.penalty)
    text = describe(annotations, counts)
    values = {"data_set": annotations, "samples": counts, "config": configs.to_dict(config)}
    (output / "statistics.txt").write_text(text, encoding="utf-8")
    (output / "statistics.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(text)
    if n:
        views = view_samples(samples, n, config.seed, keypoints, stride, config.penalty)
        write_image(output / "samples.png", contact_sheet(views, index))
    print(f"statistics.txt, statistics.json{' and samples.png' if n else ''} in {output}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nnet.drawing.browse",
        description="Draw training samples as the network gets them, and print statistics of the data set.",
        epilog="Options may be changed by key.sub=value, anywhere on the command line.",
    )
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("--n", type=int, default=24, metavar="N", help="number of samples to draw (default: 24)")
    parser.add_argument(
        "--samples", type=int, default=5000, metavar="N", help="number of samples in the statistics (default: 5000)"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/<config>/samples")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    args.overrides = overrides
    if args.n < 0 or args.samples < 1:
        parser.error("--n takes a number of at least 0, --samples one of at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> None:
        config = configs.load(args.config, args.overrides)
        browse(config, args.n, args.samples, args.output or Path("runs") / Path(args.config).stem / "samples")

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
