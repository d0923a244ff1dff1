"""From images to detections with a trained network.

In reading order: detector, suppression, pipeline, images, loading; then inputs and sources, the images of users.
"""
