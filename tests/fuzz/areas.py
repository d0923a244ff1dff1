"""One random case of each area: something that the code reads, damaged. It is read, or refused by the area's errors.

A case returns whether it was read. What was read must be usable and, where it can be told, unchanged.
"""

from __future__ import annotations

import io
import json
import math
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
import yaml

import configs
import external.corner_pool as pools
import external.focal_loss as losses
from db import DataError, UnreadableImage, evaluate, load_index, read_image
from external.soft_nms import METHODS, soft_nms, soft_nms_merge
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.distributed import Group
from nnet.training.metrics import Window
from nnet.training.options import TrainOptions
from nnet.training.start import random_state, resume_from
from nnet.training.step import NonFinite, UpdateStep
from sample.targets import PenaltyOptions
from tests.builders import make_batch, small_family
from tests.fuzz.mutate import damaged_bytes, damaged_value, hostile_value

ROOT = Path(configs.__file__).parent
LONGEST = 4000  # characters of a message
CPU = torch.device("cpu")


def refused(read: Callable[[], Any], *errors: type[Exception]) -> Any:
    """What `read` returns, or None if it raises one of these errors, in one line of limited length."""
    try:
        return read()
    except errors as error:
        text = str(error)
        assert text and len(text.splitlines()) == 1 and len(text) < LONGEST, f"message: {text[:LONGEST]!r}"
        return None


# Configs


@cache
def config_texts() -> list[tuple[str, dict]]:
    texts = [path.read_text() for path in sorted(ROOT.glob("*.yaml"))] + [configs.dump(configs.Config())]
    return [(text, yaml.safe_load(text)) for text in texts]


SCRAPS = ("&a ", "*a", "<<: *a", "!!int ", "!!timestamp ", "!!binary ", "!!set ", "? ", "- ", ": ", "[", "{", "|", "\t")


def case_config(random: Random, folder: Path) -> bool:
    """A config whose values, text or overrides are damaged. What is read can be written and read again."""
    text, values = random.choice(config_texts())
    kind, overrides = random.randrange(4), []
    if kind == 0:
        text = yaml.safe_dump(plain_keys(damaged_value(random, values, hostile_value)), allow_unicode=False)
    elif kind == 1:
        content = damaged_bytes(random, text.encode())
        (folder / "a.yaml").write_bytes(content)
    elif kind == 2:
        at = random.randrange(len(text))
        text = text[:at] + random.choice(SCRAPS) * random.choice((1, 1, 5, 100)) + text[at:]
    else:
        name = random.choice(option_names())
        overrides = [f"{name}={random.choice((repr(hostile_value(random)), random.choice(SCRAPS), '9' * 99))}"]
    if kind != 1:
        (folder / "a.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    for base in ("coco2014", "cornernet_hg104", "cornernet_hg52", "centernet_hg104", "centernet_hg52", "toy"):
        if not (folder / f"{base}.yaml").exists():
            (folder / f"{base}.yaml").write_text((ROOT / f"{base}.yaml").read_text())
    config = refused(lambda: configs.load(folder / "a.yaml", overrides), configs.ConfigError)
    if config is None:
        return False
    assert configs.from_dict(yaml.safe_load(configs.dump(config))) == config
    configs.describe(config)
    return True


def plain_keys(value: Any) -> Any:
    """Nested values without those that PyYAML cannot write."""
    if isinstance(value, dict):
        return {key if isinstance(key, str | int | None) else repr(key): plain_keys(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain_keys(part) for part in value][:50]
    return 10**300 if isinstance(value, int) and abs(value) > 10**300 else value


@cache
def option_names() -> list[str]:
    def names(values: dict, prefix: str = "") -> list[str]:
        found = []
        for name, value in values.items():
            found += [prefix + name, *(names(value, f"{prefix}{name}.") if isinstance(value, dict) else [])]
        return found

    return names(configs.to_dict(configs.Config()))


# Annotations


def annotations() -> dict:
    boxes = [(1, 1, [1, 2, 10, 12]), (1, 2, [5.5, 3, 4, 8.25]), (2, 1, [0, 0, 16, 16])]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 16, "width": 16} for i in (1, 2)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {
                **{"id": n, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3]},
                **{"iscrowd": 0, "segmentation": [[1, 1, 5, 1, 5, 5]]},
            }
            for n, (image, label, box) in enumerate(boxes, 1)
        ],
    }


def hostile_annotation(random: Random) -> Any:
    size = random.choice(([16, 16], [0, 0], [10**9, 10**9], [-1, 4], "x", [4]))
    counts = random.choice(([10, 5], [-1, 300], [10**12], [], "PYi", b"x".decode(), "é", [0.5], [2**40] * 5))
    return random.choice((hostile_value(random), {"size": size, "counts": counts}))


