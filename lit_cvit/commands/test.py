"""test: score a run's tasks again, with the model as it was after any of its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lit_cvit.data.hints import unknown
from lit_cvit.errors import CleanExit
from lit_cvit.verb_parser import VerbParser


def run(argv: Sequence[str]) -> int:
    """Run the verb; prints a line per task, and with `--out` keeps scores and predictions as JSON lines."""
    parser = VerbParser("test", __doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--stage", type=int, default=None, help="stage number; default: the last one")
    parser.add_argument(
        "--tasks", nargs="+", default=None, help="task names; default: the tasks learned so far"
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for scores.json and predictions")
    options = parser.parse_args(argv)

    from lit_cvit.cli import load_run
    from lit_cvit.evaluation import evaluate_task
    from lit_cvit.run import Writer

    loaded = load_run(options.run, stage=options.stage)
    record, benchmark = loaded.run.record, loaded.data.benchmark
    learned = [entry.task for entry in record.stages[: loaded.stage]]
    every = [task.name for task in (*benchmark.stream, *benchmark.downstream)]
    for name in options.tasks or ():
        if name not in every:
            raise CleanExit(f"--tasks: {unknown('task', name, every)}")
    names = options.tasks or [name for name in record.stream if name in learned] or record.stream
    writer, scores = Writer(), {}
    for task in [benchmark.task(name) for name in names]:
        result = evaluate_task(
            loaded.method,
            loaded.data,
            task,
            device=loaded.trainer.strategy.root_device,
            precision=loaded.trainer.precision_plugin.forward_context,
        )
        scores[task.name] = asdict(result.score)
        print(f"{task.name}: {result.score.score:.2f} ({result.score.count} samples)")
        if options.out is not None:
            writer.write_lines(options.out / f"{task.name}.jsonl", result.rows)
    if options.out is not None:
        writer.write_json(options.out / "scores.json", {"stage": loaded.stage, "tasks": scores})
    return 0
