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
from nnet.families import FAMILIES, ModelOptions, family_of

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
    variant = family_of(config.model).variant(config.model)
    reason = f"the network of model.detector={config.model.detector} does not read it{variant}"
    return found | dict.fromkeys(unread(config.model), reason)


def unread(model: ModelOptions) -> list[str]:
    """Dotted names of the options that only families of other networks read."""
    read, claimed = family_of(model).reads(model), {name for family in FAMILIES for name in family.claims}
    names = list(option_names(Config))
    sections = {name.rpartition(".")[0] for name in names}

    def claim(name: str) -> str:
        """The option, or the innermost section around it, that families claim. Empty if they do not."""
        while name and name not in claimed:
            name = name.rpartition(".")[0]
        return name

    return [name for name in names if name not in sections and claim(name) not in ("", *read)] if read else []


def is_default(config: Config, name: str) -> bool:
    """Whether an option has the default of the schema."""
    values = [to_dict(config), to_dict(Config())]
    for part in name.split("."):
        values = [value.get(part) if isinstance(value, dict) else None for value in values]
    return values[0] == values[1]
