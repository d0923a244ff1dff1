"""One detector with one seed: trained for a given time, measured on the validation split along the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import configs
from benchmarks.peers.models import PEERS, PeerSettings, adopt, detection_options
from db import AnnotationIndex, DataError, evaluate, false_discovery, read_image
from nnet.detection.detector import Detector
from nnet.detection.images import detect_images
from nnet.families import build_family
from nnet.runtime.devices import choose_device
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError
from nnet.training.cost import network_cost
from nnet.training.data import check_batch_norm, load_training_data
from nnet.training.options import TrainOptions
from nnet.training.step import NonFinite, UpdateStep, learning_rate
from sample.dataset import Batch, TrainingSet
from sample.loader import make_loader
from sample.order import MicroBatches

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Detectors of this repository, and the file whose sections are laid over those of the config. None: the config's own
OWN = {"cornernet": None, "centernet": "toy_centernet.yaml", "squeeze": "toy_squeeze.yaml"}
DETECTORS = (*PEERS, *OWN)
ENDLESS = 2**31  # iterations: the time ends a training
CURVE = ("AP", "AP50")


class Contender(NamedTuple):
    """A detector that is trained and tested. options: with its learning rate."""

    update: UpdateStep
    detector: Detector
    options: TrainOptions


@dataclass
class Clock:
    """The time of a training so far: waiting for batches, and steps. Validation does not count.

    kind: "wall", or "cpu" for the processor time of this process per thread, which other work on the machine hardly
    changes. wall, cpu: seconds of each, the latter of all threads. waiting: for batches, in wall seconds.
    """

    kind: str = "wall"
    wall: float = 0.0
    cpu: float = 0.0
    waiting: float = 0.0
    iterations: int = 0
    losses: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """What ends the training."""
        return self.wall if self.kind == "wall" else self.cpu / torch.get_num_threads()


def config_of(name: str, path: str, overrides: Sequence[str], seed: int) -> configs.Config:
    """The config of a detector: the file, the sections of a detector of this repository, and the overrides."""
    sections = [] if name in PEERS else ["model.detector=cornernet"]
    if OWN.get(name):
        values = yaml.safe_load((CONFIGS / OWN[name]).read_text(encoding="utf-8"))
        sections += [f"{key}={json.dumps(value)}" for key, value in leaves(values) if key != "base"]
    return configs.load(path, [*sections, *overrides, f"seed={seed}"])


def leaves(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of all options in nested sections."""
    found = []
    for name, value in values.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def load_data(config: configs.Config) -> tuple[AnnotationIndex, AnnotationIndex]:
    """The training and the validation split. Raises DataError."""
    if config.augment.zoom:
        raise DataError("augment.zoom marks objects to be ignored, which torchvision's detectors cannot: leave it out")
    return load_training_data(config.data, replace(config.train, ap_every=1))


def contender(
    name: str, config: configs.Config, classes: int, settings: PeerSettings | None, group: Group
) -> Contender:
    """A detector with fresh weights. settings: of a peer."""
    torch.manual_seed(config.seed)
    options, size = config.train, tuple(config.data.input_size)
    testing = replace(config.test, channels_last=options.channels_last)
    if settings:
        family = PEERS[name](classes, size, settings)
        options, testing = replace(options, lr=settings.lr), detection_options(testing)
    else:
        family = build_family(classes, config.model, config.penalty, config.loss)
    check_batch_norm(family.network, options.batch, size)
    update = UpdateStep(family, options, len(options.batch), group)
    if settings:
        adopt(update, settings)
    return Contender(update, Detector(update.tested, testing, size, group.device), options)


