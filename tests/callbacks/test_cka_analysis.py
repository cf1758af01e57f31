"""CKAAnalysis: what it looks at and writes, and that neither it nor a resume changes a run."""

from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from stream_kit import KillAt, Killed, differing, fit, log_rows, quick_data, small_method, snapshot
from torch import Tensor

from callbacks import CKAAnalysis, DynamicEMA
from lit_cvit.analysis.cka import cka
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.methods import ContinualMethod, DirLoRA, HiDe, ZeroShot
from lit_cvit.probing.features import pooled_outputs
from lit_cvit.run import RunFolder, read_json
from lit_cvit.stream.trainer import ContinualTrainer
from lit_cvit.testing import Row
from lit_cvit.testing.jobs import ranks_of
from lit_cvit.testing.kit import Made, run_and_read

STREAM = ["GQA", "TextVQA", "ImageNet"]
NUM_TEST = 8
FILES = ["cka.csv", "cka.json", "curve.png", "stages.png", "tasks.png"]
Run = tuple[ContinualMethod, ContinualTrainer, CKAAnalysis]


def data(stream: list[str] = STREAM) -> ContinualDataModule:
    return quick_data(tasks=stream, settings={"num_test": NUM_TEST})


@pytest.fixture(scope="module")
def analysed(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of three tasks; do not change it."""
    method, analysis = small_method(llava_folder), CKAAnalysis(at="down_proj", threshold=0.0)
    root = tmp_path_factory.mktemp("analysed")
    return method, fit(root, method, data(), callbacks=[analysis]), analysis


def report_of(trainer: ContinualTrainer) -> dict[str, Any]:
    return read_json(trainer.run.analysis_path("cka") / "cka.json")


def now(method: ContinualMethod, task: str, analysis: CKAAnalysis) -> Tensor:
    """Vectors of a task's test samples through the method as it is."""
    stream = data()
    stream.attach(method.backbone.encoder)
    (chosen,) = (each for each in stream.stream if each.name == task)
    rows = list(range(NUM_TEST))
    return pooled_outputs(method, stream, chosen, rows, at=analysis.at, device=torch.device("cpu"))


# -- training and its state ----------------------------------------------------------------------------------


def test_training_with_the_callback_is_bit_identical_to_training_without(
    analysed: Run, llava_folder: Path, tmp_path: Path
) -> None:
    method, trainer, _ = analysed
    other = small_method(llava_folder)
    plain = fit(tmp_path, other, data(), callbacks=[])
    assert differing(snapshot(method), snapshot(other)) == []
    losses = [[row["loss/lm"] for row in log_rows(each.run)] for each in (plain, trainer)]
    assert len(losses[0]) == 6
    assert losses[0] == losses[1]


def test_vectors_are_those_of_the_adapter_that_the_tasks_own_stage_keeps(analysed: Run) -> None:
    method, _, analysis = analysed
    assert {task: tuple(x.shape) for task, x in analysis.vectors.items()} == dict.fromkeys(
        STREAM, (3, NUM_TEST, 64)
    )
    assert torch.equal(analysis.vectors["ImageNet"], now(method, "ImageNet", analysis))
    # Later stages have moved what earlier tasks look like.
    assert not torch.allclose(analysis.vectors["TextVQA"], now(method, "TextVQA", analysis), atol=1e-3)


def test_its_state_loads_without_pickled_code_and_is_saved_with_the_stage(analysed: Run) -> None:
    _, trainer, analysis = analysed
    buffer = io.BytesIO()
    torch.save(analysis.state_dict(), buffer)
    buffer.seek(0)
    again = CKAAnalysis(at="down_proj", threshold=0.0)
    again.load_state_dict(torch.load(buffer, weights_only=True))
    stored = CKAAnalysis(at="down_proj", threshold=0.0)
    stored.load_state_dict(trainer.run.load_stage(3).extra["callbacks"][analysis.state_key])
    stage = data().stages(seed=0)[-1]
    expected = analysis.report(stage)
    assert expected is not None
    for other in (again, stored):
        other._rows = analysis._rows
        report = other.report(stage)
        assert report is not None
        assert report.to_json() == expected.to_json()
    assert CKAAnalysis().state_dict() == {}


def test_a_resumed_run_ends_with_the_same_report(
    analysed: Run, llava_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_cvit.report.cka.write_figures", lambda *_: [])
    # Inside the last stage, after a checkpoint of it.
    killed: list[Callback] = [CKAAnalysis(at="down_proj", threshold=0.0), KillAt(5)]
    with pytest.raises(Killed):
        fit(tmp_path, small_method(llava_folder), data(), callbacks=killed, checkpoint_every_n_steps=1)
    before = read_json(next(tmp_path.glob("*/analysis/cka/cka.json")))
    assert before["tasks"] == STREAM[:2]
    again: list[Callback] = [CKAAnalysis(at="down_proj", threshold=0.0)]
    trainer = fit(tmp_path, small_method(llava_folder), data(), callbacks=again, ckpt_path="last")
    assert trainer.run.path.name == next(tmp_path.glob("*")).name
    assert report_of(trainer) == report_of(analysed[1])


# -- the report ----------------------------------------------------------------------------------------------


def test_the_report_holds_the_cka_of_tasks_through_their_own_stages(analysed: Run) -> None:
    _, trainer, analysis = analysed
    report = report_of(trainer)
    assert sorted(path.name for path in trainer.run.analysis_path("cka").iterdir()) == FILES
    for name in FILES[2:]:
        with Image.open(trainer.run.analysis_path("cka") / name) as image:
            assert min(image.size) > 300
    facts = {"schema": 1, "kernel": "linear", "at": "down_proj", "through": "own", "samples": NUM_TEST}
    facts |= {"layers": 3, "tasks": STREAM, "threshold": 0.0}
    assert {name: report[name] for name in facts} == facts
    assert report["stages"] == {"GQA": 1, "TextVQA": 2, "ImageNet": 3}
    assert report["rows"] == dict.fromkeys(STREAM, list(range(NUM_TEST)))
    assert report["paired_rows"] == {"between_tasks": False, "between_stages": True}
    assert "different samples" in report["note"]
    assert report["run"] == {"method": "SeqLoRA", "benchmark": "cvit-mini", "miniature": True, "seed": 0}
    for a, one in enumerate(STREAM):
        for b, other in enumerate(STREAM):
            value = cka(analysis.vectors[one], analysis.vectors[other])
            assert [matrix[a][b] for matrix in report["cka"]] == pytest.approx(value.tolist(), abs=1e-12)
    for layer, matrix in enumerate(report["cka"]):
        mean = (matrix[0][1] + matrix[0][2] + matrix[1][2]) / 3
        assert report["curve"][layer] == pytest.approx(mean, abs=1e-12)


def test_the_report_compares_each_task_with_itself_at_later_stages(analysed: Run) -> None:
    method, trainer, analysis = analysed
    between = report_of(trainer)["between_stages"]
    assert {task: found["stages"] for task, found in between.items()} == {"GQA": [1, 2, 3], "TextVQA": [2, 3]}
    values = [matrix[0][1] for matrix in between["TextVQA"]["cka"]]
    expected = cka(analysis.vectors["TextVQA"], now(method, "TextVQA", analysis))
    assert values == pytest.approx(expected.tolist(), abs=1e-12)
    assert 0.1 < min(values) < max(values) < 0.9999


def test_the_table_has_a_row_for_every_layer_and_pair(analysed: Run) -> None:
    _, trainer, _ = analysed
    lines = (trainer.run.analysis_path("cka") / "cka.csv").read_text().splitlines()
    assert lines[0] == "between,layer,task,stage,other_task,other_stage,cka,chance"
    assert [line.split(",")[0] for line in lines[1:]] == ["tasks"] * 9 + ["stages"] * (9 + 3)
    report = report_of(trainer)
    value, chance = report["cka"][2][0][2], report["chance"][2][0][2]
    assert f"tasks,2,GQA,1,ImageNet,3,{value!r},{chance!r}" in lines
    value = report["between_stages"]["GQA"]["cka"][1][1][2]
    assert f"stages,1,GQA,2,GQA,3,{value!r}," in lines


def test_hide_expands_from_the_layer_that_the_report_names(analysed: Run, llava_folder: Path) -> None:
    _, trainer, _ = analysed
    report = report_of(trainer)
    first = report["first_task_specific_layer"]
    drops = [one - other for one, other in itertools.pairwise(report["curve"])]
    assert first == 1 + drops.index(max(drops))
    assert max(drops) > report["threshold"]
    path = trainer.run.analysis_path("cka") / "cka.json"
    settings = {"expand": "auto", "fuse": "auto", "cka_report": str(path), "anchors": "image"}
    method = small_method(llava_folder, HiDe, **settings)
    assert isinstance(method, HiDe)
    method.prepare()
    plan = method.begin_stage(data().stages(seed=0)[0])
    assert plan["expand"] == list(range(first, 3))
    assert list(method.roles.values()) == ["fuse"] * first + ["expand"] * (3 - first)


# -- settings ------------------------------------------------------------------------------------------------


def test_what_a_method_keeps_apart_for_a_task_stays_the_same_and_the_current_adapter_reads_it(
    llava_folder: Path, tmp_path: Path
) -> None:
    method = small_method(llava_folder, DirLoRA)
    analysis = CKAAnalysis(kernel="rbf", through="current", num_samples=5)
    trainer = fit(tmp_path, method, quick_data(), callbacks=[analysis])
    report = report_of(trainer)
    assert (report["kernel"], report["at"], report["through"]) == ("rbf", "layer", "current")
    assert report["stages"] == {"ScienceQA": 2, "GQA": 2}
    assert [matrix[0][1] for matrix in report["between_stages"]["ScienceQA"]["cka"]] == pytest.approx(
        [1.0] * 3
    )
    # So it makes no difference here which of the two adapters the first task goes through.
    value = cka(analysis.vectors["ScienceQA"], analysis.vectors["GQA"], "rbf").tolist()
    assert [matrix[0][1] for matrix in report["cka"]] == pytest.approx(value, abs=1e-6)


@pytest.fixture(scope="module")
def averaged(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run of two tasks whose stages keep averages, without comparing stages; and which tasks were run."""
    asked: list[str] = []

    def noted(method: ContinualMethod, stream: Any, task: Any, rows: Any, **more: Any) -> Tensor:
        asked.append(task.name)
        return pooled_outputs(method, stream, task, rows, **more)

    method, analysis = small_method(llava_folder), CKAAnalysis(at="down_proj", between_stages=False)
    callbacks: list[Callback] = [DynamicEMA(beta=0.5, ema_when="always"), analysis]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("callbacks.cka_analysis.pooled_outputs", noted)
        root = tmp_path_factory.mktemp("averaged")
        trainer = fit(root, method, data(STREAM[:2]), callbacks=callbacks)
    return (method, trainer, analysis), asked


def test_without_the_comparison_of_stages_each_task_is_run_once(averaged: tuple[Run, list[str]]) -> None:
    (_, trainer, _), asked = averaged
    assert asked == STREAM[:2]
    assert report_of(trainer)["between_stages"] == {}
    assert not (trainer.run.analysis_path("cka") / "stages.png").exists()


def test_after_dynamic_ema_it_analyses_the_average_that_is_stored(
    averaged: tuple[Run, list[str]], analysed: Run
) -> None:
    (method, _, analysis), _ = averaged
    assert torch.equal(analysis.vectors["TextVQA"], now(method, "TextVQA", analysis))
    # The first stage trains as without the average, and keeps something else.
    assert not torch.equal(analysis.vectors["GQA"], analysed[2].vectors["GQA"])


def test_before_dynamic_ema_it_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    wrong: list[Callback] = [CKAAnalysis(), DynamicEMA()]
    with pytest.raises(ValueError, match="CKAAnalysis stands before DynamicEMA.*list it after DynamicEMA"):
        fit(tmp_path, small_method(llava_folder), quick_data(), callbacks=wrong)


def test_a_run_of_one_stage_has_nothing_to_compare_through_own_stages(
    llava_folder: Path, tmp_path: Path
) -> None:
    def zero_shot(through: Any) -> ContinualTrainer:
        analysis = CKAAnalysis(through=through)
        return fit(tmp_path, small_method(llava_folder, ZeroShot), quick_data(), callbacks=[analysis])

    with pytest.warns(UserWarning, match="CKAAnalysis has no effect: through: own .* one stage"):
        trainer = zero_shot("own")
    assert not trainer.run.analysis_path("cka").exists()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="CKAAnalysis")
        report = report_of(zero_shot("current"))
    assert report["stages"] == {"ScienceQA": 1, "GQA": 1}
    assert report["between_stages"] == {}


def test_too_few_test_samples_are_refused_at_the_start(llava_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="CKA needs at least 3 samples of every task, got 2"):
        fit(tmp_path, small_method(llava_folder), quick_data(), callbacks=[CKAAnalysis(num_samples=2)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "cosine"}, "CKAAnalysis.kernel must be one of linear, rbf; got 'cosine'"),
        ({"at": "mlp"}, "CKAAnalysis.at must be one of layer, down_proj; got 'mlp'"),
        ({"through": "last"}, "CKAAnalysis.through must be one of own, current; got 'last'"),
        ({"threshold": -1.0}, "CKAAnalysis.threshold must be at least 0, got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CKAAnalysis(**settings)


# -- several ranks -------------------------------------------------------------------------------------------


@pytest.mark.processes
def test_two_ranks_write_one_report_with_the_bits_of_one_rank(llava_folder: Path, tmp_path: Path) -> None:
    """Five samples of a task in batches of three: the ranks run different batches."""
    row = Row("ZeroShot", callbacks=({"class_path": "CKAAnalysis", "init_args": {"through": "current"}},))
    made = Made(row, tmp_path, llava_folder)
    single, first, second = run_and_read(made.job("single"), *ranks_of(made.job("pair")))
    assert first["path"] == second["path"] != single["path"]
    reports = [
        read_json(RunFolder.open(each["path"]).analysis_path("cka") / "cka.json") for each in (single, first)
    ]
    assert reports[0] == reports[1]
    assert reports[0]["samples"] == 5
