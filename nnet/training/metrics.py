"""What a run leaves to be watched: metrics.jsonl, TensorBoard's files, the progress bar, and curves."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.anchors import AnchorTerms
from models.losses import LossTerms
from nnet.pictures import Panel, plot_panels

# As they are logged: the total is the loss. Those of keypoints, and of anchors.
LOSS_TERMS, ANCHOR_TERMS = (("loss", *terms._fields[1:]) for terms in (LossTerms, AnchorTerms))


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """A progress bar; a log file, which keeps every line of it, gets one in 20 seconds."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 20, **options)


class RunLog:
    """Rows of figures by iteration, in `folder`/metrics.jsonl and as TensorBoard scalars.

    start: the iteration that the run goes on from; rows after it, which a stopped run has left, are removed.
    terms: names of the loss terms.
    """

    def __init__(self, folder: Path, start: int, end: int, terms: Sequence[str] = LOSS_TERMS):
        self.terms = terms
        self.path = folder / "metrics.jsonl"
        self.kept = [row for row in read_metrics(self.path) if row["iteration"] <= start] if start else []
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in self.kept))
        os.replace(partial, self.path)
        self.file = self.path.open("a", buffering=1)
        if not start:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
        self.board = SummaryWriter(folder, purge_step=start + 1)
        self.bar = progress_bar(total=end, initial=start, desc=folder.name, unit="step")

    def before(self, name: str) -> dict[int, Any]:
        """What was logged under this name before the run went on, by iteration."""
        return {row["iteration"]: row[name] for row in self.kept if name in row}

    def row(self, iteration: int, **values: Any) -> None:
        """Log values of this iteration; None where there is none to log, or none that JSON has a number for."""
        # The gradient's norm, for one, is infinite where float16 has overflowed.
        values = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        try:
            self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        except OSError as error:  # a full disk is no reason to stop; the row is written with one that follows
            self.say(f"iteration {iteration}: not logged yet: {error}")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._show("scalar", name.replace("val_", "val/"), value, iteration)

    def losses(self, iteration: int, terms: list[list[float]], **more: float) -> None:
        """Log the loss terms, each a value per stack, and more; show them beside the bar."""
        means = {name: sum(values) / len(values) for name, values in zip(self.terms, terms, strict=True)}
        self.row(iteration, **means, **more)
        if len(terms[0]) > 1:
            for name, values in zip(self.terms, terms, strict=True):
                for stack, value in enumerate(values):
                    self._show("scalar", f"stack_{stack}/{name}", value, iteration)
        speed, wait = f"{more['images_per_second']:.1f}", f"{more['data_wait']:.0%}"
        self.show(means, lr=f"{more['lr']:.2g}", img_s=speed, wait=wait)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 BGR in TensorBoard."""
        self._show("image", name, image[:, :, ::-1].copy(), iteration, dataformats="HWC")

    def _show(self, kind: str, *values: Any, **options: Any) -> None:
        """Give something to TensorBoard, whose writer does not get over a full disk."""
        if self.board:
            try:
                getattr(self.board, f"add_{kind}")(*values, **options)
            except OSError as error:
                self.say(f"nothing more is written for TensorBoard, before --resume: {error}")
                self.board = None

    def step(self) -> None:
        """One more iteration is done."""
        self.bar.update()

    def show(self, values: dict[str, float], **more: str) -> None:
        """Loss terms and more beside the progress bar."""
        self.bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()} | more, refresh=False)

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        self.bar.write(text)

    def close(self) -> None:
        self.bar.close()
        for file in filter(None, (self.file, self.board)):
            with contextlib.suppress(OSError):  # a full disk, of which has been told
                file.close()


class NoLog:
    """What the processes beside the first have for a log: what has to be said goes to stderr."""

    def before(self, name: str) -> dict[int, Any]:
        return {}

    def row(self, iteration: int, **values: Any) -> None: ...
    def step(self) -> None: ...
    def losses(self, iteration: int, terms: list[list[float]], **more: float) -> None: ...
    def picture(self, iteration: int, name: str, image: np.ndarray) -> None: ...
    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    def close(self) -> None: ...


class Window:
    """What adds up between two rows of the log: the steps' loss terms and norms of the gradient, and time.

    The sums are kept in checkpoints, so that the rows of a resumed run are those of one that goes through; the times
    are this process's own.
    """

    def __init__(self, images: int, device: torch.device):
        """images: how many an iteration has."""
        self.images = images
        self.device = device
        self.clear()

    def clear(self) -> None:
        self.steps, self.terms, self.norm = 0, *torch.zeros(2, device=self.device)
        self.iterations, self.waited, self.begun = 0, 0.0, time.perf_counter()

    def add(self, terms: Tensor, norm: Tensor) -> None:
        """Add a step's loss terms (terms, stacks) and the norm of its gradient. Waits for no GPU."""
        self.steps, self.terms, self.norm = self.steps + 1, self.terms + terms, self.norm + norm

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What is done within is waiting for the data of an iteration."""
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun
        self.iterations += 1

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is no part of the training speed."""
        begun = time.perf_counter()
        yield
        self.begun += time.perf_counter() - begun

    def close(self, log: RunLog | NoLog, iteration: int, lr: float) -> None:
        """Log the means, unless no step was made, and begin anew."""
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
        """What a checkpoint keeps of it."""
        return {"steps": self.steps, "terms": self.terms, "norm": self.norm}

    def load(self, state: dict[str, Any]) -> None:
        self.steps, self.terms, self.norm = state["steps"], *(state[k].to(self.device) for k in ("terms", "norm"))


def peak_memory(device: torch.device) -> float:
    """Most memory that this process has had so far, in GB: of the GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a line that a crash has cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def draw_curves(folder: Path) -> Path | None:
    """Draw curves.png in `folder` from its metrics.jsonl: loss terms, validation loss and AP. None without rows."""
    rows = read_metrics(folder / "metrics.jsonl")

    def series(*names: str) -> dict[str, tuple[list, list]]:
        found = {name: [(row["iteration"], row[name]) for row in rows if row.get(name) is not None] for name in names}
        return {name: tuple(map(list, zip(*points, strict=True))) for name, points in found.items() if points}

    losses = series("loss", "val_loss")
    panels = [
        Panel(series(*LOSS_TERMS, *ANCHOR_TERMS[1:]), "training loss and its terms", "iteration", log_y=True, smooth=9),
        Panel(losses if "val_loss" in losses else {}, "training and validation loss", "iteration", log_y=True),
        Panel(series("val_AP", "val_AP50", "val_AP75"), "validation AP", "iteration"),
    ]
    panels = [panel for panel in panels if panel.series]
    if not panels:
        return None
    plot_panels(folder / "curves.png", panels)
    return folder / "curves.png"
