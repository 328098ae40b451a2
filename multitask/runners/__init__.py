"""Runners: turn a run into the files a training engine starts from."""
