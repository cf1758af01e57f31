"""Loader workers: their errors reach the main process as they are, and they end with it."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from torch.utils.data import DataLoader, get_worker_info

from lit_cvit.data.tasks import Batch
from lit_cvit.utils.processes import end_with_parent

T = TypeVar("T")


class WorkerTrace(Exception):
    """Where an error was raised in a worker: the cause of the error in the main process."""


@dataclass(frozen=True)
class Failure:
    """What a worker sends in place of a batch that it could not make.

    torch would send the type of the error and a text with its whole stack trace, without its fields.

    Attributes:
        error: The error, which pickles.
        trace: Its stack trace in the worker.
    """

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Wrap the error that is being handled."""
        return cls(_portable(error), traceback.format_exc())


def in_worker(make: Callable[[], T]) -> T | Failure:
    """What is made, or in a loader worker the error in its place; elsewhere it is raised."""
    if get_worker_info() is None:
        return make()
    try:
        return make()
    except Exception as error:
        return Failure.of(error)


class BatchLoader(DataLoader[Batch]):
    """A loader of a data set that answers with `in_worker`: errors are those that it has without workers."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"worker_init_fn": end_with_parent, **settings})

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        """Batches.

        Raises:
            Exception: whatever a worker raised; its cause holds the worker's stack trace.
        """
        # A map, not a generator: the workers start here, as without it.
        return map(_delivered, super().__iter__())


def _delivered(found: Batch | Failure) -> Batch:
    if not isinstance(found, Failure):
        return found
    error, trace = found.error, found.trace
    try:
        raise error from WorkerTrace(f"in a loader worker:\n{trace}")
    finally:
        # The error holds this frame; a circle would keep the loader's workers until the next collection.
        del found, error


def _portable(error: Exception) -> Exception:
    """The error if it arrives whole in another process, or one of a plain kind with its message."""
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception as problem:  # reducing and building anew run the error's own code
        reason: object = problem
    else:
        if type(copy) is type(error) and str(copy) == str(error):
            return error
        reason = "it changes"
    for kind in (OSError, ValueError):
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"{type(error).__name__}: {error} (not sent as it is: {reason})")
