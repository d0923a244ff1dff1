"""Benchmarks of Hourglass-104: the test path and the training step, compared with the published computation and with
the network's convolutions.

"Published" is this repository's network with the released code's way of computing: float32 and contiguous tensors,
pools by torch.cummax (the release has slower loops), focal loss and decoding in plain PyTorch, Adam one tensor at a
time.

python -m benchmarks.network VARIANT [--steps N] [--small] [--device cpu|cuda]

measures training steps of one variant, and prints JSON. `training_step` runs it in a separate process per variant, to
measure peak memory.
"""

import argparse
import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import configs
from benchmarks.detection import published_decode
from benchmarks.losses import published_focal_loss
from benchmarks.measure import Row, Setting, Spread, clock, limit_row, race, times_row
from benchmarks.pools import CummaxPoolSum
from benchmarks.training import draw_batch, measure, prepare, time_steps, with_variant
from models.corner_pooling import NoPool, PoolSum, PredictionModule
from models.keypoints import CORNERS, KeypointNetwork, Predictions
from models.losses import EPS, LossTerms, at_cells, embedding_loss
from nnet.detection.detector import Detector
from nnet.families import build_family
from nnet.families.base import Candidates, View, candidates_from_cells, to_host
from nnet.families.cornernet import CornerNet
from nnet.families.options import DetectionOptions
from nnet.runtime.devices import keep_freed_memory, set_up_backends
from nnet.runtime.options import RuntimeOptions
from sample.colour import normalise
from sample.dataset import Batch
from sample.targets import Grid, box_targets

ROOT = Path(__file__).resolve().parent.parent
CLASSES, SIDE = 80, 511
SMALL = ["model.backbone={stacks: 1, stem_width: 4, widths: [4, 4, 4], blocks: [1, 1, 1]}", "model.pool_width=4"]
PUBLISHED = "published"
PUBLISHED_KEPT = "published, freed memory kept"  # with `keep_freed_memory`, as in train.py
# The variant that has a target: its arithmetic is that of the published step. bfloat16 is measured as well.
JUDGED = "channels_last+fused_adam"
VARIANTS = {
    "cpu": ["fused_adam", JUDGED, "channels_last+bfloat16+fused_adam"],
    "cuda": ["fused_adam", "channels_last+tf32+fused_adam", "channels_last+bfloat16+fused_adam"],
}
STEP = 0.7  # target, as a fraction of the published step
PAPER = 49  # images per iteration of the paper
PARTS = 1.25  # target on CUDA, as a multiple of convolutions, BatchNorm and activations


def family_of(setting: Setting) -> CornerNet:
    """CornerNet with fresh weights, on the device of the setting."""
    config = step_config(setting)
    torch.manual_seed(0)
    family = build_family(class_count(setting), config.model, config.penalty, config.loss)
    family.network.to(setting.device)
    return family


def class_count(setting: Setting) -> int:
    return 5 if setting.small else CLASSES


def side_of(setting: Setting) -> int:
    """Side of the square images, in pixels."""
    return 63 if setting.small else SIDE


def with_pools(network: KeypointNetwork, pool: Callable[[PoolSum], nn.Module]) -> KeypointNetwork:
    """A copy of the network that shares its parameters and has other corner pools."""
    shared = {id(value): value for value in [*network.parameters(), *network.buffers()]}
    other = copy.deepcopy(network, shared)
    for module in other.modules():
        if isinstance(module, PredictionModule):
            module.pool = pool(module.pool)
    return other


