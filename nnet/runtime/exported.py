"""Networks exported by export.py: .onnx files, run by ONNX Runtime, and .pt2 files, run by PyTorch."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from models.layers import MissingPackage
from nnet.runtime.checkpoint import CheckpointError, check_archive, taking, why_no_file
from nnet.runtime.contents import Metadata, misfit
from nnet.runtime.memory import out_of_cpu_memory
from nnet.runtime.upgrading import upgrade

FORMAT = 1
SUFFIXES = (".onnx", ".pt2")
METADATA = "metadata.json"  # name of the metadata in a .pt2 that is not compiled
INPUT = "images"


def is_exported(path: str | Path) -> bool:
    """Whether the path has the suffix of an exported network."""
    return Path(path).suffix.lower() in SUFFIXES


def package(name: str, option: str) -> ModuleType:
    """A package of the extra `export`. Raises MissingPackage. option: what needs it, for the message."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingPackage(
            f"{option} needs {name}, which cannot be imported ({error}): pip install onnx onnxscript onnxruntime"
        ) from error


class ExportedFile(ABC):
    """A network in a file.

    Attributes:
        metadata: what export.py wrote beside the network, see docs/export.md.
        config: all options of the export, as nested dicts in today's structure.
        outputs: names of the outputs.
    """

    def __init__(self, path: Path, metadata: Mapping[str, Any]):
        """Raises CheckpointError for metadata of others, and for damaged ones."""
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not a network of export.py: it has no metadata of format {FORMAT}")
        if reason := misfit(metadata, Metadata):
            raise CheckpointError(f"{path} is refused: its metadata are damaged ({reason}): export the network again")
        self.path = path
        self.metadata = metadata
        with taking("config", path):
            self.config: dict[str, Any] = upgrade(metadata["config"])
        self.outputs: list[str] = metadata["outputs"]

    @abstractmethod
    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        """The outputs by name for images (B, 3, H, W) uint8. The network runs on the device of the images if it can."""

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint of train.py holds, except for the weights."""
        return {"config": self.config, "categories": self.metadata["categories"]}

    def check_outputs(self, there: Collection[str]) -> None:
        """Raise CheckpointError if the network lacks outputs that the metadata name. there: names of its outputs."""
        if missing := [name for name in self.outputs if name not in there]:
            raise CheckpointError(f"{self.path} is refused: the network in it has no output {', '.join(missing)}")


class OnnxFile(ExportedFile):
    """An ONNX file. It runs on the CPU unless the installed ONNX Runtime supports the device of the images."""

    def __init__(self, path: Path):
        self.runtime = package("onnxruntime", str(path))
        self.session, self.device = None, None
        # Another session runs the network: the number of threads and the device are not known yet
        session = self.start(path, optimised=False)
        super().__init__(path, read_entries(session.get_modelmeta().custom_metadata_map))
        self.check_outputs([output.name for output in session.get_outputs()])

    def start(self, path: Path, device: torch.device | None = None, optimised: bool = True) -> Any:
        """A session with as many threads as PyTorch has now."""
        options, levels = self.runtime.SessionOptions(), self.runtime.GraphOptimizationLevel
        options.intra_op_num_threads = torch.get_num_threads()
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        providers: list[Any] = ["CPUExecutionProvider"]
        if device and device.type == "cuda" and "CUDAExecutionProvider" in self.runtime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        try:
            return self.runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the errors of ONNX Runtime have no class in common
            if out_of_cpu_memory(error):
                raise
            raise damaged(path, error) from error

    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        if self.session is None or self.device != images.device:
            self.session, self.device = self.start(self.path, images.device), images.device
        found = self.session.run(self.outputs, {INPUT: np.ascontiguousarray(images.cpu().numpy())})
        return dict(zip(self.outputs, found, strict=True))


class TorchFile(ExportedFile):
    """A .pt2 file. One that AOTInductor has compiled runs on the kind of device that it was compiled for."""

    def __init__(self, path: Path):
        try:
            check_archive(path)
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if not any(name.endswith("archive_format") for name in names):
                raise ValueError("it is damaged, or no archive of torch.export")
            self.compiled = any("/aotinductor/" in name for name in names)
            with without_chatter():
                metadata = self.load(path)
        except Exception as error:  # zipfile, pickle, json and PyTorch raise many kinds for damaged files
            if out_of_cpu_memory(error):
                raise
            raise damaged(path, error) from error
        super().__init__(path, metadata)
        if self.compiled:
            self.device = torch.device(metadata["device"])
            return
        spec = self.program.call_spec.out_spec
        there = tree_unflatten(range(spec.num_leaves), spec)
        self.check_outputs(there if isinstance(there, dict) else ())

    def load(self, path: Path) -> dict[str, Any]:
        """Load the network. Returns its metadata."""
        if self.compiled:
            self.module = torch._inductor.aoti_load_package(str(path))
            return read_entries(self.module.get_metadata())
        extra = {METADATA: ""}
        self.program = torch.export.load(str(path), extra_files=extra)
        self.module, self.device = self.program.module(), torch.device("cpu")
        return dict(json.loads(extra[METADATA] or "{}"))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, np.ndarray]:
        if not self.compiled and images.device != self.device:
            self.module = torch.export.passes.move_to_device_pass(self.program, images.device).module()
            self.device = images.device
        found = self.module(images.contiguous().to(self.device))
        return {name: found[name].cpu().numpy() for name in self.outputs}


@contextmanager
def without_chatter() -> Iterator[None]:
    """Silence what torch.export and the ONNX exporter tell developers. Errors still raise."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def read_entries(entries: Mapping[str, str]) -> dict[str, Any]:
    """Metadata from its entries, each of which is JSON. Entries of others are left out."""
    values = {}
    for name, text in entries.items():
        try:
            values[name] = json.loads(text)
        except (ValueError, RecursionError):
            continue
    return values


def damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{path} cannot be read as an exported network: {reason[:200]}")


def open_exported(path: Path) -> ExportedFile:
    """The exported network in a file.

    Raises:
        CheckpointError: missing, damaged, or not written by export.py.
        MemoryError, RuntimeError: memory is too short to read it.
        MissingPackage: ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} {why_no_file(path)}: give the path of a network of export.py")
    return OnnxFile(path) if path.suffix.lower() == ".onnx" else TorchFile(path)
