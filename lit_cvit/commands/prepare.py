"""prepare: build a benchmark's records from the data sets as their owners publish them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_cvit.cli.errors import CleanExit
from lit_cvit.cli.verb_parser import VerbParser
from lit_cvit.data.prepare import benchmark_names
from lit_cvit.data.prepare.base import Request
from lit_cvit.data.prepare.running import prepare


def run(argv: Sequence[str]) -> int:
    """Run the verb: write OUT/<task>/{train,test}.jsonl and a manifest, and say what was found and dropped.

    Raises:
        ValueError: an option is wrong, raw files are missing (all are named at once), or a task failed.
    """
    parser = VerbParser("prepare", __doc__)
    parser.add_argument("--benchmark", required=True, help=f"one of {', '.join(benchmark_names())}")
    parser.add_argument(
        "--raw", required=True, type=Path, help="folder of the downloads, with a folder for every data set"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder to write to, with a folder for every task"
    )
    parser.add_argument("--tasks", nargs="+", help="only these tasks")
    parser.add_argument(
        "--limit", type=int, default=0, help="the first N records of every split, for a trial"
    )
    parser.add_argument("--workers", type=int, default=0, help="tasks at a time; as many as cores by default")
    parser.add_argument(
        "--without_images",
        action="store_true",
        help="do not look for images: they lie elsewhere or come later",
    )
    chosen = parser.parse_args(argv)
    for option in ("limit", "workers"):
        if getattr(chosen, option) < 0:
            raise CleanExit(f"--{option} must be 0 or more, got {getattr(chosen, option)}")
    request = Request(chosen.benchmark, chosen.raw, chosen.out, chosen.limit, chosen.without_images)
    outcomes = prepare(request, tasks=chosen.tasks, workers=chosen.workers)
    for outcome in outcomes:
        print("\n".join(outcome.lines()))
    failed = [outcome for outcome in outcomes if outcome.error]
    if failed:
        reasons = "\n".join(f"  {outcome.task}: {outcome.error}" for outcome in failed)
        raise ValueError(
            f"{len(failed)} of {len(outcomes)} tasks failed:\n{reasons}\n"
            "The others are done and will not be made again."
        )
    print(f"{len(outcomes)} tasks in {chosen.out}: ready for `check` and `fit`")
    return 0
