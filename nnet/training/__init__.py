"""Training a network.

In reading order: trainer, step; then data, start, folder, snapshots, metrics, validation, monitoring, faults, average,
options; and cost, which counts parameters and operations.
"""
