"""Checking values against the options that the parts declare. Every message is one line that names place and option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from pydantic import ValidationError

from configs.declarations import (
    MISSING,
    Option,
    choices,
    count_words,
    one_of,
    option_names,
    options,
    range_words,
    tag_of,
    type_words,
)
from configs.reading import ConfigError, FreshSection, Origins, repr_of, shortened, value_words
from configs.schema import Config

# YAML 1.1 as PyYAML reads it takes 1e-3 and 2.5e-4 for text. Options that are numbers accept such text.
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

LARGEST_WHOLE = 2**53  # larger whole numbers are not exact as float64

RENAMED = {
    **{f"train.{name}": f"runtime.{name}" for name in ("device", "threads", "tf32", "collective_timeout")},
    **{f"model.{name}": f"model.backbone.{name}" for name in ("stacks", "stem_width", "widths", "blocks")},
}
REWRITTEN = {  # old option and value -> what to write today
    ("model.head", "anchors"): "model.detector: anchors",
    ("model.head", "keypoints"): "model.detector: cornernet, or centernet",
    ("model.backbone", "hourglass"): "model.backbone.name: hourglass",
    ("model.backbone", "resnet101_fpn"): "model.backbone.name: resnet_fpn, with model.backbone.depth: 101",
    ("model.backbone", "resnet18_fpn"): "model.backbone.name: resnet_fpn, with model.backbone.depth: 18",
}


def check(values: dict[str, Any], origins: Origins, source: str, root: type = Config) -> Any:
    """The Config of these values. Options that are not given take their defaults.

    origins: where the values were written. source: the place that messages name for all others. root: the option class,
    if it is another one.

    Raises:
        ConfigError: the values are not a Config's.
    """
    return Checker(origins, source, root).section(root, values, None, "")


class Checker:
    """Turns values into options, and says where and why that is impossible."""

    def __init__(self, origins: Origins, source: str, root: type):
        """root: the option class of all values."""
        self.origins, self.source, self.root = origins, source, root

    def fail(self, key: str, text: str) -> NoReturn:
        where, parent = None, key.partition("[")[0]
        while parent and where is None:  # the nearest enclosing section that was written down
            where, parent = self.origins.get(parent), parent.rpartition(".")[0]
        raise ConfigError(f"{where or self.source}: {key}: {text}")

    def section(self, section: type, values: dict[str, Any], default: Any, key: str, kinds: Iterable[type] = ()) -> Any:
        """A section of this option class. default: gives the options that are not in `values`, if it is of this class.

        kinds: all option classes that the section may have.
        """
        prefix, declared = f"{key}." if key else "", options(section)
        for name, value in values.items():
            if name not in declared:
                self.unknown(f"{prefix}{name}", value, section, kinds)
        given = {}
        for name, option in declared.items():
            default_value = getattr(default, name) if type(default) is section else option.default()
            if name in values:
                given[name] = self.option(option, values[name], default_value, f"{prefix}{name}", section)
            elif default_value is MISSING:
                self.fail(f"{prefix}{name}", "is missing")
            else:
                given[name] = default_value
        try:
            return section(**given)
        except ValueError as error:  # a rule over several options: see __post_init__ of the option classes
            if len(error.args) != 2:
                raise
            self.fail(f"{prefix}{error.args[0]}", error.args[1])

    def option(self, option: Option, value: Any, default: Any, key: str, parent: type) -> Any:
        """An option, be it a section or a value."""
        if value is None and option.nullable:
            return None
        if not option.sections:
            return self.value(option, value, key)
        if not isinstance(value, dict):
            hint = rewritten(key, value)
            if option.tag and isinstance(value, str) and not hint:
                hint = f"; its kind is {key}.{option.tag}"
            self.fail(key, f"expected a section (options indented under it), got {value_words(value)}{hint}")
        section = option.kind(value)
        if section is None:
            outer, inner = tag_of(parent), f"{key}.{option.tag}"
            only = len(option.kinds) == 1 and outer[0]  # the kind of the section above decides
            where = f" with {key.rpartition('.')[0]}.{outer[0]}={outer[1]}" if only else ""
            self.not_among(inner, list(option.kinds), value[option.tag], where)
        return self.section(section, value, None if isinstance(value, FreshSection) else default, key, option.sections)

    def value(self, option: Option, value: Any, key: str) -> Any:
        """A value of the option's type and range."""
        prepared = prepare(option.schema, value)
        for number in prepared if isinstance(prepared, tuple) else [prepared]:
            if isinstance(number, int) and abs(number) >= LARGEST_WHOLE:
                self.fail(key, f"expected a number below 2**53, got {shortened(repr_of(number))}")
        try:
            self.limit(option.schema, checked := option.adapter.validate_python(prepared), key)
            return checked
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
        kind, place, schema = first["type"], first["loc"], option.schema
        shown = shortened(repr_of(list(prepared) if isinstance(prepared, tuple) else prepared))
        if kind in ("too_short", "too_long", "missing"):
            self.fail(key, f"expected {count_words(schema)}, got {shown}")
        if place and isinstance(place[0], int) and schema.get("type") == "array":
            schema = schema["prefixItems"][place[0]] if "prefixItems" in schema else schema["items"]
            item = f"{key}[{place[0]}]" if isinstance(value, list) else key
        elif place and schema.get("type") == "object":
            if "[key]" in place:
                self.fail(key, f"names must be text: write '{place[0]}' in quotes")
            item = f"{key}.{place[0]}"
        else:
            item = key
        if kind == "literal_error":
            self.not_among(item, choices(schema), first["input"])
        if kind == "finite_number":
            self.fail(item, f"expected a finite number, got {shortened(str(first['input']))}")
        if kind.startswith(("greater_than", "less_than")):
            self.fail(key, f"must be {range_words(schema)}, got {shown}")
        if kind.endswith("_type"):
            self.fail(item, f"expected {type_words(schema)}, got {value_words(first['input'])}")
        self.fail(item, f"{first['msg'][:1].lower()}{first['msg'][1:]}, got {value_words(first['input'])}")

    def limit(self, schema: dict[str, Any], value: Any, key: str) -> None:
        """Refuse numbers beyond the option's `most` and `least`: valid, but far from any useful value."""
        if isinstance(value, tuple):
            parts = schema.get("prefixItems", [schema.get("items", {})] * len(value))
            for part, item in zip(parts, value, strict=True):
                self.limit(part, item, key)
        elif "most" in schema and value > schema["most"]:
            self.fail(key, f"must be at most {schema['most']}, got {value}")
        elif "least" in schema and value < schema["least"]:
            self.fail(key, f"must be at least {schema['least']}, got {value}")

    def not_among(self, key: str, names: list[Any], value: Any, where: str = "") -> NoReturn:
        """A value that is none of those that the option may have. where: when these are the ones."""
        near = difflib.get_close_matches(str(value), map(str, names), 1)
        hint = rewritten(key, value) or (f"; did you mean {near[0]}?" if near else "")
        self.fail(key, f"expected {one_of(names)}{where}, got {value_words(value)}{hint}")

    def unknown(self, key: str, value: Any, section: type, kinds: Iterable[type]) -> NoReturn:
        """An option that this class does not have. kinds: the classes that the section may have instead."""
        name = key.rpartition(".")[2]
        if hint := rewritten(key, value):
            self.fail(key, f"unknown option{hint}")
        if key in RENAMED:
            self.fail(key, f"unknown option; it is now {RENAMED[key]}")
        if having := [tag_of(kind)[1] for kind in kinds if name in options(kind)]:
            tag, this = tag_of(section)
            place = f"{key.rpartition('.')[0]}.{tag}={' or '.join(having)}"
            self.fail(key, f"unknown option; it is an option of {place}, not of {this}")
        if key in option_names(self.root):  # with another kind of a section further out
            self.fail(key, f"unknown option of this kind of section; options here are {', '.join(options(section))}")
        free = [n for n, o in options(section).items() if not o.sections and o.schema.get("type") == "object"]
        if isinstance(value, dict) and (near := difflib.get_close_matches(name, free, 1)):
            self.fail(key, f"unknown option; did you mean {key.removesuffix(name)}{near[0]}?")
        while isinstance(value, dict) and value:  # trian: {lr: 1} is the unknown option trian.lr, close to train.lr
            name, value = next(iter(value.items()))
            key = f"{key}.{name}"
        self.fail(key, f"unknown option{nearest(key, list(options(section)), self.root)}")


