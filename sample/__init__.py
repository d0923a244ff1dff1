"""From an annotated image to a training batch and its targets.

In reading order: geometry, augment, colour, dataset, order, batch, loader, targets; then saccade and statistics.
"""
