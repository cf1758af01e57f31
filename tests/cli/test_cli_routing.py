"""`analyze routing`: what it says to options and runs that it can do nothing with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_cvit.run import RunFolder


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--samples", "0"], 2, "--samples must be at least 1, got 0"),
        (["--sample", "3"], 2, "unknown option --sample. Did you mean --samples?"),
        (["--stage", "3"], 1, "is not trained; trained stages: 1, 2"),
        ([], 1, "SeqLoRA as configured in"),
    ],
)
def test_a_wrong_option_or_run_is_one_sentence(
    say, finished: RunFolder, tmp_path: Path, options: list[str], status: int, message: str
) -> None:
    found, out, err = say("analyze", "routing", "--run", finished.path, "--out", tmp_path / "out", *options)
    assert (found, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_list_of_analyses_has_it(say) -> None:
    status, out, _ = say("analyze", "--help")
    assert status == 0
    assert "  routing   which blocks each task's samples use" in out
