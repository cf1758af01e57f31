"""`compare` on finished runs: tables on the terminal, and files with `--out` alone."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from cli_kit import only_message
from rich.console import Console

from lit_cvit.commands.compare import show
from lit_cvit.report import Table
from lit_cvit.run import RunFolder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, finished: RunFolder) -> Path:
    """The finished run as one of another method, whose answers to GQA are all right."""
    path = tmp_path_factory.mktemp("compare") / "better"
    shutil.copytree(finished.path, path)
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**record, "method": "SMoLoRA"}))
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("rank: 8", "rank: 16"))
    stage = path / "stages" / "02-GQA"
    rows = [json.loads(line) for line in (stage / "predictions" / "GQA.jsonl").read_text().splitlines()]
    better = "".join(json.dumps({**row, "score": 1.0, "format_ok": True}) + "\n" for row in rows)
    (stage / "predictions" / "GQA.jsonl").write_text(better)
    scores = json.loads((stage / "scores.json").read_text())
    scores["tasks"]["GQA"] |= {"score": 100.0, "mif": 100.0}
    (stage / "scores.json").write_text(json.dumps(scores))
    return path


def test_two_runs_are_printed_side_by_side_and_nothing_is_written(
    say, finished: RunFolder, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = say("compare", finished.path, other)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "Comparison on cvit-mini"
    assert "cannot be compared with published ones" in lines[1]
    assert lines[2].split() == ["seeds", "AP", "MAP", "BWT", "MIF", "ScienceQA", "GQA"]
    assert lines[4].startswith("two (SeqLoRA)")
    assert lines[5].startswith("better (SMoLoRA)")
    assert lines[5].endswith("100.0")
    assert "Difference to two (SeqLoRA), in points" in lines
    assert "12 test samples alone: one seed" in out
    assert list(tmp_path.iterdir()) == []


def test_out_writes_a_page_and_a_csv(say, finished: RunFolder, other: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    status, out, _ = say("compare", finished.path, other, "--out", folder)
    assert status == 0
    assert out.splitlines()[-1] == f"wrote compare.md and compare.csv into {folder}"
    assert sorted(path.name for path in folder.iterdir()) == ["compare.csv", "compare.md"]
    assert (folder / "compare.md").read_text().startswith("# Comparison on cvit-mini\n")
    rows = list(csv.DictReader(io.StringIO((folder / "compare.csv").read_text())))
    scores = finished.scores(2)
    assert scores is not None
    gained = 100.0 - scores.tasks["GQA"].score
    assert float(rows[1]["GQA"]) == 100.0
    assert float(rows[1]["AP difference"]) == pytest.approx(gained / 2)
    assert float(rows[1]["AP low"]) <= gained / 2 <= float(rows[1]["AP high"])


def test_a_run_that_cannot_be_compared_is_one_message(say, finished: RunFolder, tmp_path: Path) -> None:
    path = tmp_path / "changed"
    shutil.copytree(finished.path, path)
    record = json.loads((path / "run.json").read_text())
    record["scoring"]["GQA"]["max_new_tokens"] = 99
    (path / "run.json").write_text(json.dumps(record))
    message = only_message(say("compare", finished.path, path), "compare")
    assert message.startswith(f"{path} cannot be compared with {finished.path}")
    assert "max_new_tokens of GQA is 99, not 24" in message


def test_no_path_is_wrong_usage(say) -> None:
    status, _, err = say("compare")
    assert status == 2
    assert "PATH" in err


def test_a_terminal_gets_a_table_with_every_cell_as_it_is() -> None:
    text = io.StringIO()
    table = Table(("", "AP"), (("[bold]", "10.0 (+1.0 to +2.0)"), ("b", None)), "a note")
    show(table, Console(file=text, force_terminal=True, width=60, color_system=None))
    shown = text.getvalue()
    assert "\u2502 [bold] \u2502 10.0 (+1.0 to +2.0) \u2502" in shown
    assert shown.rstrip().endswith("a note")
