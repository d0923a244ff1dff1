"""What a run leaves to be watched: metrics.jsonl, TensorBoard's files, the progress bar, and curves."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from nnet.pictures import Panel, plot_panels

LOSS_TERMS = ("loss", "focal", "pull", "push", "offset")


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """A progress bar; a log file, which keeps every line of it, gets one in 20 seconds."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 20, **options)


class RunLog:
    """Rows of figures by iteration, in `folder`/metrics.jsonl and as TensorBoard scalars.

    start: the iteration that the run goes on from; rows after it, which a stopped run has left, are removed.
    """

    def __init__(self, folder: Path, start: int, end: int):
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["iteration"] <= start] if start else []
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(partial, self.path)
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(folder, purge_step=start + 1 if start else None)
        self.bar = progress_bar(total=end, initial=start, desc=folder.name, unit="step")

    def row(self, iteration: int, **values: Any) -> None:
        """Log values of this iteration; None where there is none to log."""
        self.file.write(json.dumps({"iteration": iteration, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self.board.add_scalar(name.replace("val_", "val/"), value, iteration)

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
        self.file.close()
        self.board.close()


class NoLog:
    """What the processes beside the first have for a log."""

    def row(self, iteration: int, **values: Any) -> None: ...
    def step(self) -> None: ...
    def show(self, values: dict[str, float], **more: str) -> None: ...
    def say(self, text: str) -> None: ...
    def close(self) -> None: ...


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a crash has cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def draw_curves(folder: Path) -> Path | None:
    """Draw curves.png in `folder` from its metrics.jsonl: loss terms, validation loss and AP. None without rows."""
    rows = read_metrics(folder / "metrics.jsonl")

    def series(*names: str) -> dict[str, tuple[list, list]]:
        found = {name: [(row["iteration"], row[name]) for row in rows if row.get(name) is not None] for name in names}
        return {name: tuple(map(list, zip(*points, strict=True))) for name, points in found.items() if points}

    losses = series("loss", "val_loss")
    panels = [
        Panel(series(*LOSS_TERMS), "training loss and its terms", "iteration", log_y=True, smooth=9),
        Panel(losses if "val_loss" in losses else {}, "training and validation loss", "iteration", log_y=True),
        Panel(series("val_AP", "val_AP50", "val_AP75"), "validation AP", "iteration"),
    ]
    panels = [panel for panel in panels if panel.series]
    if not panels:
        return None
    plot_panels(folder / "curves.png", panels)
    return folder / "curves.png"
