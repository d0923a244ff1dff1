"""Experiments as YAML files over the typed schema of configs/schema.py.

A file holds the options that differ from the defaults, or from those of its `base:` (one file or a list, relative to
the file that names it; later ones win, mappings are merged, lists replaced). `key.sub=value` on the command line wins
over all. Whatever is wrong raises ConfigError: one line that names the file or the command line, the key, and for an
unknown one the nearest that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import yaml

from .schema import Augment, Config, Data, Loss, Model, Penalty, Split, Test, Train, check_values

__all__ = ["Augment", "Config", "ConfigError", "Data", "Loss", "Model", "Penalty", "Split", "Test", "Train"]
__all__ += ["dump", "from_dict", "load", "to_dict"]

# YAML 1.1 as PyYAML reads it takes 1e-3 and 2.5e-4 for text; a float field takes such text for the number it is.
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")

Origins = dict[str, str]  # dotted key -> "file:line" or "command line", where its value was written


class ConfigError(ValueError):
    """A config that cannot be used; the message is meant for the user."""


def load(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, its bases and `key.sub=value` overrides (values in YAML) into a checked Config."""
    origins: Origins = {}
    values = _read(Path(path), (), to_dict(Config()), origins)
    for text in overrides:
        override = _parse_override(text)
        origins.update(dict.fromkeys(_dotted_keys(override), "command line"))
        values = _merge(values, override)
    return _build(values, origins, str(path))


def from_dict(values: dict[str, Any], source: str) -> Config:
    """Rebuild what `to_dict` gave; options that are lacking take their defaults. `source` is the file messages name."""
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping of options, got {_describe(values)}")
    return _build(_merge(to_dict(Config()), values), {}, source)


def to_dict(config: Config) -> dict[str, Any]:
    """All options as nested dicts of plain values, as a checkpoint keeps them."""
    return dataclasses.asdict(config)


def dump(config: Config) -> str:
    """All options as YAML that `load` reads back; written beside a run."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def _read(path: Path, chain: tuple[Path, ...], under: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Merge a file's bases, then its own values, over `under`, and note in `origins` where each value was written.

    chain: the files whose `base:` led here, outermost first.
    """
    trail = " -> ".join(map(str, (*chain, path)))
    via = f" (base files: {trail})" if chain else ""
    if path.resolve() in [p.resolve() for p in chain]:
        raise ConfigError(f"{path}: base files form a cycle: {trail}")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected a YAML file{via}{_files_near(path / 'x.yaml')}")
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        what = "base file" if chain else "config"
        raise ConfigError(f"{what} {path} does not exist{via}{_files_near(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file, expected YAML{via}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}{via}") from None

    lines: Origins = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty{via}; give it at least one option, such as `seed: 0`")
        _find_lines(node, path, "", lines)
        values = loader.construct_document(node)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{path}{line}: not valid YAML: {what}{via}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of options (`seed: 0`), got {_describe(values)}{via}")

    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(
            f"{lines.get('base', path)}: base: expected a file name or a list of them, got {_describe(bases)}"
        )
    for base in bases:
        under = _read(path.parent / base, (*chain, path), under, origins)
    origins |= lines
    return _merge(under, values)


def _find_lines(node: yaml.Node | None, path: Path, prefix: str, lines: Origins) -> None:
    """Fill lines with the line of every key; refuse a key written twice, whose first value YAML would drop."""
    if not isinstance(node, yaml.MappingNode):
        return
    if prefix.count(".") > 8:  # also what an alias inside its own anchor comes to
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: nested too deeply")
    for key_node, value in node.value:
        key, where = f"{prefix}{key_node.value}", f"{path}:{key_node.start_mark.line + 1}"
        if key in lines and key_node.value != "<<":
            raise ConfigError(f"{where}: {key} is given twice, first at {lines[key]}; remove one")
        lines[key] = where
        _find_lines(value, path, f"{key}.", lines)


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"command line: expected key=value (such as train.lr=1e-4), got {text!r}")
    try:
        _find_lines(yaml.compose(value_text, yaml.SafeLoader), Path("command line"), "", {})
        value = yaml.safe_load(value_text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"command line: {key}: {value_text!r} is not a valid YAML value") from None
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def _merge(under: Any, over: Any) -> Any:
    """Mappings merged key by key, all else replaced; neither argument is changed."""
    if not (isinstance(under, dict) and isinstance(over, dict)):
        return over
    return under | {key: _merge(under.get(key), value) for key, value in over.items()}


