"""plan: say what a configuration would cost in memory, steps, test passes and time; nothing is run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_cvit.cli.arguments import own_options
from lit_cvit.cli.errors import CleanExit

_HELP = """plan takes the options of `fit`, and
  --seconds_per_step X    seconds of an optimizer step, where no run of this configuration was measured
  --seconds_per_answer Y  seconds of an answer to a test sample, likewise
"""


def run(argv: Sequence[str]) -> int:
    """Run the verb: `--config` and all options of `fit`, `--seconds_per_step` and `--seconds_per_answer`."""
    from lit_cvit.cli.run_plan import Pace, plan_lines
    from lit_cvit.cli.stream_cli import StreamCLI

    if {"-h", "--help"} & set(argv):
        print(_HELP)
    options, rest = _options(argv)
    cli = StreamCLI(rest, run=False)
    pace = Pace(options.seconds_per_step, options.seconds_per_answer, "as given")
    print("\n".join(plan_lines(cli, pace)))
    return 0


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this verb alone, and the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--seconds_per_step", type=float)
    parser.add_argument("--seconds_per_answer", type=float)
    options, rest = own_options(parser, argv)
    for name, value in vars(options).items():
        if value is not None and not value > 0:
            raise CleanExit(f"--{name} must be more than 0, got {value}")
    return options, rest
