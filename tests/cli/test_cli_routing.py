"""`analyze routing`: what it says to options and runs that it can do nothing with."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path

import pytest

from callbacks import RoutingTrace
from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.run import RunFolder


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--samples", "0"], 2, "--samples must be at least 1, got 0"),
        (["--sample", "3"], 2, "unknown option --sample. Did you mean '--samples'?"),
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


def test_the_documented_and_the_callbacks_own_example_build(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "analyses.md").read_text(encoding="utf-8")
    own = inspect.getdoc(RoutingTrace)
    assert own is not None
    examples = [
        page.split("\n## Routing\n")[1].split("```yaml\n")[1].split("```")[0],
        textwrap.dedent(own.split("Example::")[1].split("Args:")[0]),
    ]
    for text in examples:
        (tmp_path / "mine.yaml").write_text(text)
        cli = StreamCLI(["--config", "quickstart", "--config", str(tmp_path / "mine.yaml")], run=False)
        (trace,) = (each for each in cli.trainer.callbacks if isinstance(each, RoutingTrace))
        assert (trace.num_samples, trace.unseen) == (64, True)


def test_the_list_of_analyses_has_it(say) -> None:
    status, out, _ = say("analyze", "--help")
    assert status == 0
    assert "  routing   which blocks each task's samples use" in out
