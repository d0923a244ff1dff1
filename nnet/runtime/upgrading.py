"""Configs that older versions stored in checkpoints and results, in today's names."""

from __future__ import annotations

from typing import Any

BACKBONE = ("stacks", "stem_width", "widths", "blocks")  # were options of `model:`
RUNTIME = ("device", "threads", "tf32", "collective_timeout")  # were options of `train:`
DEPTHS = {"resnet101_fpn": 101, "resnet18_fpn": 18}  # values of model.backbone, which was a name
CENTERNET = ("center_keypoints", "center_pooling", "cascade_corner_pooling")


def upgrade(values: dict[str, Any]) -> dict[str, Any]:
    """A stored config in today's structure. One that has it already comes back as it is.

    CenterNet's three parts were options of one detector; with none of them it was CornerNet.
    """
    values = dict(values)
    model, train = values.get("model"), values.get("train")
    if isinstance(model, dict) and "detector" not in model:
        values["model"] = upgrade_model(model)
    if isinstance(train, dict) and "runtime" not in values and any(name in train for name in RUNTIME):
        values["train"] = {name: value for name, value in train.items() if name not in RUNTIME}
        values["runtime"] = {name: train[name] for name in RUNTIME if name in train}
    return values


def upgrade_model(old: dict[str, Any]) -> dict[str, Any]:
    """The `model:` section of a config without model.detector."""
    name = old.get("backbone", "hourglass")
    if not isinstance(name, str):
        return old
    if name in DEPTHS:
        backbone = {"name": "resnet_fpn", "depth": DEPTHS[name]}
        backbone |= {"width": old["widths"][0]} if "widths" in old else {}
    else:
        backbone = {"name": name} | {option: old[option] for option in BACKBONE if option in old}
    anchors = old.get("head") == "anchors"
    detector = "anchors" if anchors else "centernet" if any(old.get(part) for part in CENTERNET) else "cornernet"
    moved = {*BACKBONE, *CENTERNET, "backbone", "head", *(("pool_width", "corner_pooling") if anchors else ())}
    model = {"detector": detector, "backbone": backbone}
    model |= {option: value for option, value in old.items() if option not in moved}
    return model | ({part: old.get(part, False) for part in CENTERNET} if detector == "centernet" else {})
