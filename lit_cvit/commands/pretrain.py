"""pretrain: make weights for the `tiny` backbone from drawn scenes, in most of an hour on 2 cores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run(argv: Sequence[str]) -> int:
    """Run the verb: `--config` with the recipe, `--out` for the model folder."""
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_cvit.cli.errors import CleanExit
    from lit_cvit.cli.parse_errors import explain
    from lit_cvit.cli.shipped import find_config
    from lit_cvit.miniature.pretrain import pretrain
    from lit_cvit.miniature.recipe import Recipe

    parser = ArgumentParser(prog="lit_cvit pretrain", allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=str | None, default=None, help="YAML with the recipe")
    parser.add_argument("--out", type=str, default="tiny_weights", help="folder to write")
    parser.add_class_arguments(Recipe, "recipe")
    arguments = list(argv)
    try:
        first = parser.parse_args(arguments)
        recipe = [] if first.config is None else _options(find_config(first.config))
        arguments = [*recipe, *argv]
        chosen = parser.instantiate(parser.parse_args(arguments))
    except ArgumentError as error:
        keys = parser.get_defaults().keys()
        raise CleanExit(explain(error, arguments, {"recipe": Recipe}, keys)) from error
    print(f"wrote {pretrain(chosen.recipe, Path(chosen.out))}")
    return 0


def _options(path: Path) -> list[str]:
    """The recipe of a configuration as options; those of the command line come later and win."""
    from lit_cvit.cli.shipped import read_config

    values = read_config(path)
    if set(values) != {"recipe"} or not isinstance(values["recipe"], dict):
        raise ValueError(f"--config {path}: want one key, `recipe`, got {', '.join(map(str, values))}")
    return [f"--recipe.{name}={value}" for name, value in values["recipe"].items()]
