"""Two processes against one: seconds of training at the same global batch, on one thread each.

    python benchmarks/ranks.py [--rounds 3] [--json FILE] [-- --data.tasks [TextVQA] ...]

Real runs of `fit` that take turns; compared are the seconds of training in the runs' records, which leave out
start and evaluation. Both learn from the same samples in the same order; the largest difference of
a weight after the stage is printed beside the ratio. On a machine whose cores do other work the ratio says
nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rounds import machine, options, ratio, shown, write_json

from lit_cvit.run import RunFolder

SETTINGS = [
    *("--config", "studies/cvit_mini", "--model", "SMoLoRA", "--data.tasks", "[TextVQA]"),
    *(
        "--data.global_batch_size",
        "64",
        "--data.settings.num_train",
        "3200",
        "--data.settings.num_test",
        "20",
    ),
]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def fit(ranks: int, folder: Path, name: str, more: list[str]) -> RunFolder:
    """Fit on so many processes."""
    command = [sys.executable, "-W", "ignore", "-m", "lit_cvit", "fit", *SETTINGS, *more]
    command += ["--data.batch_size", str(64 // ranks), "--run_root", str(folder), "--name", name]
    if ranks > 1:
        command += ["--trainer.devices", str(ranks), "--trainer.strategy", "ddp"]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **ONE_THREAD})
    return RunFolder.open(folder / name)


def main() -> None:
    """Take turns and print."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("more", nargs="*", help="further arguments of `fit`")
    args = parser.parse_args()
    print(machine())
    times: dict[str, list[float]] = {"1 rank": [], "2 ranks": []}
    apart = 0.0
    with tempfile.TemporaryDirectory() as name:
        for number in range(args.rounds):
            one, two = (fit(ranks, Path(name), f"{number}-{ranks}", args.more) for ranks in (1, 2))
            for ranks, run in zip(times, (one, two), strict=True):
                times[ranks].append(run.record.stage(1).seconds["train"])
            first, second = (run.load_stage(1).tensors for run in (one, two))
            apart = max(apart, *(float((first[key] - second[key]).abs().max()) for key in first))
    gain = ratio(times, "1 rank", "2 ranks")
    print(f"1 rank / 2 ranks: {shown(gain)}; weights at most {apart:.1e} apart")
    write_json(args.json, args, {"seconds": times, "gain": gain, "apart": apart})


if __name__ == "__main__":
    main()
