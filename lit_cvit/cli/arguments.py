"""A command line as pairs of option and text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from lit_cvit.cli.errors import CleanExit

CONFIG_OPTIONS = ("-c", "--config")


def options(args: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Every option as it is written, with its text; None for a switch.

    Raises:
        CleanExit: a word belongs to no option.
    """
    left = list(args)
    while left:
        option, has_text, text = left.pop(0).partition("=")
        if not option.startswith("-"):
            raise CleanExit(
                f"got {option!r}, which belongs to no option; `--config {option}` names a configuration"
            )
        if has_text:
            yield option, text
        else:
            yield option, left.pop(0) if left and not left[0].startswith("--") else None


def as_settings(option: str, text: str) -> dict[str, Any]:
    """An option as the file that would say the same: `--data.seed 3` is `{data: {seed: 3}}`."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    for part in reversed(option.lstrip("-").split(".")):
        value = {part: value}
    settings: dict[str, Any] = value
    return settings


def own_options(parser: argparse.ArgumentParser, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of one verb, and the others, which are those of `fit`.

    Raises:
        CleanExit: an option of the verb has a wrong value.
    """
    try:
        return parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise CleanExit(str(error)) from error
