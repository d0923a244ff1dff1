"""Parameter names of the released checkpoints, and their names here.

A released checkpoint is a pickled state dict whose names begin with `module.`: pre = stem; kps.S = hourglass of stack S
with up1 (skip), low1 (down), low2 (inner), low3 (up), up2 (upsample); cnvs = features; inters_, cnvs_, inters = the
layers between two stacks; tl_cnvs, br_cnvs, ct_cnvs = prediction modules; *_heats, *_tags, *_regrs = heads.
CornerNet-Lite has other names for the same parts, see LITE; its att_modules are CornerNet-Saccade's attention heads.
"""

import re

KEYPOINTS = {"tl": "top_left", "br": "bottom_right", "ct": "center"}
HEADS = {"heats": "heatmap", "tags": "embedding", "regrs": "offset"}
HOURGLASS = {"up1": "skip", "low1": "down", "low2": "inner", "low3": "up", "up2": "upsample"}
MODULE = {
    "p1_conv1": "first",
    "p2_conv1": "second",
    "p_conv1": "conv",
    "p_bn1": "bn",
    "conv1": "skip.0",
    "bn1": "skip.1",
    "conv2": "out",
    # Cascade corner pooling: the block that looks inside the object, and the convolution that joins both
    "look_conv1": "first.look",
    "P1_look_conv": "first.join",
    "look_conv2": "second.look",
    "P2_look_conv": "second.join",
}
BACKBONE = {"pre": "stem", "cnvs": "features", "inters_": "from_input", "cnvs_": "from_features", "inters": "merge"}
# Names of CornerNet-Lite -> names of the release before it: replacements in this order
LITE = (("hg.hgs.", "kps."), ("hg.", ""), ("_modules.", "_cnvs."), ("_offs.", "_regrs."))


def rename(name: str) -> str:
    """The name here of a released parameter or buffer. Other names are returned without a leading `module.`."""
    given = name = name.removeprefix("module.")
    for lite, before in LITE:
        name = name.replace(lite, before)
    if m := re.fullmatch(r"kps\.(\d+)\.(.+)", name):
        stack, path = m.groups()
        return ".".join(["backbone.hourglasses", stack, *(HOURGLASS.get(p, p) for p in path.split("."))])
    if m := re.fullmatch(r"(tl|br|ct)_cnvs\.(\d+)\.(\w+)\.(.+)", name):
        kind, stack, part, rest = m.groups()
        return f"branches.{KEYPOINTS[kind]}.{stack}.module.{MODULE.get(part, part)}.{rest}"
    if m := re.fullmatch(r"(tl|br|ct)_(heats|tags|regrs)\.(\d+)\.(0\.conv|1)\.(weight|bias)", name):
        kind, head, stack, conv, rest = m.groups()
        return f"branches.{KEYPOINTS[kind]}.{stack}.{HEADS[head]}.{0 if conv == '0.conv' else 2}.{rest}"
    if m := re.fullmatch(r"att_cnvs\.(\d+\.\d+)\.(0\.conv|1)\.(weight|bias)", name):
        level, conv, rest = m.groups()
        return f"attention.{level}.{0 if conv == '0.conv' else 2}.{rest}"
    first, _, rest = name.partition(".")
    return f"backbone.{BACKBONE[first]}.{rest}" if first in BACKBONE else given
