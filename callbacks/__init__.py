"""Mechanisms that combine with any method, one callback per file."""

from callbacks.dynamic_ema import DynamicEMA
from callbacks.replay import Replay
from callbacks.stage_evaluation import StageEvaluation
from callbacks.stream_progress import StreamProgress
from callbacks.task_recall import TaskRecall

__all__ = ["DynamicEMA", "Replay", "StageEvaluation", "StreamProgress", "TaskRecall"]
