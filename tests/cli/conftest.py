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
  settings: {num_train: 48, num_test: 6}
  batch_size: 16
"""

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that is merged after `quickstart`: two stages of three steps."""
    path = tmp_path_factory.mktemp("small") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small: Path) -> RunFolder:
    """A run of two stages, started from another folder than the repository's with a shipped name."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
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
