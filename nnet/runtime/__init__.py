"""What every script needs of its machine and process: devices, process group, signals, errors, checkpoints, console."""
