"""What the option classes declare: types, ranges, defaults, kinds and explanations.

A section is a frozen dataclass. A section of several kinds is a union of dataclasses, each of which begins with a tag:
a field of type Literal["its name"], such as `detector` in `model:`. The tag's value in a config chooses the kind.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from functools import cache, cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

MISSING = dataclasses.MISSING


class Option:
    """A field of an option class: a value, or a section.

    Attributes:
        name: the field's name.
        nullable: whether null is allowed.
        hint: the type, without `| None`.
        sections: the dataclasses of a section, one per kind. Empty for a value.
        tag: name of the field that chooses the kind. None for a value and for a section without kinds.
        kinds: the dataclass of each value of the tag.
        explanation: the attribute's docstring on one line. Empty if there is none.
    """

    def __init__(self, field: dataclasses.Field, hint: Any, explanation: str):
        union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        parts = typing.get_args(hint) if union else (hint,)
        self.name, self.field, self.explanation = field.name, field, explanation
        self.nullable = type(None) in parts
        self.hint = typing.Union[tuple(part for part in parts if part is not type(None))]  # noqa: UP007
        self.sections = tuple(part for part in parts if dataclasses.is_dataclass(part))
        self.tag = tag_of(self.sections[0])[0] if self.sections else None
        self.kinds = {tag_of(section)[1]: section for section in self.sections} if self.tag else {}

    def default(self) -> Any:
        """The default, or MISSING if the option is required."""
        return self.field.default if self.field.default_factory is MISSING else self.field.default_factory()

    def kind(self, values: dict[str, Any]) -> type | None:
        """The dataclass of a section with these values. None: the tag has a value that no kind has."""
        if self.tag in values:
            value = values[self.tag]
            return self.kinds.get(value) if isinstance(value, str) else None
        default = type(self.default())
        return default if default in self.sections else self.sections[0]

    @cached_property
    def adapter(self) -> TypeAdapter:
        """Checks a value's type and range."""
        return TypeAdapter(self.hint, config=ConfigDict(strict=True, allow_inf_nan=False))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Type and range of a value as JSON schema."""
        return self.adapter.json_schema()


def tag_of(section: type) -> tuple[str, str] | tuple[None, None]:
    """Name and value of the tag of an option class: its first field, if that is a Literal of one value."""
    first = dataclasses.fields(section)[0].name
    hint = typing.get_type_hints(section)[first]
    values = typing.get_args(hint)
    return (first, values[0]) if typing.get_origin(hint) is Literal and len(values) == 1 else (None, None)


@cache
def options(section: type) -> dict[str, Option]:
    """The options of an option class by name, in order."""
    hints, explanations = typing.get_type_hints(section, include_extras=True), explain(section)
    return {
        field.name: Option(field, hints[field.name], explanations.get(field.name, ""))
        for field in dataclasses.fields(section)
    }


def explain(section: type) -> dict[str, str]:
    """The attribute docstrings of an option class and the classes that it inherits from, each on one line."""
    texts = {}
    for cls in filter(dataclasses.is_dataclass, reversed(section.__mro__)):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
        for statement, after in zip(body, body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                texts[statement.target.id] = " ".join(ast.literal_eval(after.value).split())
    return texts


def option_names(section: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options of an option class, with those of every kind. Sections come before their options."""
    for name, option in options(section).items():
        yield prefix + name
        for kind in option.sections:
            yield from option_names(kind, f"{prefix}{name}.")


def type_words(schema: dict[str, Any], plural: bool = False) -> str:
    """A type in words: "a whole number", "one of a, b", "a list of numbers"."""
    if "enum" in schema or "const" in schema:
        return f"any of {', '.join(map(str, choices(schema)))}" if plural else one_of(choices(schema))
    if schema.get("type") == "array":
        items = schema.get("items") or schema.get("prefixItems", [{}])[0]
        return f"a list of {type_words(items, plural=True)}"
    one, several = {
        "integer": ("a whole number", "whole numbers"),
        "number": ("a number", "numbers"),
        "boolean": ("true or false", "true or false"),
        "string": ("text", "texts"),
        "object": ("a section", "sections"),
    }.get(schema.get("type"), ("a value of another type", "values"))
    return several if plural else one


def choices(schema: dict[str, Any]) -> list[Any]:
    """The values that a JSON schema lists. Empty if it lists none."""
    return schema.get("enum", [schema["const"]] if "const" in schema else [])


def one_of(values: list[Any]) -> str:
    """A choice in words: "one of a, b"."""
    return f"one of {', '.join(map(str, values))}"


def range_words(schema: dict[str, Any]) -> str:
    """The range of a number in words: "above 0, at most 1". Empty for a number without bounds."""
    above, least = schema.get("exclusiveMinimum"), schema.get("minimum")
    below, most = schema.get("exclusiveMaximum"), schema.get("maximum")
    if below is not None and schema["type"] == "integer":
        below, most = None, below - 1
    if least is not None and most is not None:
        return f"from {least} to {most}"
    lower = f"above {above}" if above is not None else f"{least} or more" if least is not None else ""
    upper = f"below {below}" if below is not None else f"at most {most}" if most is not None else ""
    return ", ".join(filter(None, (lower, upper)))


def count_words(schema: dict[str, Any]) -> str:
    """The number of values of a list in words: "2 values", "at least one value". Empty if any number will do."""
    least, most = schema.get("minItems"), schema.get("maxItems")
    if least is None and most is None:
        return ""
    number = most if least is None else least
    words = "one value" if number == 1 else f"{number} values"
    return words if least == most else f"at most {words}" if least is None else f"at least {words}"
