"""Networks, losses and decoding; nothing here knows of data on disk or of sampling.

In reading order: layers, hourglass, corner_pooling, keypoints, cornernet, losses, decode; then squeeze, fpn,
backbones, centernet, saccade, anchors, standard_ops, cost.
"""
