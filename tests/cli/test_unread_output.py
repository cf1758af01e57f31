"""Output that nobody reads any more (`| head`) ends a verb quietly; other broken pipes are errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from lit_cvit.__main__ import main


def test_a_verb_whose_output_nobody_reads_ends_quietly_with_status_141() -> None:
    for arguments in (["--help"], ["fit", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        command = [sys.executable, "-m", "lit_cvit", *arguments]
        done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, b"")


def test_a_broken_pipe_of_another_file_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(argv: Sequence[str]) -> int:
        raise BrokenPipeError(32, "Broken pipe", "runs/x/log")

    monkeypatch.setattr("lit_cvit.commands.convert.run", broken)
    assert main(["convert"]) == 1
    assert capsys.readouterr().err == "lit_cvit convert: [Errno 32] Broken pipe: 'runs/x/log'\n"
