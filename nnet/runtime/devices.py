"""What train.py and test.py share: a config's sections made into index and detections, errors into exit codes."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from db import CocoIndex, DataError, load_index
from models.anchors import AnchorNetwork
from models.cornernet import KeypointNetwork
from models.layers import MissingPackage
from nnet.anchors import AnchorDetector
from nnet.centers import TripletDetector
from nnet.checkpoint import CheckpointError
from nnet.distributed import Group
from nnet.faults import stopping_reason
from nnet.inference import Detector, Found
from nnet.log import progress_bar
from nnet.truth import keypoint_of
from sample import UnreadableImage, read_image

RUN_FAILED, BAD_INPUT = 1, 2


def exit_code(main: Callable[[], int | None], *bad_input: type[Exception]) -> int:
    """Run `main`; what a user can mend becomes one line on stderr and exit code 2, a run that had to stop, 1."""
    try:
        return main() or 0
    except (DataError, CheckpointError, MissingPackage, *bad_input) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # torchrun's other processes have the same to say
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        reason = stopping_reason(error)
        if reason is None:  # a fault of the program: its traceback tells more
            raise
        print(f"error: {reason}", file=sys.stderr)
        return RUN_FAILED


def choose_device(name: str) -> torch.device:
    """The device called "cpu" or "cuda"; "auto" is CUDA where there is one. DataError if CUDA is asked for in vain."""
    if name == "cuda" and not torch.cuda.is_available():
        built = "finds no GPU" if torch.version.cuda else "is built for the CPU alone"
        raise DataError(f"train.device is cuda, but this PyTorch ({torch.__version__}) {built}: use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def make_folder(path: Path) -> None:
    """Make the folder that a run writes to. DataError if that cannot be, or cannot be written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(f"cannot write to the folder {path} ({error.strerror}): name another with --output") from None


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed instead of giving it back to the system; False if it cannot be told so.

    A tensor of 32 MB or more otherwise costs its page faults again each time it is made, several times what filling it
    does (docs/performance.md). What a process keeps is the most that it had in use at a time, and what lies scattered
    between. CUDA's allocator of PyTorch keeps freed memory anyway.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*option) == 1 for option in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2**26)))


def set_up_backends(threads: int, tf32: bool) -> None:
    """Set PyTorch's CPU threads (0: its own choice) and whether CUDA computes float32 with TF32's mantissa.

    Freed memory of the CPU is kept for the next tensors.
    """
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32


def split_files(root: str, images: Sequence[str], annotations: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Image folders and annotation files of a split, which a config gives relative to its root."""
    return [Path(root, name) for name in images], [Path(root, name) for name in annotations]


def load_split(
    root: str, images: Sequence[str], annotations: Sequence[str], limit: int = 0, require_boxes: bool = True
) -> CocoIndex:
    """Index of a split of a config's `data:` section."""
    folders, files = split_files(root, images, annotations)
    return load_index(files, folders, limit, require_boxes)


def same_categories(index: CocoIndex, ids: Sequence[int], names: Sequence[str], whose: str, source: str) -> None:
    """Raise DataError unless the categories of the index (of `source`) are those `whose` network was trained on."""
    if (tuple(index.category_ids), tuple(index.category_names)) == (tuple(ids), tuple(names)):
        return
    own, theirs = dict(zip(ids, names, strict=True)), dict(zip(index.category_ids, index.category_names, strict=True))
    differing = sorted(i for i in own.keys() | theirs.keys() if own.get(i) != theirs.get(i))
    example = "; ".join(f"id {i}: {own.get(i, 'none')!r} against {theirs.get(i, 'none')!r}" for i in differing[:5])
    raise DataError(
        f"{source} lists other categories than {whose} ({len(differing)} differ: {example}): use annotations with the "
        "same category ids and names"
    )


def make_detector(network: KeypointNetwork | AnchorNetwork, *args, truth: Collection[str] = ()) -> Detector:
    """The detector of a network, by what it predicts; arguments as of Detector. ValueError where it predicts nothing
    that `truth` could replace.
    """
    for name in truth:
        if keypoint_of(name) not in network.keypoints:
            raise ValueError(f"{name} in place of predictions: the network does not predict them")
    if isinstance(network, AnchorNetwork):
        return AnchorDetector(network, *args)
    return (TripletDetector if "center" in network.keypoints else Detector)(network, *args, truth=truth)


def detect_all(
    detector: Detector,
    index: CocoIndex,
    group: Group,
    unreadable: Callable[[str], None],
    leave: bool = True,
) -> Iterator[tuple[int, np.ndarray, Found]]:
    """Detections image by image, with a progress bar: (position in the index, image (H, W, 3) uint8 BGR, detections).

    With several processes, this one's share of the images. One that cannot be read is told to `unreadable`
    and left out.
    """
    found = 0
    shown = {"desc": "detecting", "unit": "image", "leave": leave, "disable": not group.first}
    with progress_bar(group.share(len(index)), **shown) as bar:
        for i in bar:
            group.working()
            try:
                with detector.timed("load"):
                    image = read_image(index.path(i), tuple(index.sizes[i].tolist()))
            except UnreadableImage as error:
                unreadable(str(error))
                continue
            detections = detector(image, index.annotations(i))
            found += len(detections.scores)
            bar.set_postfix(boxes=f"{found:,}", refresh=False)
            yield i, image, detections
