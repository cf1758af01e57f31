"""StreamProgress: what a person reads of a run, on a terminal and elsewhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from stream_kit import Killed, fit, small_data, small_method

from callbacks import Replay, StageEvaluation, StreamProgress
from callbacks.stream_progress import TerminalTable, header
from lit_cvit.methods import ContinualMethod, DirLoRA, SMoLoRA, ZeroShot
from lit_cvit.report import matrix_table
from lit_cvit.run import RunFolder, ScoreMatrix
from lit_cvit.stream.stage_callback import StageCallback
from lit_cvit.stream.trainer import ContinualTrainer


def callbacks(progress: StreamProgress, **evaluation: Any) -> list[Callback]:
    return [StageEvaluation(**{"downstream": False, **evaluation}), progress]


@pytest.fixture(scope="module")
def printed(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, RunFolder]:
    progress = StreamProgress(every_seconds=0)
    progress.console = Console(file=io.StringIO(), soft_wrap=True, highlight=False)
    method = small_method(llava_folder, SMoLoRA)
    root = tmp_path_factory.mktemp("runs")
    run = fit(root, method, callbacks=callbacks(progress), plans_memory=True).run
    return progress.console.file.getvalue(), run  # type: ignore[attr-defined]


def test_plain_output_has_no_control_characters(printed: tuple[str, RunFolder]) -> None:
    assert "\x1b" not in printed[0]
    assert "\r" not in printed[0]


def test_the_header_says_what_is_about_to_happen(printed: tuple[str, RunFolder]) -> None:
    text, run = printed
    assert text.startswith("memory plan, computed before the weights are loaded\n")
    lines = text[text.index("method    ") :].splitlines()
    assert lines[:2] == [
        "method    SMoLoRA, seed 0",
        "access    instruction text, encoder sentence-transformers/all-MiniLM-L6-v2",
    ]
    assert lines[2].endswith(", 0.29 million parameters, frozen")
    assert lines[3:8] == [
        f"trains    {run.record.stage(1).facts['parameters']['trainable']:,} parameters",
        "stream    cvit-mini: ScienceQA > GQA",
        "planned   4 steps of 4 samples in 2 stage(s), 3 passes over test splits",
        f"run       {run.path}",
        "miniature: these numbers cannot be compared with published ones",
    ]


def test_every_stage_says_what_it_trains(printed: tuple[str, RunFolder]) -> None:
    reported = [line for line in printed[0].splitlines() if "trainable" in line]
    counts = printed[1].record.stage(1).facts["parameters"]["trainable"]
    assert reported == [
        f"stage {number}/2: {task}, 8 samples, 2 steps, {counts:,} trainable parameters"
        for number, task in ((1, "ScienceQA"), (2, "GQA"))
    ]


def test_every_step_says_where_it_is_and_what_is_left(printed: tuple[str, RunFolder]) -> None:
    lines = [line for line in printed[0].splitlines() if ", step " in line]
    starts = [line.split(", loss")[0] for line in lines]
    assert starts == [
        "stage 1/2 ScienceQA, step 1",
        "stage 1/2 ScienceQA, step 2",
        "stage 2/2 GQA, step 3",
        "stage 2/2 GQA, step 4",
    ]
    assert all(line.endswith("min left") for line in lines)


def test_the_matrix_follows_every_stage_and_the_summary_the_last(printed: tuple[str, RunFolder]) -> None:
    text = printed[0]
    places = [text.index(part) for part in ("scores after stage 1", "scores after stage 2", "summary")]
    assert places == sorted(places)
    summary = text[places[-1] :]
    assert [name for name in ("AP", "MAP", "BWT", "MIF") if name in summary] == ["AP", "MAP", "BWT", "MIF"]
    assert text.splitlines()[-1] == f"run folder: {printed[1].path}"


@pytest.mark.parametrize(
    ("family", "evaluation", "passes"),
    [
        (DirLoRA, {"tasks": "last"}, 3),
        (DirLoRA, {"tasks": "all"}, 4),
        (DirLoRA, {"downstream": True}, 6),
        (ZeroShot, {}, 2),
    ],
)
def test_the_planned_passes_are_those_of_the_evaluation(
    llava_folder: Path, tmp_path: Path, family: Any, evaluation: dict[str, Any], passes: int
) -> None:
    progress = StreamProgress()
    progress.console = Console(file=io.StringIO(), soft_wrap=True)

    class Stop(StageCallback):
        def on_stage_start(self, *_: Any) -> None:
            raise Killed

    with pytest.raises(Killed):
        fit(
            tmp_path,
            small_method(llava_folder, family),
            callbacks=[*callbacks(progress, **evaluation), Stop()],
        )
    assert f"{passes} passes over test splits" in progress.console.file.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_one_bar_for_the_whole_stream(llava_folder: Path, tmp_path: Path) -> None:
    progress = StreamProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    fit(tmp_path, small_method(llava_folder), callbacks=callbacks(progress))
    assert progress._progress is not None
    bars = progress._progress.tasks
    assert [(bar.total, bar.completed) for bar in bars] == [(4, 4)]
    assert not progress._progress.live.is_started


def planned(trainer: ContinualTrainer, method: ContinualMethod) -> str:
    return next(line for line in header(trainer, method) if line.startswith("planned")).split(" in ")[0]


class Planned(StageCallback):
    """The planned steps as they are given at every step; the run may end before one."""

    def __init__(self, kill_at: int = -1) -> None:
        super().__init__()
        self.kill_at, self.reported = kill_at, list[str]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.kill_at:
            raise Killed
        self.reported.append(planned(trainer, pl_module))


def test_replayed_rows_of_stages_to_come_are_planned(llava_folder: Path, tmp_path: Path) -> None:
    """Three tasks of 20 rows in steps of 16; 20 and 40 rows come back: 2 + 3 + 4 steps, also on resume."""

    def run(watch: Planned, ckpt_path: str | None = None) -> ContinualTrainer:
        data = small_data(tasks=["ScienceQA", "GQA", "VQAv2"], settings={"num_train": 20, "num_test": 2})
        progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
        each = [watch, Replay(), progress]
        method = small_method(llava_folder)
        return fit(tmp_path, method, data, callbacks=each, ckpt_path=ckpt_path, checkpoint_every_n_steps=1)

    first, again, progress = Planned(kill_at=3), Planned(), StreamProgress()
    with pytest.raises(Killed):
        run(first)
    progress = StreamProgress()
    trainer = run(again, "last")
    assert first.reported == ["planned   9 steps of 16 samples"] * 3
    assert again.reported == ["planned   9 steps of 16 samples"] * 6
    assert trainer.global_step == 9
    assert progress._progress is not None
    assert [(bar.total, bar.completed) for bar in progress._progress.tasks] == [(9, 9)]


def test_an_error_in_training_gives_the_terminal_back(llava_folder: Path, tmp_path: Path) -> None:
    class Break(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise ZeroDivisionError

    progress = StreamProgress()
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, small_method(llava_folder), callbacks=[*callbacks(progress), Break()])
    assert progress._progress is not None
    assert not progress._progress.live.is_started


def test_a_run_without_scores_still_says_where_it_is(
    llava_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit(tmp_path, small_method(llava_folder, ZeroShot), small_data(), callbacks=[StreamProgress()]).run
    text = capsys.readouterr().out
    assert "summary" not in text
    assert f"run folder: {run.path}" in text


def test_resuming_a_finished_run_still_shows_its_header_once(llava_folder: Path, tmp_path: Path) -> None:
    texts = []
    for ckpt_path in (None, "last"):
        progress = StreamProgress()
        progress.console = Console(file=io.StringIO(), soft_wrap=True)
        data = small_data(tasks=["GQA"])
        fit(tmp_path, small_method(llava_folder), data, callbacks=callbacks(progress), ckpt_path=ckpt_path)
        texts.append(progress.console.file.getvalue())  # type: ignore[attr-defined]
    assert [text.count("access    ") for text in texts] == [1, 1]
    assert "stream    cvit-mini: GQA (stages 1 to 1 are done)" in texts[1]
    assert ["since it was resumed" in text for text in texts] == [False, True]


# -- the matrix on a terminal -------------------------------------------------------------------------------

CVIT = ("ScienceQA", "TextVQA", "Flickr30k", "ImageNet", "GQA", "VQAv2")
MANY = tuple(f"dialogue-{number:02d}-of-the-stream" for number in range(1, 20))


def matrix(tasks: tuple[str, ...], captions: tuple[str, ...] = ()) -> ScoreMatrix:
    """Stage s scores 10 s + t / 100 at every task t that it has seen."""
    cells = [[10.0 * s + t / 100 if t <= s else None for t in range(len(tasks))] for s in range(len(tasks))]
    return ScoreMatrix(tasks=tasks, captions=captions, stages=tasks, scores=cells, mif=cells)


def shown(matrix: ScoreMatrix, width: int, *, soft_wrap: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=width, soft_wrap=soft_wrap)
    console.print(TerminalTable(matrix_table(matrix), "scores"))
    lines: list[str] = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    return lines


def columns(lines: list[str]) -> dict[str, list[str]]:
    """Cells by column name, over all parts of the table."""
    found: dict[str, list[str]] = {}
    header: list[str] = []
    for line in lines:
        cells = [cell.strip() for cell in line.replace("\u2503", "\u2502").split("\u2502")[1:-1]]
        if "\u2503" in line:
            header = cells
            found |= {name: [] for name in cells}
        elif cells:
            for name, cell in zip(header, cells, strict=True):
                found[name].append(cell)
    return found


@pytest.mark.parametrize("soft_wrap", [False, True])
def test_the_names_of_all_six_tasks_are_whole_on_80_columns(soft_wrap: bool) -> None:
    lines = shown(matrix(CVIT, ("Flickr30k",)), 80, soft_wrap=soft_wrap)
    found = columns(lines)
    names = ["ScienceQA", "TextVQA", "Flickr30k*", "ImageNet", "GQA", "VQAv2"]
    assert list(found) == ["stage", "learned", *names, "mean seen", "without captions"]
    assert found["stage"] == ["1", "2", "3", "4", "5", "6"]
    assert found["learned"] == list(CVIT)
    assert found["GQA"] == ["", "", "", "", "40.04", "50.04"]
    assert [line.strip() for line in lines if "scores" in line] == ["scores"]
    assert "caption metric" in " ".join(lines)


def test_a_table_that_fits_is_printed_in_one_part() -> None:
    assert sum("stage" in line for line in shown(matrix(CVIT), 120)) == 1


def test_nineteen_long_names_are_whole_on_80_columns() -> None:
    found = columns(shown(matrix(MANY), 80))
    assert list(found) == ["stage", "learned", *MANY, "mean seen"]
    assert found[MANY[18]] == [""] * 18 + ["180.18"]


def test_a_name_wider_than_the_terminal_is_folded_and_not_cut() -> None:
    lines = shown(matrix(("a-task-with-quite-a-long-name",)), 24)
    cells = [line.split("\u2503")[2].strip() for line in lines if "\u2503" in line]
    assert "a-task-with-quite-a-long-name" in "".join(cells)
