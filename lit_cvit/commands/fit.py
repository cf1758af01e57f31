"""fit: learn a stream of tasks, as a configuration says, and score every stage."""

from __future__ import annotations

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    """Run the verb; options are those of the classes in the configuration."""
    from lit_cvit.cli.stream_cli import StreamCLI

    StreamCLI(argv)
    return 0
