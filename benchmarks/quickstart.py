"""Where the time of the quickstart goes: imports, planning, data, training, evaluation.

    python benchmarks/quickstart.py [--json FILE] [-- --data.tasks [TextVQA] ...]

A real run in this process, with the clock on its functions (`clock.py`); what follows `--` are further
arguments of `fit`. Indented parts lie within the one above them; samples, images and tokens are what batches
are made of, over training and evaluation.
"""

from __future__ import annotations

import statistics
import tempfile
import time

from clock import Clock, Functions
from rounds import machine, options, write_json


def watched() -> Functions:
    """The functions by part; imports the project, which takes its time too."""
    from callbacks import StageEvaluation
    from lit_cvit.backbones.base import Backbone
    from lit_cvit.backbones.encode import SampleEncoder
    from lit_cvit.data.batches import EvalBuilder, TrainBuilder
    from lit_cvit.data.datamodule import ContinualDataModule
    from lit_cvit.methods.base import ContinualMethod
    from lit_cvit.miniature.drawn import MiniSource
    from lit_cvit.stream.trainer import ContinualTrainer

    return {
        "fit": [(ContinualTrainer, "fit")],
        "  planning the run": [(ContinualTrainer, "plan_run")],
        "  loading": [(Backbone, "load")],
        "  training": [(ContinualTrainer, "_fit_stage")],
        "    batches": [(TrainBuilder, "__call__")],
        "    forward": [(ContinualMethod, "terms")],
        "  evaluation": [(StageEvaluation, "on_stage_saved")],
        "    lengths": [(ContinualDataModule, "eval_plan")],
        "    batches of prompts": [(EvalBuilder, "__call__")],
        "    generating": [(ContinualMethod, "generate")],
        "samples": [(MiniSource, "sample")],
        "images": [(SampleEncoder, "_images")],
        "tokens": [(SampleEncoder, "_row")],
    }


def main() -> None:
    """Run and print."""
    parser = options(__doc__)
    parser.add_argument("more", nargs="*", help="further arguments of `fit`")
    args = parser.parse_args()
    print(machine())
    start = time.perf_counter()
    functions = watched()
    imported = time.perf_counter() - start
    from lit_cvit.__main__ import main as command_line

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, clock.watching(functions):
        status = command_line(["fit", "--config", "quickstart", "--run_root", folder, *args.more])
    assert status == 0, f"the run ended with status {status}"
    total = time.perf_counter() - start
    print(f"imports {imported:.1f} s, in all {total:.1f} s")
    for part, seconds in clock.totals.items():
        print(f"{part:24} {seconds:8.1f} s {100 * seconds / total:6.1f} %")
    batches = clock.in_steps["    batches"]
    share = statistics.median(made / step for made, step in zip(batches, clock.steps, strict=True))
    step = statistics.median(clock.steps)
    print(f"a step takes {1000 * step:.1f} ms (median of {len(clock.steps)}), {100 * share:.1f} % its batch")
    found = {"imports": imported, "total": total, "parts": clock.totals, "step": step, "batch": share}
    write_json(args.json, args, found)


if __name__ == "__main__":
    main()
