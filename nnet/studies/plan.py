"""What a study consists of: pairs of a variant and a seed, their folders and commands, and which of them are done."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from db import DataError
from nnet.runtime.checkpoint import differing_options
from nnet.runtime.upgrading import upgrade
from nnet.studies.options import ANALYSES, StudyOptions

METRICS = "metrics.json"  # test.py's figures
FIGURES = ("AP", "seconds_per_image", "images", "detections")  # that it always has
# Options that change neither the weights nor the figures, apart from rounding
HARMLESS = ("runtime.", "data.root", "test.workers")
HARMLESS += tuple(f"train.{name}" for name in ("workers", "worker_timeout", "snapshot_every", "keep", "keep_every"))
HARMLESS += tuple(f"train.{name}" for name in ("log_every", "validate_every", "validate_images", "ap_every"))
TESTING = ("test.", "data.val.", "data.test.")  # options that training does not read, or for validation only


@dataclass(frozen=True)
class Variant:
    """A config with overrides.

    Attributes:
        config: path of the YAML file. overrides: `key.sub=value` of train.py. test_overrides: further ones of test.py.
        training, testing: all options of train.py and of test.py, as nested plain values.
    """

    name: str
    config: str
    overrides: tuple[str, ...]
    test_overrides: tuple[str, ...]
    training: dict[str, Any]
    testing: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A variant with a seed: one training and one test, in one folder."""

    variant: Variant
    seed: int
    folder: Path
    study: StudyOptions

    @property
    def name(self) -> str:
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def iterations(self) -> int:
        return self.variant.training["train"]["iterations"]

    def train_command(self, threads: int) -> list[str]:
        """Arguments of Python. threads: of PyTorch, 0 for the default."""
        return ["train.py", *self._arguments(self.variant.overrides, threads), "--resume"]

    def test_command(self, threads: int) -> list[str]:
        """Arguments of Python. threads: as above."""
        test = self.study.test
        words = self._arguments((*self.variant.overrides, *self.variant.test_overrides), threads)
        words += ["--checkpoint", str(self.folder / "last.pt"), "--split", test.split]
        return ["test.py", *words, *(["--analyses", *test.analyses] if test.analyses else [])]

    def _arguments(self, overrides: Sequence[str], threads: int) -> list[str]:
        chosen = self.variant.training["runtime"]["threads"]  # by the study
        own = [f"runtime.threads={threads}"] if threads and not chosen else []
        return [self.variant.config, *overrides, f"seed={self.seed}", *own, "--output", str(self.folder)]

    def metrics(self) -> dict[str, Any] | None:
        """The content of metrics.json, if it is of this variant and seed, and of the finished training."""
        metrics = read_json(self.folder / METRICS)
        if not isinstance(metrics, dict) or not isinstance(metrics.get("config"), dict):
            return None
        keys = [ANALYSES[name].key for name in self.study.test.analyses]
        complete = all(key in metrics for key in (*FIGURES, *keys))
        wanted = {"iteration": self.iterations, "split": self.study.test.split, "truth": []}
        if not complete or any(metrics.get(key) != value for key, value in wanted.items()):
            return None
        changed = changes(upgrade(metrics["config"]), self.variant.testing | {"seed": self.seed}, HARMLESS)
        return None if changed else metrics

    def check(self) -> None:
        """Raise DataError if the folder has a training with other options: its weights are not those of this pair."""
        path = self.folder / "config.yaml"
        try:
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise DataError(f"{path}: cannot be read ({error}): remove the folder") from None
        now = self.variant.training | {"seed": self.seed}
        changed = changes(upgrade(before if isinstance(before, dict) else {}), now, (*HARMLESS, *TESTING))
        if changed:
            raise DataError(
                f"{self.folder} holds a run with other options than the study's ({'; '.join(changed)}): remove it, or "
                "name another folder with --output"
            )


def changes(before: dict[str, Any], now: dict[str, Any], ignored: tuple[str, ...]) -> list[str]:
    """Options that differ between two configs as nested values, "key: before -> now", without the ignored ones."""
    return [text for key, text in differing_options(before, now).items() if not key.startswith(ignored)]


@dataclass(frozen=True)
class Study:
    """A checked study.

    Attributes:
        path: the YAML file. warnings: what a user may not have meant, one line each.
    """

    path: Path
    options: StudyOptions
    variants: tuple[Variant, ...]
    warnings: tuple[str, ...]

    def pairs(self, output: Path) -> list[Pair]:
        """All pairs, seed by seed, so that the variants can be compared as soon as the first seed is done."""
        return list(self._pairs(output))

    def _pairs(self, output: Path) -> Iterator[Pair]:
        for seed in self.options.seeds:
            for variant in self.variants:
                yield Pair(variant, seed, output / variant.name / f"seed{seed}", self.options)

    def check_data(self) -> None:
        """Raise DataError where files or folders of the data are missing."""
        for variant in self.variants:
            data = variant.testing["data"]
            for name in dict.fromkeys(("train", self.options.test.split)):
                for path in (Path(data["root"], path) for kind in data[name].values() if kind for path in listed(kind)):
                    if not path.exists():
                        raise DataError(f"variant {variant.name}: data.{name}: there is no {path}")


def listed(value: Any) -> list[str]:
    """The file names among the values of a split: those of lists."""
    return value if isinstance(value, list) else []


def read_json(path: Path) -> Any:
    """The content of a JSON file, None where there is none, or where it is cut short."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
