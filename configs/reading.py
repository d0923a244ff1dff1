"""Reading the YAML files and overrides of an experiment into nested values, with the place where each was written."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from configs.declarations import options
from configs.schema import Config
from db.files import read_bytes

Origins = dict[str, str]  # dotted name -> "file:line" or "command line", where its value was written

LONGEST_MESSAGE = 1000  # characters, before those that cannot be printed are escaped
DEEPEST = 8  # sections within sections
LARGEST_FILE = 2**20  # bytes
MOST_VALUES = 10_000  # of a file, with every alias counted as often as it is used
MOST_FILES = 100  # of a config with its bases, with every file counted as often as it is named
OVERRIDE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*=.*", re.DOTALL)  # key.sub=value


class ConfigError(ValueError):
    """A config that cannot be used. The message is one line for the user, of limited length."""

    def __init__(self, text: str):
        if len(text) > LONGEST_MESSAGE:  # both ends say what is wrong
            text = f"{text[: LONGEST_MESSAGE // 2]} ... {text[-LONGEST_MESSAGE // 2 + 5 :]}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


class FreshSection(dict):
    """A section that replaces null. Nothing of the section's default remains."""


def read(path: Path | None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Origins]:
    """The options that a file (None: no file), its bases and overrides give, and where each was written."""
    origins: Origins = {}
    values = read_file(path, (), {}, origins, []) if path else {}
    given: dict[str, Any] = {}
    for text in overrides:
        given = merge(given, parse_override(text), None)
    origins.update(dict.fromkeys(dotted_names(given), "command line"))
    return merge(values, given, Config), origins


def read_file(
    path: Path, chain: tuple[Path, ...], under: dict[str, Any], origins: Origins, files: list[Path]
) -> dict[str, Any]:
    """Merge a file's bases, then its own values, over `under`, and note in `origins` where each value was written.

    chain: the files whose `base:` led here, outermost first. files: those that were read so far; this one is added.
    """
    trail = " -> ".join(map(str, (*chain, path)))
    via = f" (base files: {trail})" if chain else ""
    try:
        cycle = os.path.realpath(path) in map(os.path.realpath, chain)
    except ValueError:  # a NUL, or a character that the file system cannot encode
        raise ConfigError(f"{path}: not a file name{via}") from None
    if cycle:
        raise ConfigError(f"{path}: base files form a cycle: {trail}")
    files.append(path)
    if len(files) > MOST_FILES:
        raise ConfigError(f"{path}: more than {MOST_FILES} base files{via}")
    values, lines = parse_file(path, read_text(path, "base file" if chain else "config", via), via)
    if "variants" in values:
        raise ConfigError(f"{path} is a study, not a config: python ablate.py {path}{via}")
    bases = values.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        where = lines.get("base", path)
        raise ConfigError(f"{where}: base: expected a file name or a list of them, got {value_words(bases)}")
    for base in bases:
        under = read_file(path.parent / base, (*chain, path), under, origins, files)
    origins |= lines
    return merge(under, values, Config)


def read_text(path: Path, what: str, via: str) -> str:
    """Content of a config. what: "config" or "base file"; via: end of a message, saying which files led here."""
    try:
        return read_bytes(path, LARGEST_FILE).decode("utf-8")
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder, expected a YAML file{via}{files_near(path / 'x.yaml')}") from None
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
        check_size(node, str(path))
        find_lines(node, path, "", lines)
        values = loader.construct_document(node)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply{via}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{path}{line}: not valid YAML: {what}{via}") from None
    except Exception:  # PyYAML raises many kinds for values that their tags do not allow
        raise ConfigError(f"{misfit(node, path)}{via}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of options (`seed: 0`), got {value_words(values)}{via}")
    return values, lines


def check_size(node: yaml.Node, where: str) -> None:
    """Raise ConfigError where aliases make a small text large: more than MOST_VALUES, or a value inside itself."""
    sizes: dict[int, int] = {}  # values of a node with all that is below it; 0 while they are counted

    def size(node: yaml.Node) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = 0
            sizes[id(node)] = 1 + sum(map(size, parts_of(node)))
        elif sizes[id(node)] == 0:
            raise ConfigError(f"{where}:{node.start_mark.line + 1}: nested too deeply")  # in itself
        if sizes[id(node)] > MOST_VALUES:
            raise ConfigError(f"{where}: more than {MOST_VALUES:,} values")
        return sizes[id(node)]

    size(node)


def parts_of(node: yaml.Node) -> list[yaml.Node]:
    """The values of a list, or the keys and values of a mapping."""
    return node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]


def misfit(node: yaml.Node, path: Path) -> str:
    """Place and text of the first value that its tag does not allow, such as `!!timestamp x`."""
    if isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except Exception:
            tag = node.tag.rpartition(":")[2]
            return f"{path}:{node.start_mark.line + 1}: not valid YAML: {shortened(repr(node.value))} is no {tag}"
        return ""
    return next(filter(None, (misfit(part, path) for part in parts_of(node))), f"{path}: not valid YAML")


def find_lines(node: yaml.Node | None, path: Path, prefix: str, lines: Origins) -> None:
    """Note the line of every option. A name that is written twice is an error: YAML would drop its first value."""
    if not isinstance(node, yaml.MappingNode):
        return
    if prefix.count(".") > DEEPEST:  # also the case of an alias inside its own anchor
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
        raise ConfigError(f"command line: expected key=value (such as train.lr=1e-4), got {shortened(repr(text))}")
    if key.count(".") > DEEPEST:
        raise ConfigError(f"command line: {shortened(key)}: nested too deeply")
    try:
        if node := yaml.compose(value_text, yaml.SafeLoader):
            check_size(node, "command line")
        find_lines(node, Path("command line"), "", {})
        value = yaml.safe_load(value_text)
    except ConfigError:
        raise
    except Exception:  # PyYAML raises many kinds
        text = shortened(repr(value_text))
        raise ConfigError(f"command line: {shortened(key)}: {text} is not a valid YAML value") from None
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
    shown = shortened(repr_of(value))
    names = {bool: "true or false", int: "a whole number", float: "a number with decimals", str: "text", list: "a list"}
    return f"{shown.lower() if isinstance(value, bool) else shown} ({names.get(type(value), type(value).__name__)})"


def repr_of(value: Any) -> str:
    """repr(value), also of numbers that are too long for it."""
    try:
        return repr(value)
    except ValueError:  # Python writes numbers of up to 4,300 digits
        return "a number of thousands of digits"


def shortened(text: str) -> str:
    """The text, cut to 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def files_near(path: Path) -> str:
    """The configs in the folder of a missing one, nearest first, as the end of a message."""
    if not os.path.isdir(path.parent):
        return f"; there is no folder {path.parent}"
    names = sorted(p.name for pattern in ("*.yaml", "*.yml") for p in path.parent.glob(pattern))
    if not names:
        return f"; there is no YAML file in {path.parent}"
    near = difflib.get_close_matches(path.stem, [Path(n).stem for n in names], 3, 0.5)
    if near:
        return f"; did you mean {' or '.join(n for stem in near for n in names if Path(n).stem == stem)}?"
    return f"; configs in {path.parent}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}"