def prepare(schema: dict[str, Any], value: Any) -> Any:
    """A value from YAML in the Python types of an option: lists become tuples, and numbers float where it is one."""
    if schema.get("type") == "array" and value is not None and not isinstance(value, dict):
        items = value if isinstance(value, list | tuple) else [value]
        schemas = schema.get("prefixItems", [])
        return tuple(
            prepare(schemas[i] if i < len(schemas) else schema.get("items", {}), item) for i, item in enumerate(items)
        )
    whole = isinstance(value, int) and not isinstance(value, bool)
    if schema.get("type") == "number" and (whole or (isinstance(value, str) and NUMBER.fullmatch(value))):
        try:
            return float(value)
        except OverflowError:
            return value
    return value


def rewritten(key: str, value: Any) -> str:
    """What to write in place of a value of an older version, as the end of a message."""
    text = REWRITTEN.get((key, value)) if isinstance(value, str) else None
    return f"; write {text}" if text else ""


def nearest(key: str, siblings: list[str], root: type) -> str:
    """The option(s) of `root` nearest to an unknown one, as the end of a message."""
    section, _, name = key.rpartition(".")
    known = [other for other in dict.fromkeys(option_names(root)) if not key.startswith(f"{other}.")]
    by_name: dict[str, list[str]] = {}
    for other in known:
        by_name.setdefault(other.rpartition(".")[2], []).append(other)
    here = [f"{section}.{sibling}" if section else sibling for sibling in siblings]
    near = [other for other in here if len(name) > 2 and other.startswith(key)][:3]  # train.iter -> train.iterations
    near = near or difflib.get_close_matches(key, known, 1, 0.75)  # trian.lr -> train.lr
    near = near or difflib.get_close_matches(key, here, 1, 0.75)
    near = near or by_name.get(name, [])[:3]  # lr, model.lr -> train.lr
    near = near or [other for match in difflib.get_close_matches(name, by_name, 1, 0.6) for other in by_name[match][:3]]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; options here are {', '.join(siblings)}"
