"""A whole stream: what is trained, scored, counted and written, and in which order."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from stream_kit import BATCH, STREAM, Trail, fit, log_rows, small_data, small_method, snapshot, state_files

from callbacks import StageEvaluation
from lit_cvit.data.stage import Stage
from lit_cvit.methods import ContinualMethod, DirLoRA, Multitask, SMoLoRA, ZeroShot
from lit_cvit.run import RunFolder, Status
from lit_cvit.stream import preflight
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer


class Finished(NamedTuple):
    trainer: ContinualTrainer
    trail: Trail
    method: ContinualMethod


@pytest.fixture(scope="module")
def finished(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Three stages of 32, 32 and 32 samples in steps of 16, two epochs each."""
    trail, method = Trail(), small_method(llava_folder)
    callbacks: list[Callback] = [trail, StageEvaluation(downstream=False)]
    data = small_data(tasks=STREAM, epochs=2)
    return Finished(fit(tmp_path_factory.mktemp("runs"), method, data, callbacks=callbacks), trail, method)


def test_every_stage_of_the_stream_ends_evaluated(finished: Finished) -> None:
    stages = finished.trainer.run.record.stages
    assert [(s.stage, s.task, s.status) for s in stages] == [
        (number, task, Status.EVALUATED) for number, task in enumerate(STREAM, start=1)
    ]


def test_the_matrix_of_seen_tasks_is_lower_triangular(finished: Finished) -> None:
    matrix = finished.trainer.run.matrix()
    measured = [[cell is not None for cell in row] for row in matrix.scores]
    assert measured == [[True, False, False], [True, True, False], [True, True, True]]
    assert matrix.stages == matrix.tasks == tuple(STREAM)


def test_the_run_folder_holds_the_documented_files(finished: Finished) -> None:
    path = finished.trainer.run.path
    files = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_file()}
    expected = {"config.yaml", "run.json", "log.jsonl", "matrix.json", "matrix.csv"}
    expected |= {
        f"report/{name}" for name in ("matrix.md", "matrix.csv", "matrix.png", "summary.md", "summary.csv")
    }
    measured = {name for name in files if name.startswith("measurements/")}
    assert sum("answer_tokens-" in name for name in measured) == len(STREAM)
    expected |= measured
    for number, task in enumerate(STREAM, start=1):
        folder = f"stages/{number:02d}-{task}"
        names = ("manifest.json", "method.json", "method.safetensors", "scores.json")
        expected |= {f"{folder}/{name}" for name in (*names, "extra.json", "extra.safetensors")}
        expected |= {f"{folder}/predictions/{seen}.jsonl" for seen in STREAM[:number]}
    assert files == expected


def test_one_step_counter_goes_through_the_stream(finished: Finished) -> None:
    trainer = finished.trainer
    assert [stage.num_steps for stage in trainer.stages] == [4, 4, 4]
    assert trainer.global_step == 12
    assert [row["step"] for row in log_rows(trainer.run)] == list(range(12))
    extras = [trainer.run.load_stage(number).extra["step"] for number in (1, 2, 3)]
    assert extras == [4, 8, 12]


def test_the_stage_hooks_run_once_per_stage_in_order(finished: Finished) -> None:
    expected: list[tuple[str, int, str, int]] = [("stream_start", 0, "", 0)]
    for number in (1, 2, 3):
        before, after = 4 * (number - 1), 4 * number
        expected += [("start", number, "planned", before), ("end", number, "planned", after)]
        expected += [("saved", number, "trained", after)]
    assert finished.trail.seen == [*expected, ("stream_end", 0, "", 12)]


def test_every_stage_starts_with_a_fresh_optimizer(finished: Finished) -> None:
    assert [num_states for _, num_states in finished.trail.optimizers] == [0, 0, 0]


def test_every_stage_has_the_whole_schedule(finished: Finished) -> None:
    settings = finished.method.settings
    whole = [settings.learning_rate * settings.factor(step, 4) for step in range(4)]
    assert finished.trail.rates == [whole, whole, whole]


