"""What a checkpoint of train.py and an exported network hold: schemas, which are checked when they are loaded.

A part that passes has the types and the structure that the code relies on. Whether it fits the network is checked
where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import NotRequired, Required, TypedDict

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
MOST_OPTIONS, DEEPEST = 10_000, 20  # of a stored config
LONGEST = 300  # characters of a message


def dense(value: Any) -> Tensor:
    """A tensor that holds its values itself: strided, in memory, not quantised, and no larger than its storage.

    A view that repeats its storage could take any amount of memory when it is used.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"expected a tensor, got {type(value).__name__}")
    if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
        raise ValueError(f"expected a dense tensor of numbers, got {value.dtype}, {value.layout} on {value.device}")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ValueError(f"the tensor {list(value.shape)} is larger than what is stored of it")
    return value


def plain(value: Any) -> Any:
    """Nested dicts with text as keys, lists and plain values, of limited size."""
    left, count = [(value, 0)], 0
    while left:
        part, depth = left.pop()
        count += 1
        if depth > DEEPEST or count > MOST_OPTIONS:
            raise ValueError("nested too deeply, or too many options")
        if isinstance(part, Mapping):
            if not all(isinstance(name, str) for name in part):
                raise ValueError("the name of an option is no text")
            left += ((inner, depth + 1) for inner in part.values())
        elif isinstance(part, list | tuple):
            left += ((inner, depth + 1) for inner in part)
        elif not isinstance(part, str | int | float | None):
            raise ValueError(f"expected options of plain values, got {type(part).__name__}")
        elif isinstance(part, int) and abs(part) >= 2**63:
            raise ValueError("a number is too large")
    return value


def same_length(value: tuple[list[int], list[str]]) -> Any:
    ids, names = value
    if not len(set(ids)) == len(ids) == len(names) > 0:
        raise ValueError("expected as many names as ids, and each id once")
    return value


def with_options_of_testing(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("test"), dict):
        raise ValueError("expected options of testing under test")
    return value


DenseTensor = Annotated[Any, AfterValidator(dense)]
Options = Annotated[dict[str, Any], AfterValidator(plain)]
Categories = Annotated[tuple[list[int] | tuple[int, ...], list[str] | tuple[str, ...]], Strict(False)]  # a list too
Whole = Annotated[int, Field(ge=0, lt=2**31)]
Cells = Annotated[int, Field(ge=1, le=2**15)]

STRICT = ConfigDict(strict=True)


class OptimizerState(TypedDict):
    """State of Adam: values per parameter by its number, and the options of each group."""

    __pydantic_config__ = STRICT

    state: dict[Whole, dict[str, DenseTensor]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1)]


class WindowState(TypedDict):
    """Sums since the last row of the log."""

    __pydantic_config__ = STRICT

    steps: Whole
    terms: DenseTensor
    norm: DenseTensor


class RandomState(TypedDict):
    """States of PyTorch's random generators."""

    __pydantic_config__ = STRICT

    cpu: DenseTensor
    cuda: NotRequired[DenseTensor]


class Contents(TypedDict, total=False):
    """The parts of a checkpoint. Weights alone have no others than `model`; further parts are ignored."""

    __pydantic_config__ = STRICT

    model: Required[dict[str, DenseTensor]]
    average: dict[str, DenseTensor]
    iteration: Whole
    optimizer: OptimizerState
    scaler: dict[str, int | float]
    window: WindowState
    random: RandomState
    config: Options
    categories: Annotated[Categories, AfterValidator(same_length)]


class Metadata(TypedDict):
    """What detection reads of an exported network's metadata, see docs/export.md. Further entries are ignored."""

    __pydantic_config__ = STRICT

    outputs: Annotated[list[str], Field(min_length=1)]
    config: Annotated[Options, AfterValidator(with_options_of_testing)]
    categories: Annotated[Categories, AfterValidator(same_length)]
    stride: Cells
    divisor: Cells
    largest_side: Annotated[Whole, Field(ge=1)]
    device: Literal["cpu", "cuda"]


@cache
def schema(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def misfit(state: Mapping[str, Any], kind: type = Contents) -> str | None:
    """Which part of a checkpoint is not what the schema says, and why. None if all are.

    kind: the schema.
    """
    try:
        schema(kind).validate_python(state)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        part, *place = first["loc"] or ("state",)
        where = "".join(f"[{name!r}]" for name in place)
        return f"{part}{where}: {first['msg'].removeprefix('Value error, ')}"[:LONGEST]
    return None
