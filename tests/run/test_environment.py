"""What is recorded and reported about the machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lit_cvit.run import environment, unused_gpu


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a GPU and with a build of torch for CPUs; a folder in it makes a GPU."""
    monkeypatch.setattr(environment, "_GPUS", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    return tmp_path


def test_a_machine_without_a_gpu_has_nothing_to_report(machine: Path) -> None:
    assert unused_gpu() is None


def test_a_gpu_that_torch_cannot_use_is_reported_in_one_line(machine: Path) -> None:
    (machine / "0000:01:00.0").mkdir()
    line = unused_gpu()
    assert line is not None
    assert torch.__version__ in line
    assert "On a machine with a GPU" in line
    assert "\n" not in line
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert "## On a machine with a GPU" in readme


def test_the_drivers_tool_is_a_sign_of_a_gpu_too(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "nvidia-smi" else None)
    assert unused_gpu() is not None


@pytest.mark.parametrize("kind", ["cuda", "hip"])
def test_a_build_for_gpus_is_not_reported(machine: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (machine / "0000:01:00.0").mkdir()
    monkeypatch.setattr(torch.version, kind, "13.0")
    assert unused_gpu() is None
