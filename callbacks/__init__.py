"""Mechanisms that combine with any method, one callback per file."""

from callbacks.stage_evaluation import StageEvaluation
from callbacks.stream_progress import StreamProgress

__all__ = ["StageEvaluation", "StreamProgress"]
