"""Mechanisms that combine with any method, one callback per file."""

from callbacks.cka_analysis import CKAAnalysis
from callbacks.dynamic_ema import DynamicEMA
from callbacks.replay import Replay
from callbacks.routing_trace import RoutingTrace
from callbacks.stage_evaluation import StageEvaluation
from callbacks.stream_progress import StreamProgress
from callbacks.task_recall import TaskRecall

__all__ = [
    "CKAAnalysis",
    "DynamicEMA",
    "Replay",
    "RoutingTrace",
    "StageEvaluation",
    "StreamProgress",
    "TaskRecall",
]
