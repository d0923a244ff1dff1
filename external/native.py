"""Registration of custom operators and loading of their compiled kernels.

A package keeps its kernels in shared libraries next to its Python code: `_C` for the CPU and `_CUDA` for CUDA devices.
setup.py builds them from the package's csrc/. The libraries use only PyTorch's stable ABI and no symbols of Python, so
one build works with every PyTorch from 2.11 on and with every Python version.

The package does in Python what the stable ABI of PyTorch 2.11 does not offer: schemas with tags, gradients, fake
kernels and argument checks. Arguments are checked in Python because every exception thrown by a kernel reaches Python
as RuntimeError.
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

REBUILD = "build it with `pip install --no-build-isolation -e .` in the repository's root"


class Operator(NamedTuple):
    """The parts of an operator that are written in Python."""

    schema: str  # "name(arguments) -> results"
    stock: Callable  # implementation in stock PyTorch, for devices without a compiled kernel
    fake: Callable  # computes the outputs' metadata, for torch.compile
    setup: Callable  # setup_context of torch.library.register_autograd
    gradient: Callable  # backward of torch.library.register_autograd


def define_operators(namespace: str, operators: Iterable[Operator]) -> None:
    """Register operators. Call it before the library with their kernels is loaded."""
    for schema, stock, fake, setup, gradient in operators:
        name = f"{namespace}::{schema.split('(')[0]}"
        torch.library.define(name, schema[schema.index("(") :], tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "default", stock)
        torch.library.register_fake(name, fake)
        torch.library.register_autograd(name, gradient, setup_context=setup)


def load_kernels(folder: Path, what: str) -> tuple[str, ...]:
    """Load the compiled kernels in a package's folder. Call it after `define_operators`.

    Args:
        folder: the folder with the libraries `_C` and `_CUDA`.
        what: the name of the computation, for warnings.

    Returns the device types with compiled kernels: a subset of "cpu" and "cuda". Issues one RuntimeWarning per library
    that is missing or fails to load, if stock PyTorch has to do its work. A missing `_CUDA` is not reported on a
    machine without a GPU.
    """
    problems = {"cpu": _load(folder, "_C")}
    if torch.version.cuda is not None:
        problems["cuda"] = _load(folder, "_CUDA")
    for device, problem in problems.items():
        if problem is not None and (device == "cpu" or torch.cuda.is_available()):
            where = "" if device == "cpu" else " on CUDA devices"
            warnings.warn(
                f"{what} runs on stock PyTorch{where}, which is slower: {problem}; {REBUILD}",
                RuntimeWarning,
                stacklevel=3,
            )
    return tuple(device for device, problem in problems.items() if problem is None)


def _load(folder: Path, name: str) -> str | None:
    """Load one library. Returns the reason if that fails, else None."""
    path = next((p for p in sorted(folder.glob(name + ".*")) if p.suffix in (".so", ".pyd")), None)
    if path is None:
        return f"{name} is not built" if name == "_C" else f"{name} is not built (nvcc was not found or failed)"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load ({error.__cause__ or error})"
    return None
