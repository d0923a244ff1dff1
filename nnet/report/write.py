"""Everything that a page needs, written into its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nnet.analysis.bootstrap import RESAMPLES
from nnet.detection.detector import Detector
from nnet.report.compare import compare
from nnet.report.gallery import write_heatmaps, write_pictures
from nnet.report.page import write_page
from nnet.report.runs import Run
from nnet.runtime.files import make_folder

HEATMAPS = 24  # number of images that have heatmaps


def write_report(
    folder: Path,
    runs: Sequence[Run],
    detectors: Sequence[Detector | None],
    heatmaps: int = HEATMAPS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Path:
    """Write the page about one run or two, and its pictures. Returns the path of the page.

    Args:
        detectors: of each run, for its heatmaps, None for none.
        heatmaps: the number of images that have them, those with the most errors.
        resamples, seed: of the intervals, see bootstrap.paired_bootstrap.

    Raises:
        DataError: the folder cannot be written to.
    """
    make_folder(folder)
    images = write_pictures(runs[0], folder)
    layers = []
    for n, (run, detector) in enumerate(zip(runs, detectors, strict=True)):
        layers.append(write_heatmaps(run, detector, heatmaps, folder, f"{n}_") if detector else {})
    differences = compare(*runs, resamples, seed) if len(runs) == 2 else None
    path = folder / "index.html"
    write_page(path, runs, images, layers, differences)
    return path
