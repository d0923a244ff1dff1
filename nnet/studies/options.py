"""Options of a study: the content of the YAML files in configs/studies/."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from db.evaluation import FIGURES
from nnet import analysis
from nnet.analysis.base import Analysis
from nnet.runtime.discovery import classes_in

Overrides = dict[str, Any]  # options of a config, by section
Seed = Annotated[int, Field(ge=0, lt=2**32)]

ANALYSES = classes_in(analysis, Analysis)
DISCOVERY = ("FD", "FD5", "FD25", "FD50", "FDs", "FDm", "FDl")
KNOWN_FIGURES = (*FIGURES, "AP60", "AP70", "AP80", "AP90", *DISCOVERY)
GROUPS = ("AP_per_class", "by_class")  # of metrics.json, without an analysis
NAME_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.")


@dataclass(frozen=True)
class TestOptions:
    """How test.py is run."""

    split: Literal["val", "train"] = "val"
    """Which annotated data."""
    analyses: tuple[str, ...] = ()
    """Further figures, as --analyses of test.py."""
    options: Overrides = field(default_factory=dict)
    """Options that differ from those of the training, as in a config."""

    def __post_init__(self):
        for name in self.analyses:
            if name not in ANALYSES:
                expected = f"expected any of {', '.join(ANALYSES)}, got {name!r}"
                raise ValueError("analyses", f"{expected}{near(name, ANALYSES)}")


@dataclass(frozen=True)
class StudyOptions:
    """A config in several variants, each trained with several seeds."""

    base: str
    """Config that all variants start from, relative to the study's file."""
    variants: Annotated[dict[str, Overrides | None], Field(min_length=1)]
    """Options of each variant, as in a config; a variant's own `base:` replaces the study's. The others are compared
    with the first."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3)
    """Each variant is trained once with each of these seeds."""
    options: Overrides = field(default_factory=dict)
    """Options of all variants, as in a config."""
    test: TestOptions = field(default_factory=TestOptions)
    """Testing."""
    figures: Annotated[tuple[str, ...], Field(min_length=1)] = ("AP", "AP50", "AP75", "APs", "APm", "APl", "FD")
    """Columns of the tables: figures of metrics.json; a.b is b in the mapping a, such as corner_AP.top_left.image."""

    def __post_init__(self):
        for name in self.variants:
            if not name or not set(name) <= NAME_CHARACTERS or name[0] in ".-":
                raise ValueError("variants", f"{name!r} cannot be a folder: use letters, digits, _, +, - and dots")
        for name in ("seeds", "figures"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(name, f"each only once, got {list(getattr(self, name))}")
        groups = (*GROUPS, *(ANALYSES[name].key for name in self.test.analyses))
        for figure in self.figures:
            group, dot, _ = figure.partition(".")
            if dot and group not in groups:
                why = next((f": name {n} in test.analyses" for n, kind in ANALYSES.items() if kind.key == group), "")
                raise ValueError("figures", f"{figure}: test.py does not compute {group}{why}")
            if not dot and figure not in KNOWN_FIGURES:
                hint = near(figure, KNOWN_FIGURES) or f"; figures are {', '.join(KNOWN_FIGURES)}"
                raise ValueError("figures", f"there is no figure {figure}{hint}")


def near(name: str, names: Any) -> str:
    """The nearest of these names, as the end of a message."""
    found = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {found[0]}?" if found else ""
