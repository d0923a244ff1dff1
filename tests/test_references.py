"""References to the papers: every section, table, figure and equation that code and pages name, checked by hand.

REFERENCES lists them by file. A new reference is looked up in the paper, and added there.
"""

from __future__ import annotations

import re

import pytest

# What the papers have. Each was looked up in CornerNet (IJCV 2019) and in CenterNet (ICCV 2019).
CORNERNET = {
    "Section 3": "CornerNet",
    "Section 3.2": "Detecting Corners: heatmaps, penalty radius, focal loss, offsets",
    "Section 3.3": "Grouping Corners: embeddings, pull and push",
    "Section 3.4": "Corner Pooling, prediction module",
    "Section 3.5": "Hourglass Network, intermediate supervision",
    "Section 4.1": "Training Details: initialisation, augmentation, loss weights, batch, iterations",
    "Section 4.2": "Testing Details, inference time",
    "Section 4.4": "Ablation Study",
    "Section 4.4.3": "Reducing Penalty to Negative Locations",
    "Section 4.4.4": "Hourglass Network: FPN, anchors",
    "Section 4.4.6": "Error Analysis: ground-truth heatmaps and offsets",
    "Equation 1": "focal loss",
    "Equation 2": "offset",
    "Equation 3": "offset loss",
    "Equation 4": "pull",
    "Equation 5": "push",
    "Equation 6": "corner pooling, vertical",
    "Equation 7": "corner pooling, horizontal",
    "Equation 8": "full training loss",
    "Table 1": "corner pooling",
    "Table 2": "reducing the penalty",
    "Table 3": "AP of corners by quadrant",
    "Table 4": "FPN, anchors, hourglass",
    "Table 5": "AP at high IoUs",
    "Table 6": "ground truth in place of predictions",
    "Table 7": "test-dev",
    "Figure 4": "overview of the network",
    "Figure 5": "boxes whose corners are within the radii",
    "Figure 7": "prediction module",
    "Figure 8": "with and without corner pooling",
    "Figure 9": "wrong corners and wrong pairings",
    "Figure 10": "boxes over heatmaps of corners",
    "Figure 11": "examples",
}
CENTERNET = {
    "Section 3": "Our Approach",
    "Section 3.1": "Baseline and Motivation: false discovery rates",
    "Section 3.2": "Object Detection as Keypoint Triplets: centers, central region",
    "Section 3.3": "Enriching Center and Corner Information: center pooling, cascade corner pooling",
    "Section 3.4": "Training and Inference",
    "Section 4.2": "Comparisons with State-of-the-art Detectors",
    "Section 4.4": "Inference Speed",
    "Section 4.5": "Ablation Study",
    "Section 4.6": "Error Analysis",
    "Equation 1": "central region",
    "Table 1": "false discovery rates of CornerNet",
    "Table 2": "test-dev",
    "Table 3": "false discovery rates of CornerNet and CenterNet",
    "Table 4": "ablation of the three parts",
    "Table 5": "ground-truth centers",
    "Figure 4": "center pooling, corner pooling, cascade corner pooling",
    "Figure 5": "center pooling module, cascade top corner pooling module",
}
REFERENCES = """
configs/centernet_hg104.yaml | CenterNet | Table 2, Table 5
configs/centernet_hg104_multiscale.yaml | CenterNet | Table 2
configs/centernet_hg52.yaml | CenterNet | Table 2, Table 4
configs/centernet_hg52_cascade.yaml | CenterNet | Table 4
configs/centernet_hg52_corners.yaml | CenterNet | Table 4
configs/centernet_hg52_multiscale.yaml | CenterNet | Table 2
configs/centernet_hg52_regions.yaml | CenterNet | Table 4
configs/centernet_hg52_regions_pooling.yaml | CenterNet | Table 4
configs/cornernet_2018_hg104.yaml | CenterNet | Table 1, Table 2, Table 3
configs/cornernet_2018_hg104_multiscale.yaml | CenterNet | Table 2
configs/cornernet_2018_hg52.yaml | CenterNet | Table 2, Table 3
configs/cornernet_2018_hg52_multiscale.yaml | CenterNet | Table 2
configs/cornernet_hg104.yaml | CornerNet | Section 4.1, Table 7
configs/cornernet_hg104_ablation.yaml | CornerNet | Section 4.4, Table 1, Table 2, Table 4
configs/cornernet_hg104_fixed_radius.yaml | CornerNet | Table 2
configs/cornernet_hg104_multiscale.yaml | CornerNet | Table 7
configs/cornernet_hg104_no_penalty_reduction.yaml | CornerNet | Table 2
configs/cornernet_hg104_no_pooling.yaml | CornerNet | Table 1
configs/fpn_corners.yaml | CornerNet | Table 4
configs/hourglass_anchors.yaml | CornerNet | Table 4
configs/published/centernet.yaml | CenterNet | Section 4.4, Section 4.5, Table 1, Table 2, Table 3, Table 4, Table 5
configs/published/cornernet.yaml | CornerNet | Section 4.2, Table 1, Table 2, Table 3, Table 4
configs/published/cornernet.yaml | CornerNet | Table 5, Table 6, Table 7
configs/studies/centernet_baselines.yaml | CenterNet | Table 1, Table 2, Table 3
configs/studies/centernet_parts.yaml | CenterNet | Table 4
configs/studies/cornernet_backbone.yaml | CornerNet | Table 4
configs/studies/cornernet_penalty.yaml | CornerNet | Table 2
configs/studies/cornernet_pooling.yaml | CornerNet | Table 1, Table 3
configs/studies/cornernet_statements.yaml | CornerNet | Section 3.5, Section 4.1
db/evaluation.py | CenterNet | Section 3.1, Table 1, Table 3
docs/ablations.md | CornerNet | Table 1, Table 2
docs/ablations.md | CenterNet | Section 4.4, Table 3, Table 4, Table 5
docs/commands.md | CornerNet | Figure 5, Figure 9, Figure 10, Table 3
docs/configs.md | CornerNet | Table 1, Table 2, Table 4
docs/configs.md | CenterNet | Table 4
docs/differences.md | CornerNet | Section 3.2, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7
docs/differences.md | CenterNet | Section 3.4, Table 1, Table 2, Table 3, Table 4, Table 5
docs/extending.md | CornerNet | Equation 5
docs/native.md | CornerNet | Equation 1
docs/published.md | CornerNet | Section 3.5, Section 4.1, Section 4.2, Figure 5, Figure 8, Figure 9
docs/published.md | CornerNet | Figure 10, Figure 11
docs/published.md | CornerNet | Table 1, Table 2, Table 3, Table 4, Table 5, Table 6, Table 7
docs/published.md | CenterNet | Section 3.2, Section 4.4, Table 1, Table 2, Table 3, Table 4, Table 5
docs/studies.md | CornerNet | Table 1, Table 2, Table 4
docs/studies.md | CenterNet | Table 1, Table 3, Table 4
external/corner_pool/__init__.py | CornerNet | Section 3.4, Equation 6, Equation 7
external/corner_pool/__init__.py | CenterNet | Section 3.3
external/focal_loss/__init__.py | CornerNet | Section 3.2, Equation 1
external/focal_loss/csrc/terms.h | CornerNet | Equation 1
models/anchors.py | CornerNet | Section 4.4.4
models/centernet.py | CenterNet | Section 3, Section 3.2, Section 3.3, Table 4
models/corner_pooling.py | CornerNet | Equation 6, Equation 7, Figure 7, Table 1
models/corner_pooling.py | CenterNet | Section 3.3, Figure 5
models/cornernet.py | CornerNet | Section 3.5, Figure 4, Table 1
models/decode.py | CornerNet | Section 4.2
models/decode.py | CenterNet | Section 3.2
models/fpn.py | CornerNet | Section 4.4.4
models/hourglass.py | CornerNet | Section 3.5
models/keypoints.py | CornerNet | Section 3.5, Equation 2
models/layers.py | CornerNet | Section 4.1, Figure 7
models/losses.py | CornerNet | Section 3, Equation 1, Equation 3, Equation 4, Equation 5, Equation 8
models/standard_ops.py | CenterNet | Equation 1
nnet/analysis/corners.py | CornerNet | Section 3.2, Table 3
nnet/analysis/errors.py | CornerNet | Figure 9
nnet/detection/detector.py | CornerNet | Section 4.2
nnet/drawing/pictures/beside.py | CornerNet | Figure 8
nnet/drawing/pictures/errors.py | CornerNet | Figure 9
nnet/drawing/pictures/heatmaps.py | CornerNet | Figure 10
nnet/drawing/pictures/row.py | CornerNet | Figure 11
nnet/drawing/pictures/targets.py | CornerNet | Figure 5
nnet/families/anchors.py | CornerNet | Section 4.4.4
nnet/families/centernet.py | CenterNet | Equation 1
nnet/families/ground_truth.py | CornerNet | Section 4.4.6
nnet/families/options.py | CornerNet | Section 4.2
nnet/families/options.py | CenterNet | Section 3.2
nnet/report/page.py | CornerNet | Figure 9
nnet/training/options.py | CornerNet | Section 4.1
sample/augment.py | CornerNet | Section 4.1
sample/targets.py | CornerNet | Section 3.2, Section 4.4.3
sample/targets.py | CenterNet | Section 3.2
tests/configs/test_configs.py | CenterNet | Table 4
tests/external/test_focal_loss.py | CornerNet | Equation 1
tests/models/test_centernet.py | CenterNet | Table 4, Figure 4
tests/nnet/report/test_report.py | CornerNet | Table 5
"""
NOT_LISTED = {
    "nnet/analysis/tide.py",  # names another paper
    "tests/nnet/analysis/test_tables.py",  # expects the titles of tables
    "tests/test_references.py",
}
NUMBER = r"\d+(?:\.\d+)*"
REFERENCE = re.compile(
    rf"\b(section|table|equation|figure|fig\.)s?\s+({NUMBER}[a-c]?(?:(?:, | and | to |, and ){NUMBER}(?![\d%]))*)", re.I
)


