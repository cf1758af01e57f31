"""cka: how alike the decoder represents tasks and stages, layer by layer (HiDe's Fig. 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.verb_parser import VerbParser

if TYPE_CHECKING:
    from torch import Tensor

    from lit_cvit.report.cka import CKAReport
    from lit_cvit.run import RunFolder

Through = Literal["own", "last"] | int


def run(argv: Sequence[str]) -> int:
    """Run the analysis; prints the curve over the layers, and writes values and figures."""
    options = _parser().parse_args(argv)
    through = _through(options.through)

    from lit_cvit.report.cka import write_cka
    from lit_cvit.run import RunFolder, Writer

    report = cka_of_run(
        options.run,
        kernel=options.kernel,
        at=options.at,
        through=through,
        num_samples=options.samples,
        between_stages=not options.tasks_only,
        threshold=options.threshold,
    )
    run = RunFolder.open(options.run)
    out = options.out or run.analysis_path("cka")
    write_cka(Writer(), out, report, run.record)
    for layer, value in enumerate(report.curve.tolist()):
        print(f"layer {layer}: mean CKA of two tasks {value:.4f}")
    found = report.first_task_specific_layer
    none = f"none (no layer falls by more than {report.threshold:g})"
    print(f"first task-specific layer: {none if found is None else found}")
    print(f"wrote {out}")
    return 0


def _parser() -> VerbParser:
    parser = VerbParser("analyze cka", __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--kernel", choices=("linear", "rbf"), default="linear", help="default: linear")
    parser.add_argument(
        "--at",
        choices=("layer", "down_proj"),
        default="layer",
        help="the outputs of decoder layers, or of their mlp.down_proj; default: layer",
    )
    parser.add_argument(
        "--through",
        default="own",
        help="adapter that a task's inputs go through: that of its own stage, of the last one, or of a stage "
        "by number; default: own",
    )
    parser.add_argument("--samples", type=int, default=64, help="test samples of each task; default: 64")
    parser.add_argument("--tasks_only", action="store_true", help="leave out the comparison of stages")
    parser.add_argument(
        "--threshold",
        type=float,
        default=None,
        help="drop of the mean CKA that makes a layer the first task-specific one; default: 0.05",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder to write; default: RUN/analysis/cka")
    return parser


def _through(word: str) -> Through:
    words: dict[str, Through] = {"own": "own", "last": "last"}
    if word not in words and not word.isdecimal():
        raise CleanExit(f"--through must be own, last or the number of a stage, got {word!r}")
    return words[word] if word in words else int(word)


def cka_of_run(
    path: Path | str,
    *,
    kernel: Literal["linear", "rbf"] = "linear",
    at: Literal["layer", "down_proj"] = "layer",
    through: Through = "own",
    num_samples: int = 64,
    between_stages: bool = True,
    threshold: float | None = None,
) -> CKAReport:
    """Compare tasks and stages of a finished run by CKA.

    Args:
        path: The run folder.
        kernel: `linear` as in HiDe's paper, or `rbf` as in its published code.
        at: What is compared, `layer` outputs or those of `mlp.down_proj` (the published code).
        through: The adapter that a task's inputs go through: that of the task's `own` stage (the paper), of
            the `last` stage, or of the stage of that number.
        num_samples: Test samples of each task.
        between_stages: Also compare, for every task, the stages from its own on.
        threshold: Drop of the mean CKA that makes a layer the first task-specific one; by default 0.05.

    Returns:
        The similarities; `lit_cvit.report.cka.write_cka` writes them.

    Raises:
        ValueError: the folder is no run, or has too few stages or tasks, or an option has no such value.
    """
    from lit_cvit.analysis.cka import THRESHOLD, At, Kernel, squared_distances
    from lit_cvit.cli.load import walk_run
    from lit_cvit.probing.features import pooled_outputs, rows_of
    from lit_cvit.report.cka import CKAReport
    from lit_cvit.run import RunFolder
    from lit_cvit.utils.settings import NotNegative, check_settings

    threshold = THRESHOLD if threshold is None else threshold
    given = {"kernel": kernel, "at": at, "threshold": threshold}
    check_settings({"kernel": Kernel, "at": At, "threshold": NotNegative}, given, prefix="")
    folder = RunFolder.open(path)
    own = _own_stages(folder)
    chosen = _chosen(folder, own, through)
    wanted = {(task, stage) for task, stage in chosen.items()}
    if between_stages:
        wanted |= {(task, stage) for task in own for stage in folder.stages_done() if stage >= own[task]}
    rows: dict[str, list[int]] = {}
    distances: dict[str, dict[int, Tensor]] = {task: {} for task in chosen}
    for loaded in walk_run(
        path, reads=lambda run, data, stage: [data.benchmark.task(name) for name in chosen]
    ):
        rows = rows or rows_of(loaded.data.stream, num_samples)
        for task in [task for task in chosen if (task, loaded.stage) in wanted]:
            vectors = pooled_outputs(
                loaded.method,
                loaded.data,
                loaded.data.benchmark.task(task),
                rows[task],
                at=at,
                device=loaded.trainer.strategy.root_device,
                precision=loaded.trainer.precision_plugin.forward_context,
            )
            distances[task][loaded.stage] = squared_distances(vectors)
    return CKAReport(
        distances=distances,
        stages=chosen,
        rows=rows,
        kernel=kernel,
        at=at,
        through=through if isinstance(through, str) else f"stage {through}",
        threshold=threshold,
    )


def _own_stages(folder: RunFolder) -> dict[str, int]:
    """The stage that learned each task, in the order of the stages; a stage on a union of tasks has none."""
    done = [entry for entry in folder.record.stages if entry.stage in folder.stages_done()]
    return {entry.task: entry.stage for entry in done if entry.task in folder.record.stream}


def _chosen(folder: RunFolder, own: dict[str, int], through: Through) -> dict[str, int]:
    """The stage whose adapter each task goes through.

    Raises:
        ValueError: the stage is not trained, or fewer than two tasks are left.
    """
    from lit_cvit.stream.restore import require_stage

    done = folder.stages_done()
    if not done:
        raise ValueError(f"{folder.path} has no trained stage yet")
    if through == "own":
        if len(own) < 2:
            raise ValueError(
                f"{folder.path} has {len(own)} trained stages with a task of their own, and comparing tasks "
                "through their own stages needs two; with --through last all tasks go through one adapter"
            )
        return own
    stage = max(done) if through == "last" else through
    require_stage(folder, stage)
    tasks = list(own) or folder.record.stream
    if len(tasks) < 2:
        raise ValueError(f"{folder.path} has learned {len(tasks)} task, and comparing tasks needs two")
    return dict.fromkeys(tasks, stage)
