"""Interchange: what other tools can read, so that others can check."""
