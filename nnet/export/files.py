"""Writing a graph as ONNX, .pt2, or .pt2 compiled by AOTInductor, with its metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from db import DataError
from nnet.runtime.exported import INPUT, METADATA, package

FORMATS = {"onnx": ".onnx", "pt2": ".pt2"}
IN_ONE_FILE = 2**31 - 2**24  # bytes of weights; a protobuf file holds less than 2 GB


def write_onnx(program: ExportedProgram, metadata: Mapping[str, Any], path: Path) -> None:
    """Write an ONNX file. Weights of more than IN_ONE_FILE bytes go to a second file, `path`.data."""
    exported = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=metadata["outputs"], verbose=False
    )
    exported.model.metadata_props.update(entries(metadata))
    size = sum(value.nbytes for value in (*program.state_dict.values(), *program.constants.values()))
    exported.save(path, external_data=size > IN_ONE_FILE)


def write_pt2(program: ExportedProgram, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a .pt2 file for torch.export.load."""
    torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def write_compiled(program: ExportedProgram, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a .pt2 file for torch._inductor.aoti_load_package, compiled for this machine."""
    options: dict[str, Any] = {"aot_inductor.metadata": entries(metadata)}
    if metadata["device"] == "cpu":
        options["freezing"] = True  # weights are laid out for the machine's convolutions, and ReLU is fused into them
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def entries(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as texts."""
    return {name: json.dumps(value) for name, value in metadata.items()}


def writer(form: str, compiled: bool) -> Callable[[ExportedProgram, Mapping[str, Any], Path], None]:
    """The function that writes a format. Raises MissingPackage or DataError if something that it needs is missing."""
    if form == "onnx":
        for name in ("onnx", "onnxscript", "onnxruntime"):
            package(name, "--format onnx")
        return write_onnx
    if compiled and not shutil.which(os.environ.get("CXX", "g++")):
        raise DataError("--compile needs a C++ compiler: install g++, or name one in the environment variable CXX")
    return write_compiled if compiled else write_pt2
