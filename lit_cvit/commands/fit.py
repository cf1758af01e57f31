"""fit: learn a stream of tasks, as a configuration says, and score every stage."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the verb; options are those of the classes in the configuration."""
    from lit_cvit.cli.isolated import Isolated, fit_each
    from lit_cvit.cli.stream_cli import StreamCLI

    try:
        StreamCLI(argv)
    except Isolated as asked:
        return fit_each(argv, asked)
    return 0
