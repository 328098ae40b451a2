"""Scoring: a model, a task and rows in; a score for every label out."""
