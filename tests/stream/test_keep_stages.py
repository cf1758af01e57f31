"""keep_stages: last: what stages before the newest stored of the method is removed, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from stream_kit import KillAt, Killed, fit, fragile_method, scoring, short_data, state_files

from lit_cvit.run import RunFolder
from lit_cvit.run.stages import remove_state
from lit_cvit.stream.restore import restored_stages
from lit_cvit.stream.trainer import ContinualTrainer

pytestmark = pytest.mark.processes

STATE = ["extra.json", "extra.safetensors", "method.json", "method.safetensors"]


@pytest.fixture(scope="module")
def whole(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three stages that keeps all."""
    return fit(tmp_path_factory.mktemp("whole"), fragile_method(llava_folder), short_data()).run


def stored(run: RunFolder) -> list[list[str]]:
    """Files of the method by stage."""
    folders = [run.stage_folder(stage.stage) for stage in run.record.stages]
    return [sorted(name for name in STATE if (folder / name).is_file()) for folder in folders]


def require_like(whole: RunFolder, run: RunFolder) -> None:
    """Check that a run has the last stage alone, with the bits of a run that keeps all, and all scores."""
    assert stored(run) == [[], [], STATE]
    ours, theirs = state_files(run), state_files(whole)
    assert ours == {name: data for name, data in theirs.items() if "method." not in name or "/03-" in name}


def test_the_last_stage_keeps_its_state_and_all_keep_scores_and_predictions(
    llava_folder: Path, tmp_path: Path, whole: RunFolder
) -> None:
    run = fit(tmp_path, fragile_method(llava_folder), short_data(), keep_stages="last").run
    assert stored(whole) == [STATE] * 3
    require_like(whole, run)
    again = RunFolder.open(run.path, verify=True)
    assert (again.stages_done(), again.damage) == ([1, 2, 3], "")
    assert [stage.plan for stage in again.record.stages] == [stage.plan for stage in whole.record.stages]
    assert again.load_stage(3).stage == 3
    with pytest.raises(ValueError, match=r"stage 1 .* cannot be loaded.*keep_stages: last"):
        again.load_stage(1)
    with pytest.raises(ValueError, match="keep_stages: last"):
        list(restored_stages(fragile_method(llava_folder), again))


def test_a_killed_run_goes_on_to_the_same_end(llava_folder: Path, tmp_path: Path, whole: RunFolder) -> None:
    every: dict[str, Any] = {"keep_stages": "last", "checkpoint_every_n_steps": 1}
    killed = [KillAt(3, after=True), scoring()]
    with pytest.raises(Killed):
        fit(tmp_path, fragile_method(llava_folder), short_data(), callbacks=killed, **every)
    resumed = fit(tmp_path, fragile_method(llava_folder), short_data(), ckpt_path="last", **every)
    require_like(whole, resumed.run)


def test_a_run_killed_between_storing_a_stage_and_removing_those_before_removes_them_on_resume(
    llava_folder: Path, tmp_path: Path, whole: RunFolder
) -> None:
    remove = RunFolder.keep_from

    def killed(run: RunFolder, number: int) -> None:
        if number == 3:
            raise Killed
        remove(run, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "keep_from", killed)
        with pytest.raises(Killed):
            fit(tmp_path, fragile_method(llava_folder), short_data(), keep_stages="last")
    resumed = fit(tmp_path, fragile_method(llava_folder), short_data(), ckpt_path="last", keep_stages="last")
    require_like(whole, resumed.run)


def test_a_death_while_files_are_removed_leaves_a_stage_that_counts(whole: RunFolder, tmp_path: Path) -> None:
    run = RunFolder.open(Path(shutil.copytree(whole.path, tmp_path / "run")))

    class Death(BaseException):
        pass

    removed: list[Path] = []

    def remove(path: Path) -> None:
        if removed:
            raise Death
        removed.append(path)
        path.unlink()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.writer, "remove", remove)
        with pytest.raises(Death):
            remove_state(run.writer, run.stage_folder(1))
    assert removed
    again = RunFolder.open(run.path, verify=True)
    assert again.stages_done() == [1, 2, 3]
    # The next stage that is stored removes what is left.
    again.keep_from(3)
    assert stored(again) == [[], [], STATE]


def test_stages_before_one_that_is_not_trained_are_needed(whole: RunFolder) -> None:
    with pytest.raises(ValueError, match="stage 4 .* is not trained"):
        whole.keep_from(4)
    assert stored(whole) == [STATE] * 3


def test_a_run_may_start_from_one_that_has_its_last_stage_alone(llava_folder: Path, tmp_path: Path) -> None:
    source = fit(tmp_path / "a", fragile_method(llava_folder), short_data(), keep_stages="last").run
    from_there = fit(
        tmp_path / "b",
        fragile_method(llava_folder),
        short_data(tasks=["ImageNet"]),
        start_from=str(source.path),
    )
    assert from_there.run.stages_done() == [1]


def test_an_unknown_value_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="trainer.keep_stages.*Did you mean 'last'"):
        ContinualTrainer(accelerator="cpu", keep_stages="lasst")  # type: ignore[arg-type]
