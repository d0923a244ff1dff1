"""Reading the YAML files and overrides of an experiment into nested values, with the place where each was written."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.declarations import options
from configs.schema import Config

Origins = dict[str, str]  # dotted name -> "file:line" or "command line", where its value was written

OVERRIDE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*=.*", re.DOTALL)  # key.sub=value


class ConfigError(ValueError):
    """A config that cannot be used. The message is one line for the user."""


class FreshSection(dict):
    """A section that replaces null. Nothing of the section's default remains."""


def read(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Origins]:
    """The options that a file (None: no file), its bases and overrides give, and where each was written."""
    origins: Origins = {}
    values = read_file(path, (), {}, origins) if path else {}
    given: dict[str, Any] = {}
    for text in overrides:
        given = merge(given, parse_override(text), None)
    origins.update(dict.fromkeys(dotted_names(given), "command line"))
    return merge(values, given, Config), origins


def read_file(path: Path, chain: tuple[Path, ...], under: dict[str, Any], origins: Origins) -> dict[str, Any]:
    """Merge a file's bases, then its own values, over `under`, and note in `origins` where each value was written.

    chain: the files whose `base:` led here, outermost first.
    """
    trail = " -> ".join(map(str, (*chain, path)))
    via = f" (base files: {trail})" if chain else ""
    if path.resolve() in [p.resolve() for p in chain]:
        raise ConfigError(f"{path}: base files form a cycle: {trail}")
    values, lines = parse_file(path, read_text(path, "base file" if chain else "config", via), via)
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        where = lines.get("base", path)
        raise ConfigError(f"{where}: base: expected a file name or a list of them, got {value_words(bases)}")
    for base in bases:
        under = read_file(path.parent / base, (*chain, path), under, origins)
    origins |= lines
    return merge(under, values, Config)


def read_text(path: Path, what: str, via: str) -> str:
    """Content of a config. what: "config" or "base file"; via: end of a message, saying which files led here."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, expected a YAML file{via}{files_near(path / 'x.yaml')}")
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{what} {path} does not exist{via}{files_near(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not a text file, expected YAML{via}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}{via}") from None


def parse_file(path: Path, text: str, via: str) -> tuple[dict[str, Any], Origins]:
    """The values of a YAML text and their lines."""
    lines: Origins = {}
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{path} is empty{via}; give it at least one option, such as `seed: 0`")
        find_lines(node, path, "", lines)
        values = loader.construct_document(node)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{path}{line}: not valid YAML: {what}{via}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of options (`seed: 0`), got {value_words(values)}{via}")
    return values, lines


def find_lines(node: yaml.Node | None, path: Path, prefix: str, lines: Origins) -> None:
    """Note the line of every option. A name that is written twice is an error: YAML would drop its first value."""
    if not isinstance(node, yaml.MappingNode):
        return
    if prefix.count(".") > 8:  # also the case of an alias inside its own anchor
        raise ConfigError(f"{path}:{node.start_mark.line + 1}: nested too deeply")
    for key_node, value in node.value:
        key, where = f"{prefix}{key_node.value}", f"{path}:{key_node.start_mark.line + 1}"
        if key in lines and key_node.value != "<<":
            raise ConfigError(f"{where}: {key} is given twice, first at {lines[key]}; remove one")
        lines[key] = where
        find_lines(value, path, f"{key}.", lines)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate the overrides on a command line from the rest, before a parser sees it: (overrides, rest).

    Every argument of the form name.name=value is an override, wherever it stands. A path of that form has to be given
    together with its option, as in --output=lr=1, or as ./lr=1.
    """
    overrides = [text for text in arguments if OVERRIDE.fullmatch(text)]
    return overrides, [text for text in arguments if not OVERRIDE.fullmatch(text)]


def parse_override(text: str) -> dict[str, Any]:
    """The nested values of `key.sub=value`."""
    key, equals, value_text = text.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise ConfigError(f"command line: expected key=value (such as train.lr=1e-4), got {text!r}")
    try:
        find_lines(yaml.compose(value_text, yaml.SafeLoader), Path("command line"), "", {})
        value = yaml.safe_load(value_text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"command line: {key}: {value_text!r} is not a valid YAML value") from None
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def merge(under: dict[str, Any], over: dict[str, Any], section: type | None) -> dict[str, Any]:
    """The values of `over` over those of `under`. Sections are merged, all else is replaced. Neither is changed.

    section: the option class of these values, if known. Where `over` chooses another kind of a section, options in
    `under` that the new kind does not have are dropped.
    """
    merged = type(under)(under)
    declared = options(section) if section else {}
    for name, value in over.items():
        old, option = under.get(name), declared.get(name)
        if isinstance(value, dict) and isinstance(old, dict) and not isinstance(value, FreshSection):
            kind = option.kind(old | value) if option and option.sections else None
            if kind and kind is not option.kind(old):
                old = inherited(old, kind)
            value = merge(old, value, kind)
        elif isinstance(value, dict) and name in under:
            value = FreshSection(value)
        merged[name] = value
    return merged


def inherited(values: dict[str, Any], section: type) -> dict[str, Any]:
    """Values of a section of another kind, without those that this option class does not have."""
    kept = {}
    for name, option in options(section).items():
        value = values.get(name)
        if isinstance(value, dict) and option.sections and (kind := option.kind(value)):
            kept[name] = inherited(value, kind)
        elif name in values:
            kept[name] = value
    return kept


def dotted_names(values: Any, prefix: str = "") -> list[str]:
    """Dotted names of nested values. Sections come before their options."""
    names = []
    for name, value in values.items() if isinstance(values, dict) else ():
        names += [f"{prefix}{name}", *dotted_names(value, f"{prefix}{name}.")]
    return names


def value_words(value: Any) -> str:
    """A value and its type in words, for messages."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a section"
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    names = {bool: "true or false", int: "a whole number", float: "a number with decimals", str: "text", list: "a list"}
    return f"{shown.lower() if isinstance(value, bool) else shown} ({names.get(type(value), type(value).__name__)})"


def files_near(path: Path) -> str:
    """The configs in the folder of a missing one, nearest first, as the end of a message."""
    names = sorted(p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern))
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    if not names:
        return f"; there is no YAML file in {path.parent}"
    near = difflib.get_close_matches(path.stem, [Path(n).stem for n in names], 3, 0.5)
    if near:
        return f"; did you mean {' or '.join(n for stem in near for n in names if Path(n).stem == stem)}?"
    return f"; configs in {path.parent}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
