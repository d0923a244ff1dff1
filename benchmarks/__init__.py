"""Benchmarks. Each is a command that prints a table of docs/. Read measure.py first, then `__main__.py`. peers/
compares whole detectors."""