def references(text: str) -> set[str]:
    """The references of a text, such as "Table 2", also those that a line break or a comment's mark divides."""
    text = re.sub(r"\n\s*(?:#|//)?\s*", " ", text)
    kinds = {"fig.": "Figure"}
    found = (
        (kinds.get(m[1].lower(), m[1].capitalize()), n)
        for m in REFERENCE.finditer(text)
        for n in re.findall(NUMBER, m[2])
    )
    return {f"{kind} {number}" for kind, number in found}


def listed() -> dict[str, set[str]]:
    """The references of each file in REFERENCES."""
    files: dict[str, set[str]] = {}
    for line in REFERENCES.strip().splitlines():
        path, _, names = line.split(" | ")
        files.setdefault(path, set()).update(names.split(", "))
    return files


@pytest.mark.parametrize("path", listed())
def test_every_reference_is_listed(repository, path):
    assert references((repository / path).read_text()) == listed()[path]


def test_the_papers_have_what_is_listed():
    for line in REFERENCES.strip().splitlines():
        _, paper, names = line.split(" | ")
        assert set(names.split(", ")) <= {"CornerNet": CORNERNET, "CenterNet": CENTERNET}[paper].keys(), line


def test_every_file_with_references_is_listed(repository, shipped):
    """Of the files of this repository; those that a user has added are not looked at."""
    endings = (".py", ".md", ".yaml", ".c", ".h", ".cpp", ".cu")
    found = {path for path in shipped if path.endswith(endings) and references((repository / path).read_text())}
    assert found - NOT_LISTED == listed().keys()
