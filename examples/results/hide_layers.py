"""HiDe's Table 3 and Figs. 2 and 5: the same trained blocks with other layers expanded and fused.

    python examples/results/hide_layers.py runs/four_papers/ucit-HiDe-all-0 runs/four_papers/ucit-HiDe-all-1

Where layers are expanded or fused matters at test alone, so a run is trained once and answered once for every
row. Values are means over the runs, captions by exact content.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from cells import is_finished
from tables import table, with_content

from lit_cvit.cli.stream_cli import StreamCLI
from lit_cvit.data.datamodule import ContinualDataModule
from lit_cvit.evaluation import evaluate_task, evaluating
from lit_cvit.methods import HiDe
from lit_cvit.methods.hide.placement import Layers
from lit_cvit.report import run_summary
from lit_cvit.run import RunFolder, ScoreMatrix, StageScores
from lit_cvit.stream.preflight import introduce
from lit_cvit.stream.restore import restored_stages

# Expanded layers, fused ones, coefficient of the fused. Table 3: merged and expanded layers; Fig. 2: one
# expanded layer at a depth, the rest fused; Fig. 5: other coefficients.
ROWS: dict[str, tuple[Layers, Layers, float]] = {
    "merge all": ([], "all", 1.0),
    "merge all but the top": ([], "below_top", 1.0),
    "expand all": ("all", [], 1.0),
    "expand all but the top": ("below_top", [], 1.0),
    "expand the top, merge the rest (HiDe)": ("top", "all", 1.0),
    "expand layer 0, merge the rest": ([0], "all", 1.0),
    "expand layer 1, merge the rest": ([1], "all", 1.0),
    "expand layer 2, merge the rest": ([2], "all", 1.0),
    "expand the upper half, merge the rest": ([2, 3], "all", 1.0),
    "expand all but layer 0, merge it": ([1, 2, 3], "all", 1.0),
    "HiDe with coefficients 0.5": ("top", "all", 0.5),
    "HiDe with coefficients 0.25": ("top", "all", 0.25),
    "merge all with coefficients 0.5": ([], "all", 0.5),
}
COLUMNS = {"Avg": "HiDe Avg", "Last": "HiDe Last"}


def placed(run: RunFolder, expand: Layers, fuse: Layers, epsilon: float) -> ScoreMatrix:
    """The score matrix that a run of HiDe has with other layers expanded and fused."""
    cli = StreamCLI(["--config", str(run.config_path)], run=False)
    method, data, device = cli.model, cli.datamodule, cli.trainer.strategy.root_device
    assert isinstance(method, HiDe)
    assert isinstance(data, ContinualDataModule)
    # After construction: a method without an expanded layer would not take the run's anchors.
    method.expand, method.fuse, method.epsilon = expand, fuse, epsilon
    introduce(method, data)
    method.prepare()
    rows: list[tuple[str, StageScores | None]] = []
    for state in restored_stages(method, run):
        seen = data.stream[: state.stage]
        with evaluating(method, device):
            scores = {task.name: evaluate_task(method, data, task, device=device).score for task in seen}
        rows.append((seen[-1].name, StageScores(state.stage, seen[-1].name, scores)))
    return ScoreMatrix.build(rows, tasks=run.record.stream, captions=run.record.captions)


def main() -> None:
    """Answer every row for every run, keep the matrices beside the runs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs of HiDe")
    parser.add_argument("--only", default="", help="rows whose names contain this")
    options = parser.parse_args()
    if unfinished := [str(folder) for folder in options.runs if not is_finished(folder)]:
        parser.error(f"finished runs are needed; not finished: {', '.join(unfinished)}")
    lines = []
    for name, (expand, fuse, epsilon) in ROWS.items():
        if options.only not in name:
            continue
        values = []
        for folder in options.runs:
            stored = folder.parent / f"{folder.name}-layers" / f"{name}.json"
            if stored.is_file():
                matrix = ScoreMatrix.from_json(json.loads(stored.read_text()), source=stored)
            else:
                matrix = placed(RunFolder.open(folder), expand, fuse, epsilon)
                stored.parent.mkdir(exist_ok=True)
                stored.write_text(json.dumps(matrix.to_json()), encoding="utf-8")
            summary = run_summary(with_content(matrix))
            values.append([summary[metric] for metric in COLUMNS.values()])
        lines.append([name, *(f"{mean:.1f}" for mean in np.mean(values, axis=0))])
        print(lines[-1], flush=True)
    print(table(["layers", *COLUMNS], lines))


if __name__ == "__main__":
    main()
