"""Training: start the launch that a run describes, follow it, and say how it ended."""
