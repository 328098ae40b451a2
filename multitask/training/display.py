"""Training with a live display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multitask.run import Run
from multitask.terminal import ProgressBar, progress_bar
from multitask.training.process import Event, train


def train_with_display(run: Run, *, resume: bool = False) -> Path:
    """Train a run and show steps, time left and the latest loss; see :func:`train`."""
    with progress_bar() as bar:
        bar.update("training", 0, None, "starting Axolotl, about 30 s")
        return train(run, resume=resume, on_event=event_display(bar))


def event_display(bar: ProgressBar) -> Any:
    """A listener for the plugin's events that keeps a bar up to date."""
    notes: dict[str, str] = {}

    def show(event: Event) -> None:
        for key in ("loss", "eval_loss"):
            if key in event.get("values", {}):
                notes[key] = f"{key} {float(event['values'][key]):.3f}"
        bar.update("training", event["step"], event["max_steps"], "  ".join(notes.values()))

    return show
