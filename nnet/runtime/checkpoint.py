"""Checkpoints: written atomically, read without running code, matched to the network by name and shape."""

import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from db import DataError
from db.files import partial_of
from nnet.runtime.contents import misfit
from nnet.runtime.memory import out_of_cpu_memory
from nnet.runtime.released_names import rename
from nnet.runtime.upgrading import upgrade

FORMAT = 1
LISTED = 8  # number of names in a message for each kind of mismatch


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, unsafe, or of another network."""


class ReportingFile:
    """A file to write to that calls back before every write."""

    def __init__(self, file: BinaryIO, report: Callable[[], None]):
        self.file, self.report, self.flush = file, report, file.flush

    def write(self, data: bytes) -> int:
        self.report()
        return self.file.write(data)


def save(path: Path, state: Mapping[str, Any], working: Callable[[], None] = lambda: None) -> None:
    """Write `state` to `path` atomically.

    Args:
        working: called regularly while writing.

    Raises:
        OSError: for example a full disk. The old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        with open(partial, "wb") as f:
            torch.save({"format": FORMAT, **state}, ReportingFile(f, working))
            f.flush()
            os.fsync(f.fileno())
        os.replace(partial, path)
    except (RuntimeError, OSError, MemoryError) as e:  # RuntimeError: how torch.save reports a failed write
        reason = (str(e).splitlines() or [type(e).__name__])[0]
        raise OSError(f"cannot write {path}: {reason}; checkpoints written before are untouched") from e
    finally:
        partial.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of train.py, or a released `.pkl`, which is returned as {"model": state dict}.

    Raises:
        CheckpointError: the file is missing or damaged, reading it would run code, or a part is not what the schema in
            contents.py says. The message names the file and the part.
        MemoryError, RuntimeError: the file is sound, but memory is too short to read it.
    """
    path = Path(path)
    if not path.is_file():
        what = why_no_file(path)
        raise CheckpointError(f"checkpoint {path} {what}: give the path of a checkpoint of train.py or a released .pkl")
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the format of files that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        if named := re.search(r"GLOBAL (\w+(?:\.\w+)+)", str(e)):
            raise CheckpointError(
                f"checkpoint {path} is refused: reading it would run code that it asks for ({named[1][:200]}). A "
                "checkpoint may hold tensors and plain values alone; save its state dict by itself"
            ) from e
        raise CheckpointError(damaged(path, e)) from e
    except Exception as e:  # zipfile, pickle and PyTorch raise many kinds for damaged files
        # The parts of an archive are as large as they declare. A damaged file of the older format may declare any size.
        if out_of_cpu_memory(e) and zipfile.is_zipfile(path):
            raise
        raise CheckpointError(damaged(path, e)) from e
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"checkpoint {path} holds {type(state).__name__}, not the state of a network")
    if "format" in state:
        return own_state(state, path)
    if not all(isinstance(v, Tensor) for v in state.values()):
        other = next(k for k, v in state.items() if not isinstance(v, Tensor))
        raise CheckpointError(
            f"checkpoint {path} is neither one of train.py nor a released state dict: it holds "
            f"{shortened(repr(other))}, not a tensor"
        )
    check_parts({"model": dict(state)}, path)
    weights = {rename(k): v for k, v in state.items()}
    if len(weights) < len(state):
        raise CheckpointError(f"checkpoint {path} names a parameter twice")
    return {"model": weights}


def tested_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint to test: their average, if its run had one (train.ema)."""
    return state.get("average", state["model"])


def why_no_file(path: Path) -> str:
    """Why a path that is no regular file cannot be read, for messages."""
    if path.is_dir():
        return "is a folder, not a file"
    return "is not a regular file" if path.exists() else "does not exist"


