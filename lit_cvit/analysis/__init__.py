"""Analyses and measures of methods, as pure functions on tensors."""