def test_the_record_has_the_methods_access_and_how_long_it_trained(finished: Finished) -> None:
    record = json.loads((finished.trainer.run.path / "run.json").read_text())
    assert record["facts"]["access"] == "nothing beyond the prompt and image"
    assert [stage["facts"]["steps"] for stage in record["stages"]] == [4, 4, 4]
    assert (record["num_stages"], record["miniature"]) == (3, True)


class Grants(StageCallback):
    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    @property
    def grants(self) -> tuple[str, ...]:
        return self.names


def test_what_callbacks_grant_a_method_is_added_once(llava_folder: Path) -> None:
    callbacks: list[Callback] = [Grants("old_data"), Grants("old_data", "instruction"), Grants()]
    trainer, method = ContinualTrainer(accelerator="cpu", callbacks=callbacks), small_method(llava_folder)
    assert trainer.access(method).words() == "instruction text, old data"
    # What is hidden follows from the method's own declaration.
    assert "instruction" in method.access.hidden(test=True)
    wrong = ContinualTrainer(accelerator="cpu", callbacks=[Grants("encoders")])
    with pytest.raises(ValueError, match="'encoders' is no field of DataAccess; known: task_id_in"):
        wrong.access(method)


def test_all_tasks_fill_the_matrix(llava_folder: Path, tmp_path: Path) -> None:
    callbacks: list[Callback] = [StageEvaluation(tasks="all", downstream=False)]
    run = fit(tmp_path, small_method(llava_folder), callbacks=callbacks).run
    assert all(cell is not None for row in run.matrix().scores for cell in row)


def test_joint_training_is_one_stage_that_scores_every_task(llava_folder: Path, tmp_path: Path) -> None:
    trainer = fit(tmp_path, small_method(llava_folder, Multitask))
    assert [(stage.task.name, stage.num_steps) for stage in trainer.stages] == [("joint", 4)]
    assert [cell is not None for cell in trainer.run.matrix().scores[0]] == [True, True]


def test_a_method_without_training_has_one_untrained_stage(llava_folder: Path, tmp_path: Path) -> None:
    method = small_method(llava_folder, ZeroShot)
    trainer = fit(tmp_path, method)
    assert [stage.task.name for stage in trainer.stages] == ["untrained"]
    assert (trainer.global_step, method.parameter_counts()["trainable"], method.tensors()) == (0, 0, {})
    assert [cell is not None for cell in trainer.run.matrix().scores[0]] == [True, True]


def test_a_second_run_of_the_same_name_gets_a_suffix(llava_folder: Path, tmp_path: Path) -> None:
    for name in ("mine", "mine-2"):
        trainer = fit(tmp_path, small_method(llava_folder, ZeroShot), callbacks=[], run_name="mine")
        assert trainer.run.path == tmp_path / name


