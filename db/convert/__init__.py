"""Conversion of data sets in other formats to COCO's: `python -m db.convert voc|yolo ...`.

A format is a class with the interface of base.Source, and a line in __main__.py. In reading order: base, voc, yolo,
write.
"""
