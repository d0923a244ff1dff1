"""Running a network: training state, checkpoints, inference, pictures."""