def test_a_stage_without_steps_is_an_error(llava_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    data = small_data()
    real = data.stages
    monkeypatch.setattr(
        data, "stages", lambda **asked: tuple(dataclasses.replace(s, num_steps=0) for s in real(**asked))
    )
    with pytest.raises(ValueError, match=r"stage 1 \(ScienceQA\) would train for 0 steps"):
        fit(tmp_path, small_method(llava_folder), data, callbacks=[])


class StopEarly(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = True


def test_a_callback_that_stops_a_stage_early_is_an_error(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="trained 1 steps instead of 2"):
        fit(tmp_path, small_method(llava_folder), callbacks=[StopEarly()])
    assert RunFolder.open(tmp_path / "seqlora-cvit-mini").stages_done() == []


class BreakBackbone(StageCallback):
    def on_stage_end(self, trainer: ContinualTrainer, method: ContinualMethod, stage: Stage) -> None:
        with torch.no_grad():
            next(iter(method.backbone.vision_tower.parameters())).view(-1)[0] += 1e-6


def test_a_changed_backbone_stops_the_run(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the frozen backbone changed"):
        fit(tmp_path, small_method(llava_folder), callbacks=[BreakBackbone()])


def test_the_backbone_is_read_for_its_digest_at_the_start_and_after_each_stage(
    llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, events = small_method(llava_folder), []
    digest = method.backbone.digest_frozen
    monkeypatch.setattr(method.backbone, "digest_frozen", lambda: events.append("read") or digest())
    method.prepare()
    assert events == []
    fit(tmp_path, method, callbacks=[])
    assert events == ["read"] * 3


def test_a_fitted_method_is_not_fitted_again(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="build a new one for every fit"):
        fit(tmp_path, finished.method)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", 64])
def test_a_precision_that_converts_the_model_is_refused(precision: Any) -> None:
    with pytest.raises(ValueError, match=r"set model.backbone.dtype"):
        ContinualTrainer(precision=precision, accelerator="cpu")


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_a_strategy_that_cannot_walk_a_stream_is_refused(strategy: str) -> None:
    with pytest.raises(
        ValueError, match=f"trainer.strategy '{strategy}' cannot walk a stream; allowed are 'auto'"
    ):
        ContinualTrainer(devices=2, accelerator="cpu", strategy=strategy)


def test_a_negative_checkpoint_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="trainer.checkpoint_every_n_steps must be 0 or more, got -1"):
        ContinualTrainer(accelerator="cpu", checkpoint_every_n_steps=-1)


def test_a_negative_norm_to_clip_at_is_refused() -> None:
    with pytest.raises(ValueError, match="trainer.gradient_clip_val must be 0 or more, got -1"):
        ContinualTrainer(accelerator="cpu", gradient_clip_val=-1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ckpt_path": "best"}, "must be 'last' or left out"), ({"datamodule": None}, "datamodule=")],
)
def test_arguments_of_fit_that_mean_nothing_here_are_refused(
    llava_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    trainer = ContinualTrainer(run_root=str(tmp_path), accelerator="cpu")
    with pytest.raises(ValueError, match=message):
        trainer.fit(small_method(llava_folder), **{"datamodule": small_data(), **changes})


class _Needs(ZeroShot):
    @property
    def requires_callbacks(self) -> tuple[str, ...]:
        return ("StageEvaluation",)


class _OwnEvaluation(StageEvaluation):
    pass


def test_a_missing_required_callback_is_named_before_anything_is_made(
    llava_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="_Needs as configured needs the callback StageEvaluation"):
        fit(tmp_path, small_method(llava_folder, _Needs), callbacks=[Trail()])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", [StageEvaluation, _OwnEvaluation])
def test_a_required_callback_or_a_subclass_of_it_is_enough(
    llava_folder: Path, tmp_path: Path, family: type[StageEvaluation]
) -> None:
    callbacks: list[Callback] = [family(downstream=False)]
    assert fit(tmp_path, small_method(llava_folder, _Needs), callbacks=callbacks).run.stages_done() == [1]


def test_runs_in_one_process_do_not_influence_each_other(llava_folder: Path, tmp_path: Path) -> None:
    first = fit(tmp_path, small_method(llava_folder, SMoLoRA, dropout=0.2), run_name="first")
    torch.manual_seed(77)
    fit(
        tmp_path, small_method(llava_folder, DirLoRA), small_data(tasks=["VQAv2"]), run_name="between", seed=5
    )
    torch.rand(3)
    second = fit(tmp_path, small_method(llava_folder, SMoLoRA, dropout=0.2), run_name="second")
    assert state_files(first.run) == state_files(second.run)


def test_the_seed_of_the_run_decides(llava_folder: Path, tmp_path: Path) -> None:
    one, other = small_method(llava_folder), small_method(llava_folder)
    fit(tmp_path, one, callbacks=[], seed=0)
    fit(tmp_path, other, callbacks=[], seed=1)
    assert all(not torch.equal(tensor, snapshot(other)[name]) for name, tensor in snapshot(one).items())


def test_a_fit_reports_a_gpu_that_torch_cannot_use(
    llava_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(preflight, "unused_gpu", lambda: "a GPU is idle")
    # Refused before any training: the rank is no multiple of the batch.
    with pytest.raises(ValueError, match="global_batch_size"):
        fit(tmp_path, small_method(llava_folder), small_data(global_batch_size=BATCH + 1))
    assert [record.message for record in caplog.records].count("a GPU is idle") == 1
