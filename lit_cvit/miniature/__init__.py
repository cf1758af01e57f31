"""Everything drawn: scenes, questions about them, and the pre-training of `tiny` on both."""
