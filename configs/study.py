"""Studies: YAML files that name a config, its variants and seeds (see nnet/studies/options.py)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from configs.checking import check
from configs.effects import ALWAYS, reasons
from configs.printing import to_dict
from configs.reading import ConfigError, Origins, dotted_names, files_near, merge, parse_file, read, read_text
from configs.schema import Config
from nnet.studies.options import StudyOptions
from nnet.studies.plan import Study, Variant


class Checked(NamedTuple):
    """A variant with what its checks have found.

    effective: its options in testing, without those that have no effect. warnings: one line each.
    """

    variant: Variant
    effective: dict[str, Any]
    warnings: list[str]


def load_study(path: str | PathLike[str]) -> Study:
    """Read a study and check the configs of all its variants.

    Raises:
        ConfigError: an option of the study or of a variant is unusable, or two variants are the same experiment.
    """
    path = Path(path)
    values, lines = parse_file(path, read_text(path, "study", ""), "")
    options = check(values, lines, str(path), StudyOptions)
    checked = [check_variant(path, options, name, lines) for name in options.variants]
    warnings = [text for one in checked for text in one.warnings]
    for n, second in enumerate(checked):
        for first in checked[:n]:
            place = f"{lines[f'variants.{second.variant.name}']}: variants"
            names = f"{first.variant.name} and {second.variant.name}"
            if first.effective == second.effective:
                raise ConfigError(f"{place}: {names} are the same experiment{why(first, second)}")
            if training_part(first.effective) == training_part(second.effective):
                warnings.append(f"{place}: {names} differ in testing alone: the same training is done for both")
    return Study(path, options, tuple(one.variant for one in checked), tuple(dict.fromkeys(warnings)))


def why(first: Checked, second: Checked) -> str:
    """Which options of two equal variants have no effect, as the end of a message."""
    found = [text.partition(": ")[2] for text in (*first.warnings, *second.warnings)]
    return f" ({'; '.join(dict.fromkeys(found))})" if found else ""


def check_variant(path: Path, options: StudyOptions, name: str, lines: Origins) -> Checked:
    """The config of a variant. Raises ConfigError."""
    own = dict(options.variants[name] or {})
    base = own.pop("base", options.base)
    where = lines.get(f"variants.{name}.base", lines["base"])
    if not isinstance(base, str):
        raise ConfigError(f"{where}: variants.{name}.base: expected a file name")
    base = Path(os.path.normpath(path.parent / base))
    if not base.exists():
        raise ConfigError(f"{where}: config {base} does not exist{files_near(base)}")
    places = below(lines, "options") | below(lines, f"variants.{name}")
    given = merge(options.options, own, None)
    training, _ = configured(base, given, places)
    places |= below(lines, "test.options")
    further = options.test.options
    testing, unread = configured(base, merge(given, further, None), places)
    set_here = {*dotted_names(given), *dotted_names(further), ALWAYS}
    warnings = [f"{places.get(key, base)}: {key} has no effect: {unread[key]}" for key in unread if key in set_here]
    variant = Variant(name, str(base), tuple(texts(given)), tuple(texts(further)), to_dict(training), to_dict(testing))
    return Checked(variant, without(to_dict(testing), set(unread)), warnings)


def configured(base: Path, given: dict[str, Any], places: Origins) -> tuple[Config, dict[str, str]]:
    """The Config that a file and the options over it give, and why options of it have no effect."""
    if "seed" in given:
        raise ConfigError(f"{places['seed']}: seed: the study's `seeds` take its place")
    values, origins = read(base)
    config = check(merge(values, given, Config), origins | places, str(base))
    return config, reasons(config)


def below(lines: Origins, prefix: str) -> Origins:
    """The lines of the options in a section, by their names within it."""
    return {key.removeprefix(f"{prefix}."): line for key, line in lines.items() if key.startswith(f"{prefix}.")}


def texts(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Nested options as `key.sub=value`."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from texts(value, f"{prefix}{name}.")
        else:
            plain = isinstance(value, str) and yaml.safe_load(value) == value
            yield f"{prefix}{name}={value if plain else json.dumps(value)}"


def without(values: dict[str, Any], names: set[str], prefix: str = "") -> dict[str, Any]:
    """Nested options without those of these dotted names."""
    return {
        name: without(value, names, f"{prefix}{name}.") if isinstance(value, dict) else value
        for name, value in values.items()
        if f"{prefix}{name}" not in names
    }


def training_part(values: dict[str, Any]) -> dict[str, Any]:
    """The options that training depends on."""
    return without(values, {"test", "data.val", "data.test"})
