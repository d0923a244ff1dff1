"""From images to detections with a trained network.

In reading order: detector, suppression, images, loading; then inputs and sources, the images of users.
"""
