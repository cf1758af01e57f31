"""The verb's own options: sweeps of the command line alone, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from lit_cvit.__main__ import main
from lit_cvit.sweep.making import _remove_remains

ONE = "cells:\n  A: --config quickstart\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(ONE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["name a sweep", "--name"]),
        (["--name", "x"], ["options of `fit`"]),
        (["one.yaml", "--name", "x"], ["--name", "command line"]),
        (["one.yaml", "--grid", "model.rank"], ["--grid", "model.rank=16,32", "'model.rank'"]),
        (["one.yaml", "--grid", "model.rank=[8"], ["--grid model.rank", "'[8'"]),
        (["one.yaml", "--seeds", "0,0"], ["seeds", "0 is there twice"]),
        (["one.yaml", "--processes", "0"], ["--processes", "got 0"]),
        (["one.yaml", "--processes", "many"], ["--processes", "many"]),
        (["one.yaml", "--shard", "8"], ["--shard", "2/8"]),
        (["one.yaml", "--only", "B*"], ["--only", "'B*'"]),
        (["one.yaml", "--ckpt_path", "last"], ["--ckpt_path", "by itself"]),
        (["one.yml"], ["no file 'one.yml'", "Known: "]),
        (["one.yaml", "--model.ranks", "8"], ["one.yaml", "cell A-0", "'ranks'"]),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", *arguments]) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lit_cvit sweep: ")
    assert [word for word in words if word not in err] == []
    assert not Path("runs").exists()


def test_the_command_line_alone_names_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", "--name", "ranks", "--list", "--seeds", "0,1", "--config", "quickstart"]
    assert main([*command, "--grid", "model.rank=8,16", "--grid", "data.tasks=[GQA],[VQAv2]"]) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ranks-rank_") and line.endswith(": to do") for line in lines)
    assert summary == "8 cells: 8 to do"
    assert not Path("runs").exists()


def test_a_share_without_a_cell_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "one.yaml", "--shard", "2/2"]) == 0
    assert "no cell" in capsys.readouterr().out


def test_a_run_folder_that_was_cut_off_before_its_record_is_removed_and_another_one_is_not() -> None:
    path = Path("cell")
    path.mkdir()
    (path / "config.yaml").touch()
    (path / ".run.json.tmp").touch()
    _remove_remains(path)
    assert not path.exists()
    path.mkdir()
    (path / "photos").touch()
    with pytest.raises(ValueError, match="holds photos"):
        _remove_remains(path)
    assert (path / "photos").is_file()
