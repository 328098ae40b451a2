"""Training with a live display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multitask.run import Run
from multitask.terminal import ProgressBar, progress_bar
from multitask.training.options import Options
from multitask.training.process import Event
from multitask.training.train import train


def train_with_display(run: Run, *, resume: bool = False, options: Options | None = None) -> Path:
    """Train a run and show steps, time left and the latest loss; see :func:`train`."""
    with progress_bar() as bar:
        bar.update("training", 0, None, "starting Axolotl, about 30 s")
        show = event_display(bar)
        return train(run, resume=resume, options=options, on_event=show, say=bar.say)


def event_display(bar: ProgressBar) -> Any:
    """A listener for the plugin's events that keeps a bar up to date."""
    notes: dict[str, str] = {}

    def show(event: Event) -> None:
        for key in ("loss", "eval_loss"):
            if key in event.get("values", {}):
                notes[key] = f"{key} {float(event['values'][key]):.3f}"
        bar.update("training", event["step"], event["max_steps"], "  ".join(notes.values()))
        if event["event"] == "checkpoint" and not event["complete"]:
            why = "; ".join(event["problems"])
            bar.say(f"warning: the checkpoint of step {event['step']} is torn: {why}")
        if event["event"] == "save_skipped":
            bar.say(
                f"warning: step {event['step']} was not saved: a checkpoint takes "
                f"{event['needed'] / 1e6:.1f} MB and {event['free'] / 1e6:.1f} MB are free"
            )

    return show
