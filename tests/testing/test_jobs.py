"""Processes of the kit start as fresh ones do, although their parent has fitted before."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_cvit.memory_plan import checked_plan
from lit_cvit.stream import trainer
from lit_cvit.testing import jobs
from lit_cvit.testing.job import PARENT, Job
from lit_cvit.testing.kit import run_and_read


def facts(job: Job) -> None:
    """Write down what a process of the kit finds when it starts."""
    filled = [
        f"{module}.{name}"
        for module, found in sorted(sys.modules.items())
        if module.partition(".")[0] in ("lit_cvit", "callbacks")
        for name, value in sorted(vars(found).items())
        if isinstance(value, functools._lru_cache_wrapper) and value.cache_info().currsize
    ]
    variables = {name: value for name, value in os.environ.items() if name.startswith(("PL_", "LIT_CVIT"))}
    found: dict[str, Any] = {
        "filled": filled,
        "variables": variables,
        "threads": len(os.listdir("/proc/self/task")),
        "drawn": torch.rand(4),
        "plans": trainer.checked_plan is checked_plan,
    }
    torch.save(found, job.observed)


def _enter(job: Job) -> None:
    from lit_cvit.testing import child

    child.facts = facts  # type: ignore[attr-defined]
    jobs._enter(job)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
def test_a_process_finds_nothing_of_the_fit_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_enter", _enter)
    one, other = run_and_read(*(Job(name, tmp_path, task="facts") for name in ("one", "other")))
    for found in (one, other):
        # The sentence encoder is frozen and has no state.
        assert set(found["filled"]) <= {"lit_cvit.encoders._load_sentences"}
        assert not {*PARENT} & found["variables"].keys()
        assert found["variables"].keys() <= os.environ.keys()
        assert found["threads"] == 1
        assert found["plans"]
    assert not torch.equal(one["drawn"], other["drawn"])
