"""Detectors of torchvision and of this repository, trained from scratch on the same images for the same time.

`python -m benchmarks.peers` is the command. In reading order: models, contest, tables.
"""
