"""What every script needs of its machine and process.

In reading order: options, devices, threads, precision, distributed, signals, errors, console, checkpoint; then
released_names, upgrading, files, background, transfer, timing, discovery.
"""
