"""The one error this package raises for bad data on disk."""


class DataError(ValueError):
    """Annotations, images or results that cannot be used; the message names the file and what to do about it."""
