"""Experiments as YAML files over the options that the parts declare.

A file holds the options that differ from the defaults, or from those of its `base:` (one file or a list, relative to
the file that names it; later ones win, sections are merged, lists replaced). `key.sub=value` on the command line wins
over all. Any error raises ConfigError: one line that names the file or the command line, the option, and for an
unknown option the nearest that exists.

In reading order: schema, reading, declarations, checking, printing, effects; and study, which reads studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from configs.checking import check
from configs.effects import without_effect
from configs.printing import describe, dump, to_dict
from configs.reading import ConfigError, merge, read, split_overrides, value_words
from configs.schema import Config
from nnet.runtime.upgrading import upgrade

__all__ = [
    "Config",
    "ConfigError",
    "describe",
    "dump",
    "from_dict",
    "load",
    "split_overrides",
    "to_dict",
    "upgrade",
    "without_effect",
]


def load(path: str | PathLike[str] | None, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file (None: the defaults), its bases and `key.sub=value` overrides (values in YAML) into a Config."""
    values, origins = read(None if path is None else Path(path), overrides)
    return check(values, origins, "defaults" if path is None else str(path))


def from_dict(values: dict[str, Any], source: str = "config", overrides: Sequence[str] = ()) -> Config:
    """The Config of what `to_dict` gave, in this version or an older one. Options that it lacks take their defaults.

    source: the place that messages name. overrides: `key.sub=value`, with values in YAML.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: expected a mapping of options, got {value_words(values)}")
    given, origins = read(None, overrides)
    return check(merge(upgrade(values), given, Config), origins, source)
