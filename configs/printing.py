"""Writing a config as plain values, as YAML, and as YAML with explanations."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import yaml

from configs.declarations import MISSING, Option, count_words, one_of, options, range_words, tag_of, type_words
from configs.schema import Config

COLUMNS = 100  # width of the explanations, with their indentation


def to_dict(config: Config) -> dict[str, Any]:
    """All options as nested dicts and lists of plain values, as a checkpoint stores them."""
    return plain(asdict(config))


def plain(value: Any) -> Any:
    """The value with lists in place of tuples."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def dump(config: Config) -> str:
    """All options as YAML that `load` reads back."""
    return as_yaml(to_dict(config))


def describe(config: Config) -> str:
    """All options as YAML that `load` reads back, each below its explanation, type and range."""
    return "\n".join(section_lines(config, Config(), {})).lstrip("\n") + "\n"


def section_lines(section: Any, default: Any, kinds: dict[str, type], indent: str = "") -> Iterator[str]:
    """The lines of a section's options.

    default: gives the defaults of the options, if it is of the same kind as the section.
    kinds: the kinds that the section may have, by the value of their tag.
    """
    for name, option in options(type(section)).items():
        value = getattr(section, name)
        default_value = getattr(default, name) if type(default) is type(section) else option.default()
        if type(value) in option.sections:
            yield from ("", *comment(option.explanation, indent), f"{indent}{name}:")
            yield from section_lines(value, default_value, option.kinds, indent + "  ")
            continue
        if kinds and name == tag_of(type(section))[0]:  # the first kind's tag explains all kinds
            first = next(iter(kinds.values()))
            explanation, facts = options(first)[name].explanation, [one_of(list(kinds))]
        else:
            explanation, facts = option.explanation, [value_facts(option)]
        if value != default_value is not MISSING and not option.sections:
            facts.append(as_yaml({"default": plain(default_value)}).strip())
        yield from comment(explanation, indent)
        yield from comment(f"({'; '.join(facts)})", indent)
        yield textwrap.indent(as_yaml({name: plain(value)}), indent).rstrip("\n")


def value_facts(option: Option) -> str:
    """Type, range and number of values of an option in words."""
    if option.sections:
        return "a section or null"
    schema = option.schema
    items = schema.get("items") or schema.get("prefixItems", [{}])[0]
    each = range_words(items)
    words = [type_words(schema), range_words(schema), f"each {each}" if each else "", count_words(schema)]
    return ", ".join(filter(None, words)) + (" or null" if option.nullable else "")


def comment(text: str, indent: str) -> list[str]:
    """Text as lines of a YAML comment."""
    start = f"{indent}# "
    return textwrap.wrap(text, COLUMNS, initial_indent=start, subsequent_indent=start, break_long_words=False)


def as_yaml(values: dict[str, Any]) -> str:
    """Nested plain values as YAML, in their order."""
    return yaml.dump(values, Dumper=Dumper, sort_keys=False, width=120)


class Dumper(yaml.SafeDumper):
    """Writes lists on one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)
