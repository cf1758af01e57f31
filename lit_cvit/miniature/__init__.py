"""Everything drawn: scenes, questions about them, and the pre-training of `tiny` on both."""

VERSION = 1
"""Of what the miniature benchmarks draw."""
