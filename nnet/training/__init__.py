"""Training a network. In reading order: trainer, step; then start, folder, snapshots, metrics, validation, faults."""
