"""Options that a user has set and that have no effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from os import PathLike
from pathlib import Path

from configs.declarations import option_names
from configs.printing import to_dict
from configs.reading import read
from configs.schema import Config
from nnet.families import family_of

ALWAYS = "train.lr_drops"  # reported wherever it is set: a shorter run inherits it


def without_effect(config: Config, path: str | PathLike[str] | None, overrides: Sequence[str]) -> list[str]:
    """The options that this file, or the command line, sets and the run does not read: one line each, with the reason.

    What a base file sets is not reported, nor what equals the default in a file that holds all options.

    config: what `load` makes of path and overrides, or of a checkpoint's config and overrides.
    """
    origins = read(None if path is None else Path(path), overrides)[1]
    found = []
    for name, reason in reasons(config).items():
        where = origins.get(name, "")
        own = where == "command line" or (where.rpartition(":")[0] == str(path) and not is_default(config, name))
        if own or name == ALWAYS:
            found.append(f"{where or 'defaults'}: {name} has no effect: {reason}")
    return found


def reasons(config: Config) -> dict[str, str]:
    """Why options have no effect, by their dotted names."""
    found = {}
    for section in fields(config):
        options = getattr(config, section.name)
        unused = options.unused() if hasattr(options, "unused") else {}
        found |= {f"{section.name}.{name}": reason for name, reason in unused.items()}
    family = family_of(config.model)
    unread = family.unread(config.model)
    reason = f"the network of model.detector={config.model.detector} does not read it{family.variant(config.model)}"
    names = [name for name in option_names(Config) if "." in name and {name, name.partition(".")[0]} & set(unread)]
    return found | dict.fromkeys(names, reason)


def is_default(config: Config, name: str) -> bool:
    """Whether an option has the default of the schema."""
    values = [to_dict(config), to_dict(Config())]
    for part in name.split("."):
        values = [value.get(part) if isinstance(value, dict) else None for value in values]
    return values[0] == values[1]
