"""From images to detections with a trained network.

In reading order: detector, suppression, pipeline, images, loading, warnings; then inputs and sources, the
images of users.
"""