def _dotted_keys(values: Any, prefix: str = "") -> list[str]:
    """Every key of nested dicts in its dotted form, sections before what is in them."""
    keys = []
    for name, value in values.items() if isinstance(values, dict) else ():
        keys += [f"{prefix}{name}", *_dotted_keys(value, f"{prefix}{name}.")]
    return keys


def _build(values: dict[str, Any], origins: Origins, source: str) -> Config:
    """Check values, already merged over the defaults, against the schema."""

    def fail(key: str, text: str) -> typing.NoReturn:
        where, parent = None, key
        while parent and where is None:  # the nearest enclosing section that was written down
            where, parent = origins.get(parent), parent.rpartition(".")[0]
        raise ConfigError(f"{where or source}: {key}: {text}")

    def convert(value: Any, kind: Any, key: str) -> Any:
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                fail(key, f"expected a section (options indented under it), got {_describe(value)}")
            hints = typing.get_type_hints(kind)
            dotted = {name: f"{key}.{name}" if key else str(name) for name in (*hints, *value)}
            for name in value:
                if name not in hints:
                    unknown = _first_leaf(dotted[name], value[name])
                    fail(unknown, f"unknown option{_nearest(unknown, list(hints))}")
            for part in dataclasses.fields(kind):
                if part.name not in value and part.default is part.default_factory:  # both MISSING: required
                    fail(dotted[part.name], "is missing")
            return kind(**{name: convert(v, hints[name], dotted[name]) for name, v in value.items()})
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):  # X | None
            return None if value is None else convert(value, args[0], key)
        if origin is Literal:
            if value not in args or not isinstance(value, str):
                near = difflib.get_close_matches(str(value), args, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                fail(key, f"expected one of {', '.join(args)}, got {_describe(value)}{hint}")
            return value
        if origin is list:
            items = value if isinstance(value, list) else [value]
            if value is None or isinstance(value, dict):
                fail(key, f"expected a list of {_KINDS[args[0]][1]}, got {_describe(value)}")
            return [
                convert(item, args[0], f"{key}[{i}]" if isinstance(value, list) else key)
                for i, item in enumerate(items)
            ]
        if kind is float and not isinstance(value, bool):
            if isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
                value = float(value)
            if isinstance(value, float) and not math.isfinite(value):
                fail(key, f"expected a finite number, got {value}")
        if type(value) is not kind:
            fail(key, f"expected {_KINDS[kind][0]}, got {_describe(value)}")
        return value

    config = convert(values, Config, "")
    check_values(config, fail)
    return config


_KINDS = {
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "text"),
}


def _describe(value: Any) -> str:
    """A value and its kind in words, for messages."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    names = {bool: "true or false", int: "a whole number", float: "a number with decimals", str: "text", list: "a list"}
    return f"{shown.lower() if isinstance(value, bool) else shown} ({names.get(type(value), type(value).__name__)})"


def _first_leaf(key: str, value: Any) -> str:
    """trian: {lr: 1} is the unknown option trian.lr, whose nearest is train.lr."""
    while isinstance(value, dict) and value:
        name, value = next(iter(value.items()))
        key = f"{key}.{name}"
    return key


def _nearest(key: str, siblings: list[str]) -> str:
    """The valid option(s) nearest to an unknown one, as the end of a message."""
    section, _, name = key.rpartition(".")
    known = [other for other in _dotted_keys(to_dict(Config())) if not key.startswith(f"{other}.")]
    by_name: dict[str, list[str]] = {}
    for other in known:
        by_name.setdefault(other.rpartition(".")[2], []).append(other)
    near = difflib.get_close_matches(key, known, 1, 0.75)  # trian.lr -> train.lr
    here = [f"{section}.{sibling}" if section else sibling for sibling in siblings]
    near = near or difflib.get_close_matches(key, here, 1, 0.75)
    near = near or by_name.get(name, [])[:3]  # lr, model.lr -> train.lr
    near = near or [other for match in difflib.get_close_matches(name, by_name, 1, 0.6) for other in by_name[match][:3]]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; options here are {', '.join(siblings)}"


def _files_near(path: Path) -> str:
    """What configs lie in the folder of a missing one, nearest first, as the end of a message."""
    names = sorted(p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern))
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    if not names:
        return f"; there is no YAML file in {path.parent}"
    near = difflib.get_close_matches(path.stem, [Path(n).stem for n in names], 3, 0.5)
    if near:
        return f"; did you mean {' or '.join(n for stem in near for n in names if Path(n).stem == stem)}?"
    return f"; configs in {path.parent}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
