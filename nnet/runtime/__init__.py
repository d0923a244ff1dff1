"""What every script needs of its machine and process.

In reading order: options, devices, threads, precision, distributed, signals, errors, console, checkpoint; then
contents, released_names, upgrading, exported, files, memory, background, transfer, timing, discovery.
"""
