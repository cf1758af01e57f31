"""Errors that carry an exit status for the command line."""

from __future__ import annotations


class CleanExit(ValueError):
    """A user's error that ends a verb with a certain exit status.

    Args:
        message: What is wrong and what to do about it.
        status: Exit status; 2 means wrong usage.
    """

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
