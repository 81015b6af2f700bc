"""The few errors that people meet. Each is one clear line, and knows the exit code of the command line."""

from __future__ import annotations


class PhonofilmError(Exception):
    """Something went wrong that the reader of the message can understand. Exit code 1."""

    exit_code = 1


class InputError(PhonofilmError, ValueError):
    """What was asked for is impossible: the message names the value and what is allowed. Exit code 2.

    field: the part of a request that it is about, where one is to blame.
    """

    exit_code = 2

    def __init__(self, message: str = "", field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class MediaError(InputError):
    """A media file that cannot or must not be read."""


class CheckpointError(InputError):
    """Weights or a training state that are truncated, altered, or of another kind."""


class OutputError(PhonofilmError):
    """A result could not be written (full disk, no permission); nothing half-made is left behind."""


class Cancelled(PhonofilmError):
    """The work was stopped at somebody's wish."""

    exit_code = 130
