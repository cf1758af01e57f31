"""`--help`: immediate, complete, and without torch where no model is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lit_cvit import __version__
from lit_cvit.__main__ import main
from lit_cvit.stream.checkpoints import Stopped

ROOT = Path(__file__).parents[2]
VERBS = (
    "analyze",
    "check",
    "compare",
    "convert",
    "fit",
    "plan",
    "predict",
    "prepare",
    "pretrain",
    "sweep",
    "test",
)
HEAVY = ("torch", "lightning", "transformers", "numpy", "jsonargparse")


def test_top_level_help_is_light_and_takes_less_than_a_second_of_cpu() -> None:
    code = f"""
import contextlib, io, json, sys, time
from lit_cvit.__main__ import main
import lit_cvit
shown, status = [], []
asked = ["--help"], ["test", "--help"], ["predict", "--help"], ["fti"], ["analyze", "--help"]
for arguments in (*asked, ["analyze", "cka", "--help"]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
        status.append(main(arguments))
    shown.append(out.getvalue())
print(json.dumps([status, shown, [n for n in {HEAVY!r} if n in sys.modules], time.process_time()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    status, shown, heavy, seconds = json.loads(done.stdout)
    assert status == [0, 0, 0, 2, 0, 0]
    assert heavy == []
    assert seconds < 1
    assert all(f"\n  {verb} " in shown[0] for verb in VERBS)
    assert "--stage" in shown[1]
    assert "--jsonl" in shown[2]
    assert "\n  cka " in shown[4]
    assert "--kernel" in shown[5]


def test_help_says_what_each_verb_does_and_how_to_start(say) -> None:
    status, out, err = say("--help")
    assert (status, err) == (0, "")
    lines = [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "]
    assert lines == list(VERBS)
    assert "\n  fit       learn a stream of tasks" in out
    assert out.rstrip().endswith("python -m lit_cvit fit --config quickstart")


def test_no_arguments_show_the_help_with_status_2(say) -> None:
    assert say() == (2, say("--help")[1], "")


@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("fit", "--data.benchmark BENCHMARK"),
        ("fit", "--start_from"),
        ("fit", "--name"),
        ("fit", "--ckpt_path"),
        ("check", "--decode_images"),
        ("check", "--workers N"),
        ("check", "--data.settings"),
        ("plan", "--seconds_per_step X"),
        ("plan", "--data.settings"),
        ("test", "--run RUN"),
        ("predict", "--question QUESTION"),
        ("pretrain", "--recipe.vision_steps"),
        ("convert", "--projector"),
        ("compare", "--out OUT"),
    ],
)
def test_help_of_a_verb_lists_its_options(say, verb: str, option: str) -> None:
    status, out, err = say(verb, "--help")
    assert (status, err) == (0, "")
    assert option in out


def test_help_of_a_class_lists_its_settings(say) -> None:
    status, out, _ = say("fit", "--model.help", "SMoLoRA")
    assert status == 0
    assert "--model.num_vu NUM_VU" in out


def test_version(say) -> None:
    assert say("--version") == (0, f"lit_cvit {__version__}\n", "")


def test_a_wrong_verb_is_refused_with_the_nearest(say) -> None:
    known = "analyze, check, compare, convert, fit, plan, predict, prepare, pretrain, sweep, test"
    message = f"lit_cvit: unknown verb 'fti'. Did you mean 'fit'? Known: {known}\n"
    assert say("fti") == (2, "", message)


def test_a_run_that_sigterm_stopped_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(arguments: object) -> int:
        raise Stopped

    monkeypatch.setattr("lit_cvit.commands.fit.run", stopped)
    assert main(["fit"]) == 143
    reported = "lit_cvit fit: stopped by SIGTERM; continue with the same command and --ckpt_path last\n"
    assert capsys.readouterr().err == reported
