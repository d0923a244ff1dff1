"""What a run records: metrics.jsonl, TensorBoard files, the progress bar, and curves."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from db.files import write_text
from nnet.drawing.charts import Panel, plot_panels
from nnet.drawing.images import drawable
from nnet.runtime.console import progress_bar
from nnet.training.step import Update

logger = logging.getLogger(__name__)

# Columns of metrics.jsonl that are not loss terms
BOOKKEEPING = ("iteration", "lr", "images_per_second", "data_wait", "memory_gb", "gradient_norm")


class MetricsLog:
    """Rows of figures by iteration, in `folder`/metrics.jsonl and as TensorBoard scalars, and the progress bar."""

    def __init__(self, folder: Path, start: int, end: int, terms: Sequence[str]):
        """start: the iteration that the run continues from; later rows, of a run that was stopped, are removed.

        end: the last iteration. terms: names of the loss terms.
        """
        self.terms = terms
        self.path = folder / "metrics.jsonl"
        self.earlier = [row for row in read_metrics(self.path) if row["iteration"] <= start] if start else []
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.earlier))
        self.file = self.path.open("a", buffering=1)
        if not start:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        try:
            self.board = SummaryWriter(folder, purge_step=start + 1)
        except UnicodeEncodeError:
            logger.warning("no TensorBoard files in %s: they need a folder whose name is UTF-8", folder)
            self.board = None
        self.bar = progress_bar(total=end, initial=start, desc=folder.name, unit="step")

    def logged(self, name: str) -> dict[int, Any]:
        """What was logged under this name before the run was resumed, by iteration."""
        return {row["iteration"]: row[name] for row in self.earlier if name in row}

    def row(self, iteration: int, **values: Any) -> None:
        """Log values of this iteration. Values that are not finite are logged as None."""
        # The norm of the gradient, for example, is infinite where float16 has overflowed.
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        except OSError as error:  # a full disk does not stop the run; the row is written together with a later one
            logger.warning("iteration %d: not logged yet: %s", iteration, error)
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._show("scalar", name.replace("val_", "val/"), value, iteration)

    def losses(self, iteration: int, terms: list[list[float]], **more: float) -> None:
        """Log the loss terms, each a value per stack, and further figures. Show them beside the progress bar."""
        means = {name: sum(values) / len(values) for name, values in zip(self.terms, terms, strict=True)}
        self.row(iteration, **means, **more)
        if len(terms[0]) > 1:
            for name, values in zip(self.terms, terms, strict=True):
                for stack, value in enumerate(values):
                    self._show("scalar", f"stack_{stack}/{name}", value, iteration)
        speed, wait = f"{more['images_per_second']:.1f}", f"{more['data_wait']:.0%}"
        shown = {name: f"{value:.3g}" for name, value in means.items()}
        self.bar.set_postfix(shown | {"lr": f"{more['lr']:.2g}", "img_s": speed, "wait": wait}, refresh=False)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 BGR in TensorBoard."""
        self._show("image", drawable(name), image[:, :, ::-1].copy(), iteration, dataformats="HWC")

    def _show(self, kind: str, *values: Any, **options: Any) -> None:
        """Pass something to TensorBoard, whose writer cannot recover from a full disk."""
        if self.board:
            try:
                getattr(self.board, f"add_{kind}")(*values, **options)
            except OSError as error:
                logger.warning("TensorBoard files are not written any more until --resume: %s", error)
                self.board = None

    def step(self) -> None:
        """Advance the progress bar by one iteration."""
        self.bar.update()

    def close(self) -> None:
        self.bar.close()
        for file in filter(None, (self.file, self.board)):
            with contextlib.suppress(OSError):  # a full disk, which was reported
                file.close()


class NoLog:
    """The log of the non-zero ranks: nothing."""

    def logged(self, name: str) -> dict[int, Any]:
        return {}

    def row(self, iteration: int, **values: Any) -> None: ...
    def losses(self, iteration: int, terms: list[list[float]], **more: float) -> None: ...
    def picture(self, iteration: int, name: str, image: np.ndarray) -> None: ...
    def step(self) -> None: ...
    def close(self) -> None: ...


class Window:
    """Sums between two rows of the log: loss terms, norms of the gradient, and times.

    Checkpoints store the sums, so a resumed run logs the same rows as one that was not stopped. The times are this
    process's own.
    """

    def __init__(self, images: int, device: torch.device):
        """images: number of images per iteration."""
        self.images = images
        self.device = device
        self.clear()

    def clear(self) -> None:
        """Start a new row."""
        self.steps, self.terms, self.norm = 0, *torch.zeros(2, device=self.device)
        self.iterations, self.waited, self.begun = 0, 0.0, time.perf_counter()

    def add(self, update: Update) -> None:
        """Add an update. The host waits for no GPU."""
        self.steps, self.terms, self.norm = self.steps + 1, self.terms + update.terms, self.norm + update.norm

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The time within the block is spent waiting for the data of an iteration."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun
        self.iterations += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time within the block does not count for the training speed."""
        begun = time.perf_counter()
        yield
        self.begun += time.perf_counter() - begun

    def log_to(self, log: MetricsLog | NoLog, iteration: int, lr: float) -> None:
        """Log the means, unless no update was made, and start a new row."""
        seconds = time.perf_counter() - self.begun
        if self.steps:
            log.losses(
                iteration,
                (self.terms / self.steps).tolist(),
                lr=lr,
                images_per_second=self.iterations * self.images / seconds,
                data_wait=self.waited / seconds,
                memory_gb=peak_memory(self.device),
                gradient_norm=float(self.norm) / self.steps,
            )
        self.clear()

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"steps": self.steps, "terms": self.terms, "norm": self.norm}

    def load(self, state: dict[str, Any]) -> None:
        self.steps, self.terms, self.norm = state["steps"], *(state[k].to(self.device) for k in ("terms", "norm"))


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process so far in GB: GPU memory on CUDA, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl. A line that a crash has truncated is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def draw_curves(folder: Path) -> Path | None:
    """Draw `folder`/curves.png from its metrics.jsonl: loss terms, validation loss and AP. None without rows."""
    panels = curve_panels(read_metrics(folder / "metrics.jsonl"))
    if not panels:
        return None
    plot_panels(folder / "curves.png", panels)
    return folder / "curves.png"


def curve_panels(rows: Sequence[dict[str, Any]]) -> list[Panel]:
    """The charts of the rows of a metrics.jsonl, those that have data."""

    def series(*names: str) -> dict[str, tuple[list, list]]:
        found = {name: [(row["iteration"], row[name]) for row in rows if row.get(name) is not None] for name in names}
        return {name: tuple(map(list, zip(*points, strict=True))) for name, points in found.items() if points}

    terms = dict.fromkeys(k for row in rows if "loss" in row for k in row if k not in BOOKKEEPING)
    losses = series("loss", "val_loss")
    panels = [
        Panel(series(*terms), "training loss and its terms", "iteration", log_y=True, smooth=9),
        Panel(losses if "val_loss" in losses else {}, "training and validation loss", "iteration", log_y=True),
        Panel(series("val_AP", "val_AP50", "val_AP75"), "validation AP", "iteration"),
    ]
    return [panel for panel in panels if panel.series]
