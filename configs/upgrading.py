"""Configs that older versions stored in checkpoints and results, in today's names."""

from __future__ import annotations

from typing import Any

BACKBONE = ("stacks", "stem_width", "widths", "blocks")  # were options of `model:`
RUNTIME = ("device", "threads", "tf32", "collective_timeout")  # were options of `train:`
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
    """The `model:` section of a config that has no detector."""
    model = {name: value for name, value in old.items() if name not in (*BACKBONE, *CENTERNET, "backbone", "head")}
    hourglass = {name: old[name] for name in BACKBONE if name in old}
    backbone = old.get("backbone", "hourglass")
    if not isinstance(backbone, str):
        return old
    if backbone.startswith("resnet"):  # resnet101_fpn
        depth = int(backbone.removeprefix("resnet").removesuffix("_fpn"))
        width = {"width": old["widths"][0]} if "widths" in old else {}
        nested = {"name": "resnet_fpn", "depth": depth, **width}
    else:
        nested = {"name": backbone, **hourglass}
    if old.get("head") == "anchors":
        keypoints = ("pool_width", "corner_pooling")
        return {"detector": "anchors", "backbone": nested} | {k: v for k, v in model.items() if k not in keypoints}
    if any(old.get(name) for name in CENTERNET):
        parts = {name: old.get(name, False) for name in CENTERNET}
        return {"detector": "centernet", "backbone": nested, **model, **parts}
    return {"detector": "cornernet", "backbone": nested, **model}
