"""One small finished run for all tests of the command line; do not change it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lit_cvit.__main__ import main
from lit_cvit.run import RunFolder

SMALL = """\
model:
  class_path: SeqLoRA
  init_args: {rank: 8, alpha: 16}
data:
  tasks: [ScienceQA, GQA]
  settings: {num_train: 12, num_test: 6}
  batch_size: 4
"""

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that is merged after `quickstart`: two stages of three steps."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    path.write_text(SMALL)
    return path


def plain(patch: pytest.MonkeyPatch, *, planned: bool = False) -> None:
    """Leave out what costs a fit a quarter of its time: the memory plan, and drawing the matrix."""
    if not planned:
        patch.setattr("lit_cvit.stream.trainer.checked_plan", lambda *_: [])
    patch.setattr("lit_cvit.report.write.matrix_figure", lambda *_, **__: None)
    patch.setattr("lit_cvit.report.write.png", lambda _: b"drawn")


@pytest.fixture
def planned() -> None:
    """For tests that read the memory plan: it is computed."""


@pytest.fixture(autouse=True)
def _plain(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    plain(monkeypatch, planned="planned" in request.fixturenames)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small: Path) -> RunFolder:
    """A run of two stages, started from another folder than the repository's with a shipped name."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plain(patch)
        assert main(["fit", "--config", "quickstart", "--config", str(small), "--name", "two"]) == 0
    return RunFolder.open(folder / "runs" / "two")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command line; returns its exit status, what it printed, and its error output."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return run