def case_annotations(random: Random, folder: Path) -> bool:
    """An annotation file whose values or text are damaged. What is read can be evaluated."""
    content = annotations()
    for image in content["images"]:
        (folder / image["file_name"]).touch()
    if random.random() < 0.3:
        del content["annotations"][0]["bbox"]
    if random.random() < 0.7:
        text = json.dumps(damaged_value(random, content, hostile_annotation), default=repr, skipkeys=True).encode()
    else:
        text = damaged_bytes(random, json.dumps(content).encode())
    (folder / "a.json").write_bytes(text)
    index = refused(lambda: load_index(folder / "a.json", folder, require_boxes=random.random() < 0.8), DataError)
    if index is None:
        return False
    assert np.isfinite(index.boxes).all() and np.isfinite(index.areas).all() and index.first[-1] == len(index.boxes)
    figures = refused(lambda: evaluate(index, []), DataError)
    assert figures is not None and len(figures.per_class) == index.num_classes
    return True


# Images


ENDINGS = (".jpg", ".png", ".bmp", ".gif", ".webp", ".tif", ".ppm", ".jp2")


@cache
def encoded() -> list[bytes]:
    picture = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    progressive = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1]
    done = [cv2.imencode(ending, picture) for ending in ENDINGS]
    return [data.tobytes() for written, data in done if written] + [progressive.tobytes()]


def case_image(random: Random, folder: Path) -> bool:
    """An image file whose bytes are damaged. What is read has the annotated size."""
    path = folder / "a.jpg"
    data = random.choice(encoded())
    if random.random() < 0.3:  # the header, where the size is
        data = damaged_bytes(random, data[:200]) + data[200:]
    else:
        data = damaged_bytes(random, data)
    path.write_bytes(data)
    size = random.choice((None, (24, 40)))
    image = refused(lambda: read_image(path, size), UnreadableImage)
    assert image is None or (
        image.dtype == np.uint8 and image.ndim == 3 and image.shape[:2] == (size or image.shape[:2])
    )
    return image is not None


# Checkpoints


INDEX = SimpleNamespace(category_ids=(1, 2, 3), category_names=("a", "b", "c"))
CONFIG = {"model": {"detector": "cornernet", "pool_width": 2}, "train": {"iterations": 5, "lr": 0.1}}


class Run:
    """A run of one iteration, its state, and its checkpoint in both formats of PyTorch."""

    def __init__(self):
        self.update, self.batch = new_update(), make_batch(2, 5)
        window = Window(2, CPU)
        window.add(self.update([self.batch]))
        constants = {"config": CONFIG, "categories": [[1, 2, 3], ["a", "b", "c"]]}
        progress = {"iteration": 1, **self.update.state(), "window": window.state(), "random": random_state()}
        self.state = {"format": 1, **progress, **constants}
        self.files = {}
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(self.state, file, _use_new_zipfile_serialization=zipped)
            self.files[zipped] = file.getvalue()


def new_update() -> UpdateStep:
    return UpdateStep(small_family(penalty=PenaltyOptions()), TrainOptions(batch=(2,)), 1, Group(CPU))


@cache
def a_run() -> Run:
    return Run()


