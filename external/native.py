"""Loading of compiled operators. A package keeps its kernels in libraries next to its Python code: `_C` for the CPU,
`_CUDA`; setup.py builds them from its csrc/. They keep to torch's stable ABI and have no part in Python's, so one build
serves every torch from 2.11 on and every Python.

What the stable ABI does not offer in torch 2.11 is done in Python, by the package: schemas with tags, gradients, fake
kernels, and checks of arguments (an exception in a kernel reaches Python as RuntimeError, whatever it was).
"""

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import torch

REBUILD = "build it with `pip install --no-build-isolation -e .` in the repository's root"


class Operator(NamedTuple):
    """What Python gives an operator, beside the compiled kernels."""

    schema: str  # "name(arguments) -> results"
    stock: Callable  # in stock PyTorch: where a device has no kernel of its own
    fake: Callable  # for torch.compile
    setup: Callable  # what the gradient needs, as of torch.library.register_autograd
    gradient: Callable


def define_operators(namespace: str, operators: Iterable[Operator]) -> None:
    """Register operators, before the library with their kernels is loaded."""
    for schema, stock, fake, setup, gradient in operators:
        name = f"{namespace}::{schema.split('(')[0]}"
        torch.library.define(name, schema[schema.index("(") :], tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "default", stock)
        torch.library.register_fake(name, fake)
        torch.library.register_autograd(name, gradient, setup_context=setup)


def load_kernels(folder: Path, what: str) -> tuple[str, ...]:
    """Load the compiled kernels that lie in a package's folder, after the package has defined their operators.

    Returns the types of the devices they run on: of "cpu", "cuda". What cannot be had is warned of, once, if it leaves
    work to stock PyTorch; `what` names that work.
    """
    problems = {"cpu": _load(folder, "_C")}
    if torch.version.cuda is not None:
        problems["cuda"] = _load(folder, "_CUDA")
    for device, problem in problems.items():
        if problem is not None and (device == "cpu" or torch.cuda.is_available()):
            where = "" if device == "cpu" else " on CUDA devices"
            warnings.warn(
                f"{what} runs on stock PyTorch{where}, slower: {problem}; {REBUILD}", RuntimeWarning, stacklevel=3
            )
    return tuple(device for device, problem in problems.items() if problem is None)


def _load(folder: Path, name: str) -> str | None:
    """Load one library; what is wrong if that fails, else None."""
    path = next((p for p in sorted(folder.glob(name + ".*")) if p.suffix in (".so", ".pyd")), None)
    if path is None:
        return f"{name} is not built" if name == "_C" else f"{name} is not built (nvcc was not found, or failed)"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load ({error.__cause__ or error})"
    return None