def compete(
    name: str,
    config: configs.Config,
    splits: tuple[AnnotationIndex, AnnotationIndex],
    settings: PeerSettings | None,
    minutes: float,
    points: int,
    kind: str,
    bar: tqdm,
) -> dict[str, Any]:
    """Train a detector for `minutes`, and measure it at `points` equally spaced times. Returns its result.

    kind: of clock. bar: progress bar in seconds of training.
    """
    index, val_index = splits
    group = Group(choose_device(config.runtime.device))
    own = contender(name, config, index.num_classes, settings, group)
    samples = TrainingSet(index, config.data.input_size, config.augment, config.seed)
    order = MicroBatches(len(index), own.options.batch, config.seed, start=0, end=ENDLESS)
    loader = make_loader(samples, order, own.options.workers, own.options.worker_timeout, group.device)
    clock, curve, seconds = Clock(kind), [], 60 * minutes
    with closing(iter(loader)) as batches:
        for point in range(1, points + 1):
            train_until(point / points * seconds, seconds, own, batches, clock, index, bar)
            testing = Clock(kind, -perf_counter(), -process_time())
            results = detections(own.detector, val_index)
            testing.wall, testing.cpu = testing.wall + perf_counter(), testing.cpu + process_time()
            figures = evaluate(val_index, results)
            at = {"seconds": clock.seconds, "iterations": clock.iterations, "loss": mean_of(clock.losses)}
            curve.append(at | {key: figures[key] for key in CURVE})
            clock.losses.clear()
            bar.set_postfix(AP=f"{figures['AP'] or 0:.3f}", AP50=f"{figures['AP50'] or 0:.3f}")
    return {
        "detector": name,
        "seed": config.seed,
        "settings": asdict(settings) if settings else None,
        "figures": dict(figures) | false_discovery(val_index, results),
        "AP_without_mirror": without_mirror(own.detector, val_index, figures["AP"]),
        "detections": len(results),
        "parameters": sum(p.numel() for p in own.update.network.parameters()),
        "gflop": gflop(name, config, own.detector, val_index),
        "seconds_per_image": testing.seconds / len(val_index),
        "iterations": clock.iterations,
        "training_seconds": clock.seconds,
        "wall_seconds": clock.wall,
        "waiting_seconds": clock.waiting,
        "cpu_seconds": clock.cpu,
        "curve": curve,
    }


def train_until(
    end: float, whole: float, own: Contender, batches: Any, clock: Clock, index: AnnotationIndex, bar: tqdm
) -> None:
    """Train until the clock shows `end` seconds of `whole`.

    The schedule of the learning rate is the config's, with the fraction of the time in place of the fraction of the
    iterations. Raises RunError where the loss is not finite, and for an unreadable image.
    """
    while clock.seconds < end:
        progress = int(clock.seconds / whole * own.options.iterations)
        own.update.set_learning_rate(learning_rate(progress, own.options))
        begun, cpu = perf_counter(), process_time()
        micro_batches: list[Batch] = [next(batches).to(own.detector.device) for _ in own.options.batch]
        waited = perf_counter()
        for path, reason in (bad for batch in micro_batches for bad in batch.unreadable):
            stop_at(f"{path}: {reason}")
        try:
            clock.losses.append(float(own.update(micro_batches).terms[0].mean()))
        except NonFinite as error:
            raise RunError(f"iteration {clock.iterations + 1}: {error.describe(index)}") from error
        own.update.average_weights(clock.iterations)
        ended = perf_counter()
        clock.wall += ended - begun
        clock.waiting += waited - begun
        clock.cpu += process_time() - cpu
        clock.iterations += 1
        bar.update(min(round(clock.seconds, 1), whole) - bar.n)


def detections(detector: Detector, index: AnnotationIndex) -> list[dict]:
    """Detections in the images of a split, in COCO's format. Raises RunError for an unreadable image."""
    detector.family.network.eval()
    found = detect_images(detector, index, Group(detector.device), stop_at, leave=False)
    return [result for image in found for result in image.results]


def stop_at(unreadable: str) -> None:
    """All detectors must see the same images: an unreadable one ends the comparison."""
    raise RunError(f"{unreadable}: repair the image, or remove its entry from the annotation file")


def without_mirror(detector: Detector, index: AnnotationIndex, figure: float | None) -> float | None:
    """The AP from one pass of the network per image, where `figure` is from the image and its mirror image."""
    if not detector.options.mirror:
        return figure
    options = replace(detector.options, mirror=False)
    plain = Detector(detector.family, options, detector.input_size, detector.device)
    return evaluate(index, detections(plain, index))["AP"]


def gflop(name: str, config: configs.Config, detector: Detector, index: AnnotationIndex) -> float:
    """10^9 floating-point operations of one image of the input size in testing, in one pass of the network.

    Those of a peer are counted on an image, since Faster R-CNN's depend on its proposals.
    """
    if name in OWN:
        return network_cost(config, index.num_classes).testing / 1e9
    fitted = replace(detector.options, resize="fit")
    image = read_image(index.path(0), tuple(index.sizes[0].tolist()))
    whole = Detector(detector.family, fitted, detector.input_size, detector.device)
    with FlopCounterMode(display=False) as counter:
        whole(image)
    return counter.get_total_flops() / 1e9


def mean_of(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
