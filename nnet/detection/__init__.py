"""From images to detections with a trained network. In reading order: detector, suppression, images, loading."""