def own_state(state: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What a checkpoint of train.py holds, checked, with its config in today's structure. Raises CheckpointError."""
    version = state["format"]
    if type(version) is not int or version != FORMAT:
        raise CheckpointError(f"checkpoint {path} is of format {shortened(repr(version))}; this version reads {FORMAT}")
    state = dict(state)
    check_parts(state, path)
    if "config" in state:
        with taking("config", path):
            state["config"] = upgrade(state["config"])
    return state


def check_archive(path: Path) -> None:
    """Check the CRC-32 of what PyTorch has written. PyTorch does not: it loads flipped bits without a word.

    Compressed files, which PyTorch does not write, are refused: a small file could take any amount of memory.

    Raises ValueError, or what zipfile raises. Files of the format before PyTorch 1.6 have no checksum.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
        if packed or sum(m.file_size for m in members) > path.stat().st_size:
            raise ValueError("its parts are compressed, or declare more than the file holds")
        if name := archive.testzip():
            raise ValueError(f"the CRC-32 of {name} is wrong")


def check_parts(state: Mapping[str, Any], path: Path) -> None:
    """Raise CheckpointError unless the parts are what the schema in contents.py says."""
    if reason := misfit(state):
        raise CheckpointError(f"checkpoint {path} is refused: {reason}")


@contextmanager
def taking(part: str, path: Path) -> Iterator[None]:
    """The block takes in a part of a checkpoint. Whatever it raises becomes a CheckpointError with file and part."""
    try:
        yield
    except (CheckpointError, DataError, MemoryError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"checkpoint {path}: its {part} cannot be used ({shortened(reason, 200)})") from error


def shortened(text: str, length: int = 60) -> str:
    """The text on one line, cut to a length."""
    text = " ".join(text[: 2 * length].split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def damaged(path: Path, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The relevant line of torch's long explanation
    unpickler = [line for line in lines if line.startswith("Unsupported")]
    reason = (unpickler or lines or [type(error).__name__])[0]
    return (
        f"checkpoint {path} ({path.stat().st_size:,} bytes) is refused: it is damaged, or holds more than tensors and "
        f"plain values ({reason[:200]})"
    )


def changed_options(state: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> list[str]:
    """Options ("key: before -> now") in which a config, as nested dicts, differs from that of a checkpoint.

    Raises:
        CheckpointError: the network differs, even if the weights would fit. Initial weights (bn_init) do not matter.
    """

    with taking("config", path):
        changed = differing_options(state.get("config", {}), config)
    network = [text for key, text in changed.items() if key.startswith("model.") and key != "model.bn_init"]
    if network:
        raise CheckpointError(f"checkpoint {path} is of another network than the config's ({'; '.join(network)})")
    return list(changed.values())


def differing_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Options of both, as nested dicts, whose values differ: {key: "key: before -> now"}."""

    def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        pairs = {}
        for key, value in values.items():
            pairs |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        return pairs

    before, now = flat(before), flat(now)
    pairs = {key: (before[key], now[key]) for key in before if key in now and before[key] != now[key]}
    return {key: f"{key}: {' -> '.join(shortened(str(value), 100) for value in pair)}" for key, pair in pairs.items()}


def load_what_fits(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> list[str]:
    """Copy the weights into the network that fit by name and shape. Returns the others, each with a reason.

    For a start from the weights of another run, perhaps of other classes. Raises CheckpointError if nothing fits, or
    if weights are not finite.
    """
    own = network.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and v.shape == own[k].shape}
    if not fitting:
        raise CheckpointError(f"checkpoint {path} is of another network: none of its weights fits the config's")
    check_finite(fitting, path)
    with taking("model", path):
        network.load_state_dict({**own, **fitting})
    left_out = [f"{k} (the network has no such parameter)" for k in weights if k not in own]
    left_out += [
        f"{k} (is {list(v.shape)}, the network's {list(own[k].shape)})"
        for k, v in weights.items()
        if k in own and v.shape != own[k].shape
    ]
    left_out += [f"{k} (is not in the checkpoint)" for k in own if k not in weights and not k.endswith("tracked")]
    return left_out


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy `weights` into the network. Raises CheckpointError, which lists what is missing or does not fit."""
    own = network.state_dict()
    # BatchNorm did not count its batches in 2018. No network here uses the count.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    shapes = [
        f"{k} is {list(weights[k].shape)}, the network's {list(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(kinds.values()):
        text = "; ".join(
            f"{len(names)} {kind}: {', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''}"
            for kind, names in kinds.items()
            if names
        )
        raise CheckpointError(f"checkpoint {path} is of another network than the config's ({text})")
    check_finite(weights, path)
    with taking("model", path):
        network.load_state_dict({**own, **weights})


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError where weights are not finite."""
    bad = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"checkpoint {path} is of a network that has diverged: {len(bad)} of its tensors are not finite "
            f"({', '.join(bad[:LISTED])}). Take one saved earlier"
        )