def hostile_part(random: Random) -> Any:
    """A tensor or another value that a checkpoint does not hold there."""
    x = torch.ones(random.choice(((), (0,), (2,), (2, 2), (1, 3, 3, 3))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return random.choice(
            (
                lambda: hostile_value(random),
                *(lambda: x, lambda: x.to_sparse(), lambda: x.to("meta"), lambda: x * math.nan, lambda: x.long()),
                *(lambda: x.bool(), lambda: x.to(torch.complex64), lambda: x.to(torch.float8_e4m3fn), lambda: -x),
                *(lambda: torch.zeros(1).expand(10**9), lambda: x.half(), lambda: torch.nn.Parameter(x)),
                *(lambda: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8), lambda: x.byte(), lambda: x.double()),
            )
        )()


def case_checkpoint(random: Random, folder: Path) -> bool:
    """A checkpoint whose bytes or parts are damaged, tested, resumed from or used by --init.

    No change of a byte is unnoticed where the format has checksums. What is taken in is trained with.
    """
    run, path = a_run(), folder / "a.pt"
    if random.random() < 0.5:
        zipped = random.random() < 0.8
        path.write_bytes(damaged_bytes(random, run.files[zipped]))
        state = refused(lambda: checkpoint.load(path), CheckpointError)
        if state is not None and zipped:
            assert all(torch.equal(state["model"][name], value) for name, value in run.state["model"].items())
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            damaged = damaged_value(random, run.state, hostile_part)
            if isinstance(damaged, dict) and random.random() < 0.1:
                damaged.pop("format", None)
            try:
                torch.save(damaged, path)
            except Exception:  # cannot be saved, for example a number of 10**400
                return False
        state = refused(lambda: checkpoint.load(path), CheckpointError)
    return state is not None and use(random, state, path)


def use(random: Random, state: dict, path: Path) -> bool:
    """Take in a loaded checkpoint in one of the ways of the programs."""
    how = random.randrange(3)
    update, window = new_update(), Window(2, CPU)
    errors = (CheckpointError, DataError)

    def take() -> bool:
        if how == 0:
            checkpoint.changed_options(state, CONFIG, path)
            checkpoint.load_weights(update.network, state["model"], path)
        elif how == 1:
            checkpoint.load_what_fits(update.network, state["model"], path)
        else:
            missing = a_run().state.keys() - state.keys() - {"format"}
            if missing:
                return False
            resume_from(path, state, CONFIG, INDEX, update, window)
        return True

    if not refused(take, *errors):
        return False
    try:
        window.add(update([a_run().batch]))
    except NonFinite:  # is reported by a run
        pass
    return True


# Operators


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WRONG = (torch.int64, torch.bool, torch.complex64, torch.uint8)
SPECIAL = (math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, 65504.0)
REFUSALS = (ValueError, TypeError, NotImplementedError)


def hostile_map(random: Random, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of this shape in any strides, with special values."""
    generator = torch.Generator().manual_seed(random.randrange(2**32))
    x = torch.randint(-3, 4, shape, generator=generator).to(torch.float32)
    if x.numel() and random.random() < 0.5:
        x.view(-1)[torch.randint(x.numel(), (3,), generator=generator)] = random.choice(SPECIAL)
    x = x.to(dtype)
    kind = random.randrange(8)
    if len(shape) == 4:
        if kind == 0:
            x = x.contiguous(memory_format=torch.channels_last)
        elif kind == 1:
            x = x.transpose(2, 3).contiguous().transpose(2, 3)
        elif kind == 2:
            x = x[:, :, :1].expand(shape)
        elif kind == 3:
            x = torch.cat([x, x], 1)[:, ::2] if shape[1] else x
    return x


def case_operator(random: Random, folder: Path) -> bool:
    """An operator on tensors of any shape, strides and values: equal to stock PyTorch, or refused."""
    shape = tuple(random.choice((0, 1, 2, 3, 7, 17, 33)) for _ in range(random.choice((4, 4, 4, 4, 4, 3, 5))))
    dtype = random.choice(DTYPES * 4 + WRONG)
    x, y = (hostile_map(random, shape, dtype) for _ in range(2))
    if random.random() < 0.1:
        layout = random.choice(("to_sparse", "to_mkldnn"))
        try:
            x = getattr(x, layout)()
        except RuntimeError:  # this dtype or shape has no such layout
            pass
    return random.choice((operate_pool, operate_loss, operate_suppression))(random, x, y)


def same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.dtype == expected.dtype and torch.equal(found.nan_to_num(7.0), expected.nan_to_num(7.0))


def operate_pool(random: Random, x: torch.Tensor, y: torch.Tensor) -> bool:
    one, two = (
        random.choice((*pools.DIRECTIONS, "x") if random.random() < 0.1 else list(pools.DIRECTIONS)) for _ in "ab"
    )
    found = refused(lambda: pools.pool_sum(x, one, y, two), *REFUSALS)
    if found is None:
        return False
    expected = sum(pools._stock_pool(part, *pools.DIRECTIONS[name]) for part, name in ((x, one), (y, two)))
    assert same(found, expected), "pool_sum"
    direction = pools.DIRECTIONS[one]
    back = torch.ops.corner_pool.pool_backward(y, x, *direction)
    assert same(back, pools._stock_pool_backward(y, x, *direction)), "pool_backward"
    return True


def operate_loss(random: Random, x: torch.Tensor, y: torch.Tensor) -> bool:
    target = y.abs().clamp(max=1) if y.is_floating_point() and random.random() < 0.8 else y
    alpha, beta = (random.choice((2.0, 4.0, 0.0, 1.5, math.nan, -1.0, math.inf)) for _ in "ab")
    if random.random() < 0.5:
        alpha, beta = 2.0, 4.0
    found = refused(lambda: losses.focal_loss(x, target, alpha, beta), *REFUSALS)
    if found is None:
        return False
    wide = torch.float64 if torch.float64 in (x.dtype, target.dtype) else torch.float32
    expected = losses._stock_loss(x.double(), target.to(wide).double(), alpha, beta, 1e-4)[0]
    close = torch.allclose(found.double(), expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    assert close, f"focal loss: {found} instead of {expected}"
    return True


def operate_suppression(random: Random, x: torch.Tensor, y: torch.Tensor) -> bool:
    if x.layout != torch.strided or x.dtype == torch.bfloat16:
        return False
    merge = random.random() < 0.5
    columns = random.choice((7, 7, 7, 5, 8, 3))
    values = x.abs().flatten() if x.is_floating_point() else x.flatten()
    rows = values[: values.numel() // columns * columns].reshape(-1, columns)[:200].numpy()
    options = {"method": random.choice((*METHODS, "x")), "sigma": random.choice((0.5, 1e-46, 1e-40, math.nan, 1e30))}
    labels = random.choice((None, np.arange(len(rows)) % 3, np.zeros(len(rows) + 1, np.int64), np.zeros(len(rows))))
    done = refused(lambda: (soft_nms_merge if merge else soft_nms)(rows, labels, **options), *REFUSALS)
    if done is None:
        return False
    assert len(done.boxes) == len(rows) == len(done.kept) and not np.isnan(done.boxes[done.kept]).any(), "soft-NMS"
    return True


AREAS: dict[str, Callable[[Random, Path], bool]] = {
    "configs": case_config,
    "annotations": case_annotations,
    "images": case_image,
    "checkpoints": case_checkpoint,
    "operators": case_operator,
}
