"""ProgLoRA's FWT in `compare` and on pages of results: which isolated runs belong to a run, and the value."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare_kit import make_run

from lit_cvit.report.compare import compare
from lit_cvit.report.compare_tables import csv_page, measured_table

# QA after its own stage 100 %, at the end 50; captions 100.
WHOLE = {"QA": [1.0, 0.0, 1.0, 0.0], "Cap": [1.0, 1.0]}
FWT = "ProgLoRA FWT"


def alone(root: Path, task: str, percent: float, *, name: str = "", **more: object) -> Path:
    """A run of one task with a score."""
    rows = [1.0] * round(percent / 25) + [0.0] * round(4 - percent / 25)
    changes = {"stream": [task], "num_stages": 1, "captions": ["Cap"] if task == "Cap" else [], **more}
    config = f"data: {{tasks: [{task}], isolated: false}}\n"
    return make_run(root, name or f"alone-{task}", {task: rows}, learned=task, config=config, **changes)


def whole(root: Path, name: str = "whole", **more: object) -> Path:
    return make_run(root, name, WHOLE, config="data: {tasks: null, isolated: false}\n", **more)


def test_fwt_is_the_mean_of_own_scores_less_those_of_each_task_alone(tmp_path: Path) -> None:
    runs = [alone(tmp_path, "QA", 75.0), alone(tmp_path, "Cap", 50.0)]
    comparison = compare([whole(tmp_path)], runs)
    # QA 100 - 75, captions 100 - 50.
    assert comparison.rows[0].metrics[FWT] == [37.5]
    assert FWT in measured_table(comparison).header
    assert f"{FWT} deviation" in csv_page(comparison).splitlines()[0]


def test_without_isolated_runs_there_is_no_fwt(tmp_path: Path) -> None:
    assert FWT not in compare([whole(tmp_path)]).rows[0].metrics


def test_each_run_is_held_against_the_isolated_runs_of_its_own_seed(tmp_path: Path) -> None:
    runs = [whole(tmp_path, f"whole-{seed}", seed=seed) for seed in (0, 1)]
    isolated = [
        alone(tmp_path, task, percent, name=f"{task}-{seed}", seed=seed)
        for seed, percent in ((0, 75.0), (1, 25.0))
        for task in ("QA", "Cap")
    ]
    assert compare(runs, isolated).rows[0].metrics[FWT] == [25.0, 75.0]


def test_a_missing_task_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Cap is missing.*data\.isolated true"):
        compare([whole(tmp_path)], [alone(tmp_path, "QA", 75.0)])


def test_an_isolated_run_that_is_not_finished_is_named_with_how_to_go_on(tmp_path: Path) -> None:
    runs = [alone(tmp_path, "QA", 75.0), alone(tmp_path, "Cap", 50.0, trained=0)]
    with pytest.raises(ValueError, match=r"alone-Cap has no final scores .*--ckpt_path last"):
        compare([whole(tmp_path)], runs)


def test_two_runs_of_one_task_are_refused(tmp_path: Path) -> None:
    runs = [alone(tmp_path, "QA", 75.0, name=name) for name in ("one", "two")]
    with pytest.raises(ValueError, match="two and one both are QA alone"):
        compare([whole(tmp_path)], runs)


@pytest.mark.parametrize("change", [{"seed": 3}, {"method": "SMoLoRA"}, {"stream": ["Other"]}])
def test_a_run_that_belongs_to_none_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    task = change.get("stream", ["QA"])[0]  # type: ignore[index]
    runs = [alone(tmp_path, "QA", 75.0), alone(tmp_path, "Cap", 50.0)]
    odd = alone(tmp_path, str(task), 75.0, name="odd", **{k: v for k, v in change.items() if k != "stream"})
    with pytest.raises(ValueError, match=r"--isolated: .*odd belongs to none"):
        compare([whole(tmp_path)], [*runs, odd])


def test_an_isolated_run_that_was_tested_on_other_data_is_refused(tmp_path: Path) -> None:
    runs = [alone(tmp_path, "QA", 75.0, data={"QA": "b" * 64}), alone(tmp_path, "Cap", 50.0)]
    with pytest.raises(ValueError, match="alone-QA cannot be compared with .*whole"):
        compare([whole(tmp_path)], runs)