class PublishedCornerNet(CornerNet):
    """CornerNet with the published pools, loss and decoding. It shares the parameters of another family."""

    def __init__(self, own: CornerNet):
        vars(self).update(vars(own))
        self.network = with_pools(own.network, lambda pool: CummaxPoolSum(*pool.directions))

    def pairs(self, view: View, options: DetectionOptions) -> Candidates:
        top_left, bottom_right = (view.maps[name] for name in CORNERS)
        found = to_host(published_decode(top_left, bottom_right, options.corners, options.pairs))
        return candidates_from_cells(found, view.placement, options.outside)

    def loss(
        self,
        outputs: Sequence[Predictions],
        batch: Batch,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> LossTerms:
        images, _, *size = batch.images.shape
        grid = Grid(images, self.classes, tuple(size), tuple(-(-n // 4) for n in size))
        targets = box_targets(self.network.keypoints, batch.objects, grid, self.penalty)
        stacks = [self.stack_loss(maps, targets, batch.objects.image_index) for maps in outputs]
        return LossTerms(*(torch.stack(values) for values in zip(*stacks, strict=True)))

    def stack_loss(self, maps: Predictions, targets: dict, image_index: Tensor) -> LossTerms:
        """One stack's loss, with all terms in plain PyTorch."""
        focal, offset, embeddings, w = 0.0, 0.0, [], self.weights
        for name, (heatmap, embedding, offsets) in maps.items():
            target = targets[name]
            focal = focal + published_focal_loss(heatmap, target.heatmap, w.focal_alpha, w.focal_beta)
            found = at_cells(offsets, image_index, target.cells)
            difference = F.smooth_l1_loss(found, target.offsets.float(), reduction="sum")
            offset = offset + difference / (len(image_index) + EPS)
            embeddings.append(at_cells(embedding, image_index, target.cells)[:, 0])
        pull, push = embedding_loss(*embeddings, image_index, w.margin)
        return LossTerms(focal + w.pull * pull + w.push * push + w.offset * offset, focal, pull, push, offset)


def convolutions(network: nn.Module, images: Tensor, gradients: bool) -> Callable[[], None]:
    """A function that runs only the convolutions of the network, on random tensors of the same shapes.

    gradients: include their backward passes. Convolutions with equal parameters and shapes share their tensors.
    """
    met, hooks = Counter(), []

    def note(module: nn.Conv2d, inputs: tuple[Tensor, ...]) -> None:
        shape = tuple(inputs[0].shape)
        geometry = module.out_channels, module.kernel_size, module.stride, module.padding, module.bias is not None
        met[shape, geometry] += 1

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_pre_hook(note))
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    works = []
    for (shape, (outputs, kernel, stride, padding, bias)), count in met.items():
        layer = nn.Conv2d(shape[1], outputs, kernel, stride, padding, bias=bias).to(images.device)
        first = shape[1] == 3  # the input image needs no gradient
        x = torch.randn(shape, device=images.device).requires_grad_(gradients and not first)
        works.append((layer, x, count))

    def run() -> None:
        for layer, x, count in works:
            wanted = [*layer.parameters(), *([x] if x.requires_grad else [])]
            for _ in range(count):
                if gradients:
                    y = layer(x)
                    torch.autograd.grad(y, wanted, y.detach())
                else:
                    with torch.inference_mode():
                        layer(x)

    return run


def settle_statistics(network: KeypointNetwork, images: Tensor) -> None:
    """Set BatchNorm's running statistics to those of the images.

    With the initial statistics, activations would grow from layer to layer.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # use the cumulative average, here of one batch
    network.train()
    with torch.no_grad():
        network(images)
    network.eval()


def test_path(setting: Setting) -> Iterator[Row]:
    """Detection on an image and its mirror image, from pixels to boxes."""
    set_up_backends(RuntimeOptions(threads=torch.get_num_threads()))
    side = side_of(setting)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    family = family_of(setting)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)).to(setting.device)
    settle_statistics(family.network, images)
    options = {"float32": {}, "channels_last": {"channels_last": True}}
    options["channels_last + bfloat16"] = {"channels_last": True, "precision": "bfloat16"}
    rest = (side, side), setting.device
    detectors = {name: Detector(family, DetectionOptions(**chosen), *rest) for name, chosen in options.items()}
    detectors[PUBLISHED] = Detector(PublishedCornerNet(family), DetectionOptions(), *rest)
    works = {name: partial(detector, image) for name, detector in detectors.items()}
    works["convolutions"] = convolutions(family.network, images, gradients=False)
    times = race(setting, works, seldom=["convolutions"], rounds=5)
    for name in options:
        chosen = {"ours": times[name], "base": times[PUBLISHED]}
        case = f"{name}, {side}x{side} and mirror image"
        alone = {"convolutions alone, float32": times["convolutions"]}
        note = "the release took 5.0 s" if name == "float32" else ""
        yield times_row(setting, "test_path", case, chosen | alone, PUBLISHED, 1.0, note=note)


def lite_detector(setting: Setting, name: str, overrides: Sequence[str]) -> Detector:
    """The detector of a config with fresh weights and settled statistics, in channels_last."""
    small = ["model.backbone={stacks: 1, stem_width: 4, widths: [4, 4, 4, 4], blocks: [1, 1, 1, 1]}", SMALL[1]]
    overrides = [*overrides, "test.channels_last=true", *(small if setting.small else [])]
    config = configs.load(str(ROOT / "configs" / f"{name}.yaml"), overrides)
    torch.manual_seed(0)
    family = build_family(class_count(setting), config.model, config.penalty, config.loss)
    family.network.to(setting.device, memory_format=torch.channels_last)
    images = torch.randn(2, 3, *config.data.input_size, generator=torch.Generator().manual_seed(0))
    settle_statistics(family.network, images.to(setting.device))
    return Detector(family, config.test, config.data.input_size, setting.device)


def lite(setting: Setting) -> Iterator[Row]:
    """Detection on an image, from pixels to boxes: CornerNet-Squeeze and CornerNet-Saccade beside CornerNet.

    The time of CornerNet-Saccade depends on the number of its crops. Attention above 0 is everywhere here, so that
    there are as many crops as allowed.
    """
    set_up_backends(RuntimeOptions(threads=torch.get_num_threads()))
    side = side_of(setting)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    base = "CornerNet, with mirror image"
    detectors = {base: lite_detector(setting, "cornernet_hg104", [])}
    detectors["CornerNet-Squeeze"] = lite_detector(setting, "cornernet_squeeze", [])
    for crops in (0, 8, 30):
        overrides = [f"test.saccade.crops={crops}", "test.saccade.attention_threshold=0"]
        detectors[f"CornerNet-Saccade, {crops} crops"] = lite_detector(setting, "cornernet_saccade", overrides)
    times = race(setting, {name: partial(detector, image) for name, detector in detectors.items()}, rounds=5)
    for name in detectors:
        if name != base:
            chosen = {"ours": times[name], "base": times[base]}
            yield times_row(setting, "lite", f"{name}, {side}x{side}", chosen, base, None)


def step_config(setting: Setting) -> configs.Config:
    """The config of Hourglass-104 with a batch of two images of 511x511."""
    overrides = list(SMALL) if setting.small else []
    overrides += [f"data.input_size=[{side_of(setting)},{side_of(setting)}]", "train.batch=[2]"]
    overrides += [f"runtime.device={setting.device.type}", f"runtime.threads={torch.get_num_threads()}"]
    return configs.load(str(ROOT / "configs" / "cornernet_hg104.yaml"), overrides)


def measure_step(setting: Setting, variant: str, steps: int) -> dict:
    """As benchmarks.training.measure, but the variant may also be `PUBLISHED` or `PUBLISHED_KEPT`."""
    config = step_config(setting)
    published = variant in (PUBLISHED, PUBLISHED_KEPT)
    chosen = with_variant(config, "float32" if published else variant)
    classes = class_count(setting)
    if not published:
        return measure(chosen, classes, steps)
    if variant == PUBLISHED_KEPT:
        keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(config.seed)
    family = build_family(classes, config.model, config.penalty, config.loss)
    step, batches = prepare(chosen, PublishedCornerNet(family))
    return time_steps(step, batches, steps)


def alone(setting: Setting, variant: str, steps: int) -> dict:
    """Run measure_step in a separate process."""
    command = [sys.executable, "-m", "benchmarks.network", variant, "--steps", str(steps)]
    command += ["--device", setting.device.type, "--threads", str(torch.get_num_threads())]
    command += ["--small"] if setting.small else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"the training step {variant} failed: exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def training_step(setting: Setting) -> Iterator[Row]:
    """Time and peak memory of training steps. Each variant runs twice, in separate processes, one at a time."""
    kept = [PUBLISHED_KEPT] if setting.device.type == "cpu" else []
    variants, steps = [PUBLISHED, *kept, *VARIANTS[setting.device.type]], 1 if setting.small else 2
    times: dict[str, list[float]] = {name: [] for name in variants}
    memory = dict.fromkeys(variants, 0.0)
    for number in range(1 if setting.small else 2):
        for name in variants if number % 2 == 0 else reversed(variants):
            found = alone(setting, name, steps)
            times[name] += found["seconds"]
            memory[name] = max(memory[name], found["memory"])
    side = side_of(setting)
    images = torch.randn(2, 3, side, side).to(setting.device)
    set_up_backends(RuntimeOptions(threads=torch.get_num_threads()))
    run = convolutions(family_of(setting).network.train(), images, gradients=True)
    convolutions_alone = [clock(setting.device, run) for _ in range(2)]
    others = {name: times[name] for name in kept} | {"convolutions alone, float32": convolutions_alone}
    for name in VARIANTS[setting.device.type]:
        chosen = {"ours": times[name], "base": times[PUBLISHED], **others}
        target = STEP if name == JUDGED else None
        note = "the release took 27 to 30 s" if name == JUDGED else ""
        yield times_row(setting, "training_step", f"{name}, batch 2", chosen, PUBLISHED, target, note=note)
        case = f"{name}, batch 2: peak memory"
        yield limit_row(setting, "training_step", case, "GB", memory[name], memory[PUBLISHED], PUBLISHED, judged=False)


def step_parts(setting: Setting) -> Iterator[Row]:
    """CUDA: the whole step compared with forward and backward of convolutions, BatchNorm and activations."""
    config = step_config(setting)
    classes, side = class_count(setting), side_of(setting)
    batch = draw_batch(2, (side, side), classes, np.random.default_rng(0)).to(setting.device)
    for variant in VARIANTS[setting.device.type]:
        chosen = with_variant(config, variant)
        set_up_backends(chosen.runtime)
        step, _ = prepare(chosen, family_of(setting))
        bare = with_pools(step.network, lambda own: NoPool()).train()
        images = normalise(batch.images.contiguous(memory_format=step.objective.memory_format), batch.colour)

        def parts(bare=bare, images=images, step=step) -> None:
            with step.objective.autocast():
                outputs = bare(images, every_stack=True)
            maps = [m for stack in outputs for keypoint in stack.values() for m in keypoint]
            torch.autograd.backward(maps, [torch.ones_like(m) for m in maps])
            step.optimizer.zero_grad(set_to_none=True)

        works = {"ours": lambda step=step: step([batch]), "base": parts}
        times = race(setting, works, rounds=5)
        against = "convolutions, BatchNorm, activations"
        yield times_row(setting, "step_parts", f"{variant}, batch 2", times, against, PARTS)


def largest_batch(setting: Setting) -> Iterator[Row]:
    """CUDA: the largest number of images per step. Target: the paper's 49 images fit on a GPU with 141 GB."""
    config = step_config(setting)
    classes = class_count(setting)
    whole = torch.cuda.get_device_properties(setting.device).total_memory
    for variant in ["float32", *VARIANTS["cuda"][1:], "channels_last+bfloat16+checkpointing"]:
        fits, fails = 0, 3 if setting.small else 257
        while fails - fits > 1:
            count = (fits + fails) // 2
            trial = with_variant(replace(config, train=replace(config.train, batch=(count,))), variant)
            try:
                measure(trial, classes, 1)
                fits = count
            except torch.OutOfMemoryError:
                fails = count
            torch.cuda.empty_cache()
        ours, base, ratio = (Spread.of([float(x)]) for x in (fits, PAPER, fits / PAPER))
        target = 1.0 if whole >= 140e9 and "bfloat16" in variant and not setting.small else None
        yield Row("largest_batch", variant, "images", ours, "the paper's", base, ratio, target, at_least=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network", description="Training steps of a variant.")
    parser.add_argument("variant", help=f"{PUBLISHED}, or a variant of benchmarks.training, e.g. {JUDGED}")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="a tiny network")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    setting = Setting(torch.device(args.device), small=args.small)
    print(json.dumps(measure_step(setting, args.variant, args.steps)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
