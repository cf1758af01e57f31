"""routing: which blocks each task's samples use, layer by layer and stage by stage (SMoLoRA's Figs. 6, 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.verb_parser import VerbParser

if TYPE_CHECKING:
    from lit_cvit.analysis.routing import RoutingReport
    from lit_cvit.cli.load import LoadedRun
    from lit_cvit.data.datamodule import ContinualDataModule
    from lit_cvit.data.tasks import Task
    from lit_cvit.run import RunFolder


def run(argv: Sequence[str]) -> int:
    """Run the analysis; writes values and figures of every stage, and prints where."""
    options = _parser().parse_args(argv)
    if options.samples < 1:
        raise CleanExit(f"--samples must be at least 1, got {options.samples}")

    from lit_cvit.report.routing import routing_folder, write_routing
    from lit_cvit.run import RunFolder, Writer

    folder = RunFolder.open(options.run)
    for report in routing_of_run(
        options.run, stage=options.stage, num_samples=options.samples, unseen=options.unseen
    ):
        inside = routing_folder(folder, report.stage)
        out = options.out / inside.name if options.out else inside
        write_routing(Writer(), out, report, folder.record)
        print(f"wrote {out}")
    return 0


def _parser() -> VerbParser:
    parser = VerbParser("analyze routing", __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--stage", type=int, default=None, help="stage number; default: every trained one")
    parser.add_argument("--samples", type=int, default=64, help="test samples of each task; default: 64")
    parser.add_argument(
        "--unseen", action="store_true", help="also tasks not learned yet, and downstream tasks"
    )
    parser.add_argument(
        "--out", type=Path, default=None, help="folder to write; default: RUN/analysis/routing"
    )
    return parser


def routing_of_run(
    path: Path | str, *, stage: int | None = None, num_samples: int = 64, unseen: bool = False
) -> Iterator[RoutingReport]:
    """How the method of a finished run routes the tasks after its stages.

    Args:
        path: The run folder.
        stage: Stage number; by default every trained stage in turn.
        num_samples: Test samples of each task.
        unseen: Whether later tasks of the stream and downstream tasks are run too.

    Raises:
        ValueError: the folder is no run, it has no such trained stage, or the method routes nothing.
    """
    from lit_cvit.analysis.routing import RoutingReport
    from lit_cvit.probing.tracing import trace_tasks

    for loaded in _loaded(path, stage, unseen):
        joint = loaded.method.access.joint_data
        learned = loaded.data.stages(seed=loaded.run.record.seed, joint=joint)[loaded.stage - 1]
        tasks = trace_tasks(
            loaded.method,
            loaded.data,
            learned,
            unseen=unseen,
            num_samples=num_samples,
            device=loaded.trainer.strategy.root_device,
            precision=loaded.trainer.precision_plugin.forward_context,
        )
        if not tasks:
            raise ValueError(
                f"{type(loaded.method).__name__} as configured in {path} routes nothing (no bank of it has a "
                "gate), so there is nothing to analyze"
            )
        yield RoutingReport(loaded.stage, learned.task.name, tasks)


def _loaded(path: Path | str, stage: int | None, unseen: bool) -> Iterator[LoadedRun]:
    from lit_cvit.cli.load import load_run, walk_run

    def traced(run: RunFolder, data: ContinualDataModule, last: int) -> list[Task]:
        if unseen:
            return [*data.stream, *data.downstream]
        learned = {entry.task for entry in run.record.stages[:last]}
        # A stage on a union of tasks has learned them all.
        return [task for task in data.stream if task.name in learned] or list(data.stream)

    if stage is not None:
        yield load_run(path, stage=stage, reads=traced)
        return
    found = False
    for loaded in walk_run(path, reads=traced):
        found = True
        yield loaded
    if not found:
        raise ValueError(f"{path} has no trained stage yet")
