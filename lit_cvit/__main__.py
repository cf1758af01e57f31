"""`python -m lit_cvit`: finds the verb and runs it. Importing this imports neither torch nor Lightning."""

from __future__ import annotations

import importlib
import os
import pkgutil
import select
import sys
import textwrap
import traceback
from collections.abc import Sequence

from lit_cvit import __version__, commands
from lit_cvit.cli.errors import CleanExit, dead_worker
from lit_cvit.utils.suggest import unknown

_TERMINATED, _INTERRUPTED, _UNREAD = 143, 130, 141
_TRACEBACK = "--traceback"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 SIGTERM.

    A user's error is one message without a stack trace, unless `--traceback` asks for it. Where nobody reads
    the output any more (`| head`), the verb ends without a message and with status 141.
    """
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        unread = _unread()
        if not unread:
            raise
        # Python flushes both once more on its way out.
        for number in unread:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
        return _UNREAD
    return status


def _run(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = _TRACEBACK in arguments
    arguments = [argument for argument in arguments if argument != _TRACEBACK]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"lit_cvit {__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    if verb not in _verbs():
        print(f"lit_cvit: {unknown('verb', verb, _verbs())}", file=sys.stderr)
        return 2
    try:
        status: int = importlib.import_module(f"{commands.__name__}.{verb}").run(rest)
    except SystemExit as stop:
        # Inside a stage, Lightning turns an interrupt into an exit with status 1 and says nothing.
        if isinstance(stop.__context__, KeyboardInterrupt) or stop.code == _INTERRUPTED:
            return _interrupted(verb)
        if not stop.code and _unread():
            # argparse keeps silent about a help that it could not write.
            return _UNREAD
        if stop.code == _TERMINATED:
            print(f"lit_cvit {verb}: stopped by SIGTERM{_advice(verb)}", file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except (ValueError, OSError, RuntimeError) as error:
        died = dead_worker(error)
        unread = isinstance(error, BrokenPipeError) and _unread()
        if unread or (isinstance(error, RuntimeError) and not died):
            raise
        if wants_traceback:
            traceback.print_exc()
        print(f"lit_cvit {verb}: {died or error}", file=sys.stderr)
        return error.status if isinstance(error, CleanExit) else 1
    except KeyboardInterrupt:
        return _interrupted(verb)
    return status


def _unread() -> list[int]:
    """The numbers of standard output and error, where they are pipes that nobody reads any more."""
    if sys.platform == "win32":  # which has no poll
        return []
    poll = select.poll()
    for number in (1, 2):
        poll.register(number, 0)
    return [number for number, event in poll.poll(0) if event & select.POLLERR]


def _interrupted(verb: str) -> int:
    print(f"lit_cvit {verb}: interrupted{_advice(verb)}", file=sys.stderr)
    return _INTERRUPTED


def _advice(verb: str) -> str:
    advice = {
        "fit": "; continue with the same command and --ckpt_path last",
        "sweep": "; the same command goes on with what is left",
        "prepare": "; the same command goes on with the tasks that are not done",
    }
    return advice.get(verb, "")


def _verbs() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(commands.__path__)]


def _help() -> str:
    lines = [
        "usage: python -m lit_cvit VERB [options]",
        "",
        "Continual visual instruction tuning as PyTorch Lightning modules and callbacks.",
        "",
        "verbs:",
    ]
    for verb in _verbs():
        about = importlib.import_module(f"{commands.__name__}.{verb}").__doc__ or ""
        summary = about.strip().splitlines()[0].split(": ", 1)[-1]
        lines += textwrap.wrap(summary, 96, initial_indent=f"  {verb:10}", subsequent_indent=" " * 12)
    return "\n".join(
        [
            *lines,
            "",
            "`VERB --help` lists a verb's options; `--traceback` shows where an error came from.",
            "Start with: python -m lit_cvit fit --config quickstart",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
