"""The argument parser of the verbs that work on a finished run: its errors are one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from lit_cvit.cli.errors import CleanExit
from lit_cvit.utils.suggest import did_you_mean


class VerbParser(argparse.ArgumentParser):
    """An argparse parser that raises `CleanExit` and names the nearest option.

    Args:
        verb: The verb.
        description: What `--help` says first.
    """

    def __init__(self, verb: str, description: str | None) -> None:
        super().__init__(f"lit_cvit {verb}", description=description, allow_abbrev=False)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse; an unknown option is named before argparse asks for a required one.

        Raises:
            CleanExit: an option is unknown, missing or has a wrong value.
        """
        known = list(self._option_string_actions)
        for argument in args or ():
            name = argument.partition("=")[0]
            if argument.startswith("--") and name not in known:
                hint = did_you_mean(name, known) or f"Known: {', '.join(known)}"
                raise CleanExit(f"unknown option {name}. {hint}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage.

        Raises:
            CleanExit: always.
        """
        raise CleanExit(f"{message}; `--help` lists the options")
