"""Pictures and charts.

In reading order: images, boxes, heatmaps, charts; pictures/, what test.py draws; detected, output and video, what
detect.py writes; browse, a sheet of training samples.
"""
