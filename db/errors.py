"""The error for bad data on disk."""


class DataError(ValueError):
    """Annotations, images or results that cannot be used. The message names the file and says what to do about it."""
