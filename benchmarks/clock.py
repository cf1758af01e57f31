"""Takes the time of functions of a real run while it runs: by optimizer step, and in all.

A function's seconds are those between its call and its return, so a part within another one counts in both.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from types import ModuleType
from typing import Any
from unittest import mock

from rounds import synchronise

Functions = Mapping[str, Sequence[tuple[type | ModuleType, str]]]
"""Methods of classes and functions of modules, by the part of a run that they are."""


class Clock:
    """Seconds of functions.

    Args:
        device: Waited for before a time is taken, if it is a GPU.

    Attributes:
        steps: Of every micro-batch, from fetching it to the end of its hooks.
        in_steps: Of each part within every one of them.
        totals: Of each part in all.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.steps: list[float] = []
        self.in_steps: dict[str, list[float]] = {}
        self.totals: dict[str, float] = {}
        self._before: dict[str, float] = {}

    @contextlib.contextmanager
    def watching(self, functions: Functions) -> Iterator[None]:
        """Take the time of functions inside the block."""
        # Not above: a script that takes the time of imports imports this first.
        from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

        self.totals = dict.fromkeys(functions, 0.0)
        self.in_steps = {name: [] for name in functions}
        self._before = dict(self.totals)
        with contextlib.ExitStack() as stack:
            for part, places in functions.items():
                for owner, name in places:
                    timed = self._timed(vars(owner)[name], self._adds(part))
                    stack.enter_context(mock.patch.object(owner, name, timed))
            step = self._timed(_TrainingEpochLoop.advance, self._end_step, self._begin_step)
            stack.enter_context(mock.patch.object(_TrainingEpochLoop, "advance", step))
            yield

    def _adds(self, part: str) -> Callable[[float], None]:
        def add(seconds: float) -> None:
            self.totals[part] += seconds

        return add

    def _begin_step(self) -> None:
        self._before = dict(self.totals)

    def _end_step(self, seconds: float) -> None:
        self.steps.append(seconds)
        for part, total in self.totals.items():
            self.in_steps[part].append(total - self._before[part])

    def _timed(
        self,
        function: Callable[..., Any],
        end: Callable[[float], None],
        begin: Callable[[], None] = lambda: None,
    ) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            begin()
            synchronise(self.device)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronise(self.device)
                end(time.perf_counter() - start)

        return run
