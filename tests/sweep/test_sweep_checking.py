"""Before the first cell runs: configurations are built, and errors name the cell and the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from sweep_kit import sweep_of

from lit_cvit.cli.shipped import SWEEPS
from lit_cvit.run import RunFolder, RunRecord
from lit_cvit.sweep import build_sweep, check_cells, read_sweep
from lit_cvit.sweep.checking import other_run, refuse_other_runs

BASE = "--config studies/cvit_mini "


def test_every_wrong_configuration_is_named_with_its_cell_and_key() -> None:
    cells = {
        "typo": BASE + "--model.ranks 8",
        "value": BASE + "--model.rank 0",
        "benchmark": BASE + "--data.settings.num_trains 8",
        "fine": BASE + "--model.rank 8",
    }
    sweep = sweep_of(cells=cells, seeds=[0, 1])
    with pytest.raises(ValueError, match="study: 3 configurations") as caught:
        check_cells(sweep, sweep.cells)
    header, *wrong = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in wrong] == [
        "cell typo-0",
        "cell value-0",
        "cell benchmark-0",
    ]
    assert "'ranks'" in wrong[0]
    assert "model.rank must be" in wrong[1]
    assert "'num_trains'" in wrong[2]
    assert "'num_train'" in wrong[2]


def test_two_cells_that_would_be_the_same_run_are_refused() -> None:
    sweep = sweep_of(cells={"A": BASE + "--model.rank 32", "B": BASE})
    with pytest.raises(ValueError, match="cells A-0 and B-0 are the same run"):
        check_cells(sweep, sweep.cells)


def test_cells_that_differ_in_their_seed_or_source_are_different_runs() -> None:
    few = {"arguments": BASE + "--data.tasks [Places365] --data.epochs 20", "start_from": "A"}
    sweep = sweep_of(cells={"A": BASE, "few": few}, seeds=[0, 1])
    checked = check_cells(sweep, sweep.cells)
    assert len({each.digest for each in checked}) == 4
    assert [each.config["seed_everything"] for each in checked] == [0, 0, 1, 1]
    assert checked[1].config["start_from"] == "runs/study/A-0"


def test_a_run_that_was_made_under_other_conditions_is_named(tmp_path: Path) -> None:
    sweep = sweep_of(cells={"A": BASE}, seeds=[0], run_root=str(tmp_path))
    (checked,) = check_cells(sweep, sweep.cells)
    assert checked.conditions is None
    record = RunRecord(seed=0, config_digest=checked.digest, scoring={"ScienceQA": {"scorer": "exact"}})
    run = RunFolder.create(sweep.run_root, "A-0", "seed: 0\n", record=record)
    (checked,) = check_cells(sweep, sweep.cells)
    assert other_run(sweep, checked) == (
        f"{run.path} was made under other conditions: the scorer of ScienceQA was exact, now it is letter"
    )
    with pytest.raises(ValueError, match="are not those of their cells.*run_root"):
        refuse_other_runs(sweep, [checked])
    run.record.scoring["ScienceQA"]["scorer"] = "letter"
    run.save_record()
    assert other_run(sweep, checked) == ""


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_cell_of_a_shipped_sweep_can_be_built(path: Path) -> None:
    sweep = build_sweep(path.stem, read_sweep(path))
    assert len(check_cells(sweep, sweep.cells)) == len(sweep.cells)
