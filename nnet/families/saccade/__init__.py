"""CornerNet-Saccade as a family (Law, Teng, Russakovsky, Deng, "CornerNet-Lite", arXiv:1904.08900), as released.

In reading order: family, crops, locations, options.
"""
