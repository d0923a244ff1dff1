"""Compiled code: corner pooling and the focal loss (C++, CUDA) and soft-NMS (C). Imports no other package of the
repository. Read native.py first, then a package's `__init__.py`, then its sources.
"""
