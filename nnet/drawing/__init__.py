"""Pictures and charts. In reading order: images, boxes, heatmaps, charts; then pictures/, what test.py draws."""
