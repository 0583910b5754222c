"""Errors that users meet. Each message names the item, what was found, what is allowed and the next step."""


class AtrError(Exception):
    """The data or the model is at fault (exit status 1)."""

    def __init__(self, message: str) -> None:
        # An error in a worker of the loader arrives as text with a traceback in front of the message.
        super().__init__(message.rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip())


class DataError(AtrError):
    """A shard, a clip or a caption cannot be used."""


class CheckpointError(AtrError):
    """A file that should hold a model does not."""


class UsageError(AtrError):
    """The command or the configuration is wrong (exit status 2)."""
