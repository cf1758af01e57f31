"""What commands take before they do anything: imports, help, printing a configuration.

    python benchmarks/startup.py [--rounds 5] [--json FILE]

Each command is a process of its own; commands take turns, and the bare interpreter is one of them, whose time
is within all others. Then come the packages that `fit --print_config` imports, by what each takes itself.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections import Counter
from functools import partial

from rounds import machine, options, take_turns, write_json

FIT = ["-m", "lit_cvit", "fit", "--config", "quickstart", "--print_config"]
COMMANDS = {
    "bare interpreter": ["-c", ""],
    "import lit_cvit": ["-c", "import lit_cvit"],
    "import torch": ["-c", "import torch"],
    "import lightning": ["-c", "import lightning"],
    "python -m lit_cvit --help": ["-m", "lit_cvit", "--help"],
    "fit --print_config": FIT,
    "fit --help": ["-m", "lit_cvit", "fit", "--help"],
}


def run(arguments: list[str], *options: str) -> str:
    """Run a command and return what it writes to standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *options, *arguments], check=True, capture_output=True, text=True
    )
    return done.stderr


def own_times(report: str) -> Counter[str]:
    """Seconds of `-X importtime` by top-level package."""
    found: Counter[str] = Counter()
    for line in report.splitlines():
        head, _, name = line.rpartition("|")
        if head.startswith("import time:") and head.split(":")[1].split("|")[0].strip().isdigit():
            found[name.strip().split(".")[0]] += int(head.split(":")[1].split("|")[0]) / 1e6
    return found


def main() -> None:
    """Take turns and print."""
    parser = options(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(machine())
    times = take_turns({name: partial(run, command) for name, command in COMMANDS.items()}, args.rounds)
    for name, seconds in times.items():
        print(f"{name:28} {statistics.median(seconds):6.2f} s, at least {min(seconds):.2f} s")
    packages = own_times(run(FIT, "-X", "importtime"))
    print("packages that `fit --print_config` imports, seconds of their own:")
    for name, seconds in packages.most_common(12):
        print(f"  {name:26} {seconds:6.2f} s")
    write_json(args.json, args, {"commands": times, "packages": packages})


if __name__ == "__main__":
    main()
