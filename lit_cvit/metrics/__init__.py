"""Scores of answers and metrics of continual learning.

`scoring` turns predictions into per-sample scores (rules in `text`, `letters`, `content`, `captions`, tokens
in `ptb`), `following` says whether an answer keeps to the asked format, `continual` turns the score matrix
into the published metrics, and `accumulators` are those metrics as `torchmetrics.Metric`.
"""
