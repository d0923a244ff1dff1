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
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

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
        torch.library.impl(name, "default", _for_strided(name, stock))
        torch.library.register_fake(name, fake)
        torch.library.register_autograd(name, _in_reverse(name, gradient), setup_context=setup)


def check_tensor(x: Tensor, what: str) -> None:
    """Raise TypeError unless the tensor is strided, and NotImplementedError under forward-mode differentiation.

    Without the checks, PyTorch crashes on some combinations of layouts, and takes a tangent of 0 for an operator
    without forward-mode derivative.

    what: the name of the computation, for messages.
    """
    if x.layout != torch.strided:
        raise TypeError(f"{what} expects strided tensors, got layout {x.layout}: convert it with to_dense()")
    if forward_ad.unpack_dual(x).tangent is not None:
        raise NotImplementedError(
            f"{what} has no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad): use reverse mode "
            "(backward, torch.autograd.grad)"
        )


def _for_strided(name: str, stock: Callable) -> Callable:
    """The stock implementation, which is also reached by tensors of other layouts."""

    @wraps(stock)
    def checked(*arguments: Any) -> Any:
        for argument in arguments:
            if isinstance(argument, Tensor) and argument.layout != torch.strided:
                raise TypeError(f"{name} expects strided tensors, got layout {argument.layout}")
        return stock(*arguments)

    return checked


def _in_reverse(name: str, gradient: Callable) -> Callable:
    """The gradient, which refuses upstream gradients under forward-mode differentiation."""

    @wraps(gradient)
    def checked(ctx: Any, *upstream: Any) -> Any:
        for grad in upstream:
            if isinstance(grad, Tensor):
                check_tensor(grad, name)
        return gradient(ctx, *upstream)

    return checked


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
