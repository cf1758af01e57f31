"""Scores of answers and metrics of continual learning.

`scoring` turns predictions into scores (rules in `rules`, `text`, `letters`, `boxes`, `content`; captions in
`captions`, `bleu`, `rouge`, `meteor`, `caption_means`, tokens in `ptb`; figures of POPE, MME, MMBench and
SEED-Bench in `general`), `following` says whether an answer keeps to the asked format, `continual` turns the
score matrix into the published metrics, and `continual_metric` has them as the `torchmetrics.Metric`s that a
run reports.
"""
