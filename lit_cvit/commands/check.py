"""check: verify every record and image that a configuration would train and test on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_cvit.cli.arguments import own_options
from lit_cvit.cli.errors import CleanExit

if TYPE_CHECKING:
    from lit_cvit.data.validation.check import OnProgress

_HELP = """check takes the options of `fit`, and
  --all            name every bad record and image, not the first three of each kind
  --decode_images  open every image; without it, image files are looked up
  --workers N      processes that open images (default: one for each CPU)
"""


def run(argv: Sequence[str]) -> int:
    """Run the verb: `--config` and all options of `fit`, `--all`, `--decode_images` and `--workers`."""
    from lit_cvit.cli.stream_cli import StreamCLI
    from lit_cvit.data.datamodule import ContinualDataModule
    from lit_cvit.utils.wording import counted

    if {"-h", "--help"} & set(argv):
        print(_HELP)
    options, rest = _options(argv)
    cli = StreamCLI(rest, run=False)
    data, backbone = cli.datamodule, cli.model.backbone
    assert isinstance(data, ContinualDataModule)
    # Nothing is downloaded to check records.
    encoder = backbone.encoder if backbone.is_here else None
    with _bar() as show:
        reports = data.check(
            encoder=encoder,
            decode_images=options.decode_images,
            workers=options.workers,
            on_progress=show,
            list_all=options.all,
        )
    for report in reports:
        print("\n".join(report.lines()))
    if not options.decode_images and any(report.num_images for report in reports):
        print("images: files were looked up, nothing was decoded; --decode_images opens every image")
    if encoder is None:
        print(f"backbone {backbone.name_or_path!r} is not on this machine: `fit` checks what it can take")
    stages = data.stages(seed=0)
    num_steps = sum(stage.num_steps for stage in stages)
    print(f"{counted(len(stages), 'stage')}, {counted(num_steps, 'step')}: ready to fit")
    return 0


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this verb alone, and the others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--decode_images", "--decode-images", action="store_true")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--all", action="store_true")
    options, rest = own_options(parser, argv)
    if options.workers is not None and options.workers < 1:
        raise CleanExit(f"--workers must be a whole number of at least 1, got {options.workers}")
    if options.workers is not None and not options.decode_images:
        raise CleanExit("--workers goes with --decode_images; records are read by one process")
    return options, rest


@contextmanager
def _bar() -> Iterator[OnProgress]:
    """A progress bar on a terminal, below what is printed; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)
        current = ""

        def show(what: str, done: int, total: int) -> None:
            nonlocal current
            if what != current:
                current = what
                progress.reset(bar, description=what, total=total)
            progress.update(bar, completed=done)

        yield show
