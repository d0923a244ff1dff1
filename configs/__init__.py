"""Experiments as YAML files over the options that the parts declare.

A file holds the options that differ from the defaults, or from those of its `base:` (one file or a list, relative to
the file that names it; later ones win, sections are merged, lists replaced). `key.sub=value` on the command line wins
over all. Any error raises ConfigError: one line that names the file or the command line, the option, and for an
unknown option the nearest that exists.

In reading order: schema, reading, declarations, checking, describing, upgrading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from configs.checking import check
from configs.reading import ConfigError, read, split_overrides, value_words
from configs.schema import Config
from configs.upgrading import upgrade

__all__ = ["Config", "ConfigError", "dump", "from_dict", "load", "split_overrides", "to_dict", "upgrade"]


def load(path: str | PathLike[str] | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (None: the defaults), its bases and `key.sub=value` overrides (values in YAML) into a Config."""
    values, origins = read(None if path is None else Path(path), overrides)
    return check(values, origins, "defaults" if path is None else str(path))


def from_dict(values: dict[str, Any], source: str = "config") -> Config:
    """The Config of what `to_dict` gave, in this version or an older one. Options that it lacks take their defaults.

    source: the place that messages name.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping of options, got {value_words(values)}")
    return check(upgrade(values), {}, source)


def to_dict(config: Config) -> dict[str, Any]:
    """All options as nested dicts and lists of plain values, as a checkpoint stores them."""
    return plain(asdict(config))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def dump(config: Config) -> str:
    """All options as YAML that `load` reads back."""
    return yaml.dump(to_dict(config), Dumper=Dumper, sort_keys=False, width=120)


class Dumper(yaml.SafeDumper):
    """Writes lists on one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)
