"""The report folder and its figure."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lit_cvit.report import matrix_figure, png, write_report
from lit_cvit.run import RunFolder, RunRecord, ScoreMatrix, StageScores, TaskScore, Writer

SCORES = ({"QA": 80.0}, {"QA": 50.0, "Cap": 120.0, "Places": 33.0})


def make_run(root: Path, *, num_stages: int = 2, **changes: Any) -> RunFolder:
    facts: dict[str, Any] = {
        "seed": 3,
        "config_digest": "d",
        "method": "SMoLoRA",
        "benchmark": "cvit-mini",
        "stream": ["QA", "Cap"],
        "downstream": ["Places"],
        "captions": ["Cap"],
        "num_stages": 2,
        "miniature": True,
    }
    run = RunFolder.create(root, "quick", "", record=RunRecord(**{**facts, **changes}))
    for stage, (task, scores) in enumerate(zip(("QA", "Cap"), SCORES, strict=True), start=1):
        if stage <= num_stages:
            run.plan_stage(stage, task, {})
            run.save_stage(stage, {"w": torch.ones(1)}, {}, seconds=10.0)
            tasks = {name: TaskScore(score=value, count=4, mif=75.0) for name, value in scores.items()}
            run.save_scores(StageScores(stage, task, tasks), seconds=2.0)
    return run


def one_stage(**changes: Any) -> ScoreMatrix:
    values: dict[str, Any] = {
        "tasks": ("QA", "Cap"),
        "captions": ("Cap",),
        "stages": ("QA",),
        "scores": [[80.0, None]],
        "mif": [[None, None]],
    }
    return ScoreMatrix(**{**values, **changes})


def texts(figure: Figure) -> list[str]:
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    cells = [text.get_text() for axes in figure.axes for text in axes.texts]
    ticks = [label.get_text() for axes in figure.axes[:1] for label in axes.get_xticklabels()]
    legend = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return [figure.get_suptitle(), *titles, *cells, *ticks, *legend]


def test_the_report_has_its_five_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    written = write_report(run)
    names = ["matrix.md", "matrix.csv", "summary.md", "summary.csv", "matrix.png"]
    assert written == [run.path / "report" / name for name in names]
    assert sorted(path.name for path in (run.path / "report").iterdir()) == sorted(names)


def test_the_matrix_page_names_run_scores_downstream_and_form(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run)
    assert (run.path / "report" / "matrix.md").read_text() == (
        "# SMoLoRA on cvit-mini, seed 3\n"
        "\n"
        "Miniature benchmark: these numbers cannot be compared with published ones.\n"
        "\n"
        "## Score by task after each stage\n"
        "\n"
        "| stage | learned | QA | Cap\\* | mean seen | without captions |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: |\n"
        "| 1 | QA | 80.00 | - | 80.00 | 80.00 |\n"
        "| 2 | Cap | 50.00 | 120.00 | 85.00 | 50.00 |\n"
        "\n"
        "\\* caption metric: not a percentage; the last column averages without it\n"
        "\n"
        "## Downstream tasks\n"
        "\n"
        "| after stage | learned | task | score | MIF |\n"
        "| ---: | --- | --- | ---: | ---: |\n"
        "| 2 | Cap | Places | 33.00 | 75.00 |\n"
        "\n"
        "## Answers in the form asked for (MIF, %)\n"
        "\n"
        "| stage | learned | QA | Cap | mean seen |\n"
        "| ---: | --- | ---: | ---: | ---: |\n"
        "| 1 | QA | 75.00 | - | 75.00 |\n"
        "| 2 | Cap | 75.00 | 75.00 | 75.00 |\n"
    )


def test_the_summary_says_values_and_conditions(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run)
    page = (run.path / "report" / "summary.md").read_text().splitlines()
    for line in (
        "# SMoLoRA on cvit-mini, seed 3",
        "Miniature benchmark: these numbers cannot be compared with published ones.",
        "| AP | 85.00 | 50.00 |",
        "| stages | 2 of 2 |",
        "| seconds of training | 20.0 |",
        "| seconds of evaluation | 4.0 |",
    ):
        assert line in page
    rows = list(csv.DictReader(io.StringIO((run.path / "report" / "summary.csv").read_text())))
    assert rows[0] == {"metric": "AP", "value": "85.0", "without captions": "50.0"}


def test_a_given_summary_is_taken_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run, {"AP": 1.5})
    assert (run.path / "report" / "summary.csv").read_text() == "metric,value\nAP,1.5\n"


def test_a_full_size_benchmark_is_not_called_miniature(tmp_path: Path) -> None:
    run = make_run(tmp_path, miniature=False)
    write_report(run)
    assert "iniature" not in (run.path / "report" / "matrix.md").read_text()


def test_a_stopped_run_can_be_reported_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=1)
    write_report(run)
    assert "| stages | 1 of 2 |" in (run.path / "report" / "summary.md").read_text()


def test_a_run_without_scores_cannot_be_reported_on(tmp_path: Path) -> None:
    run = make_run(tmp_path, num_stages=0)
    with pytest.raises(ValueError, match="has no evaluated stage"):
        write_report(run)


def test_a_rank_that_does_not_write_writes_no_report(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(RunFolder.open(run.path, writer=Writer(enabled=False)))
    assert not (run.path / "report").exists()


def test_the_figure_is_a_png_of_a_readable_size(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    write_report(run)
    with Image.open(run.path / "report" / "matrix.png") as image:
        assert image.format == "PNG"
        assert image.width > 1000
        assert image.height > 400


def test_the_figure_shows_scores_names_captions_and_the_mean(tmp_path: Path) -> None:
    shown = texts(matrix_figure(make_run(tmp_path).matrix(), title="run"))
    for text in ("80.0", "50.0", "120.0", "QA", "Cap*", "mean of learned tasks,\nwithout captions"):
        assert text in shown


def test_caption_scores_above_100_have_their_own_axis(tmp_path: Path) -> None:
    figure = matrix_figure(make_run(tmp_path).matrix(), title="run")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["after stage", "score (%)", "* caption metric (dashed)"]
    drawn = [line.get_label() for line in figure.axes[2].get_lines()]
    assert drawn == ["Cap*"]
    assert figure.axes[2].get_ylim()[1] > 120.0


def test_the_title_says_miniature_only_of_a_miniature() -> None:
    assert matrix_figure(one_stage(), title="run").get_suptitle() == "run"
    title = matrix_figure(one_stage(), title="run", miniature=True).get_suptitle()
    assert title == "run (miniature benchmark: not comparable with published numbers)"


def test_one_stage_is_enough_for_a_figure() -> None:
    figure = matrix_figure(one_stage(), title="run")
    assert png(figure)[:8] == b"\x89PNG\r\n\x1a\n"
    assert [text.get_text() for text in figure.axes[0].texts] == ["80.0"]


def test_an_empty_matrix_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        matrix_figure(one_stage(stages=(), scores=[], mif=[]), title="run")


def test_equal_matrices_give_equal_pictures() -> None:
    first, second = (png(matrix_figure(one_stage(), title="run")) for _ in range(2))
    assert first == second


def test_the_summary_names_the_backbone(tmp_path: Path) -> None:
    known = {"class": "Llava", "name_or_path": "llava-hf/llava-1.5-7b-hf", "quantization": "nf4"}
    run = make_run(tmp_path, backbone=known)
    write_report(run)
    page = (run.path / "report" / "summary.md").read_text()
    assert "| backbone | Llava llava-hf/llava-1.5-7b-hf nf4 |" in page
