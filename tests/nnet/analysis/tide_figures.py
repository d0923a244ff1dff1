"""Adds the figures of the package tidecv to files with annotations and detections, for test_tide.py:

pip install tidecv
python tests/nnet/analysis/tide_figures.py FILE ...

Run it in an environment of its own; it needs nothing of this repository. The figures were made with tidecv 1.0.1.
"""

import json
import sys
from pathlib import Path

from tidecv import TIDE, Data


def figures(content: dict) -> dict:
    """AP50, and by kind of error the number and the gain in AP50, in percent."""
    truth, found = Data("truth"), Data("found")
    for image in content["images"]:
        truth.add_image(image["id"], str(image["id"]))
    for entry in content["annotations"]:
        add = truth.add_ignore_region if entry["iscrowd"] else truth.add_ground_truth
        add(entry["image_id"], entry["category_id"], entry["bbox"])
    for result in content["results"]:
        found.add_detection(result["image_id"], result["category_id"], result["score"], result["bbox"])
    run = TIDE().evaluate(truth, found, mode=TIDE.BOX)
    counts = {error.short_name: number for error, number in run.count_errors().items()}
    costs = {error.short_name: gain for error, gain in run.fix_main_errors().items()}
    return {"AP50": run.ap, "kinds": {name: [counts[name], costs[name]] for name in counts}}


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        content = json.loads(path.read_text())
        content["tidecv"] = figures(content)
        path.write_text(json.dumps(content, separators=(",", ":")) + "\n")
        print(path, content["tidecv"])
