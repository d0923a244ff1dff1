"""Measurements, each a command that prints the table that docs/ keeps."""
