"""Weights & Biases: one run through all restarts, offline without a login, with plan and table."""

from __future__ import annotations

import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.login import logged_in
from multitask.run import Run


def prepare_wandb(cfg: Any, run: Run, environment: MutableMapping[str, str]) -> None:
    """Decide where wandb writes, under which id, and whether it goes online.

    Called before wandb starts. What the user has set stays.

    Args:
        cfg: Axolotl's configuration; nothing is done where it names no wandb project.
        run: The run; the id is kept in ``logs/wandb-id``.
        environment: The process's environment; changed in place.
    """
    if not cfg.get("wandb_project"):
        return
    run.logs.mkdir(parents=True, exist_ok=True)
    environment.setdefault("WANDB_DIR", str(run.logs))
    if not cfg.get("wandb_run_id") and "WANDB_RUN_ID" not in environment:
        environment["WANDB_RUN_ID"] = run_id(run.logs / "wandb-id")
    environment.setdefault("WANDB_RESUME", "allow")
    if not cfg.get("wandb_mode") and "WANDB_MODE" not in environment and not logged_in(environment):
        environment["WANDB_MODE"] = "offline"


def run_id(path: Path) -> str:
    """The id in a file; the first process to ask makes it."""
    try:
        with path.open("x", encoding="ascii") as file:
            file.write(secrets.token_hex(4) + "\n")
    except FileExistsError:
        pass
    return path.read_text(encoding="ascii").strip()


class WandbCallback(TrainerCallback):
    """Adds the spec, the plan and the final table to the run that the trainer has started."""

    def __init__(self, run: Run) -> None:
        """Speak of ``run``."""
        self._run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record what is trained, and by which plan."""
        tracked = _tracked(state)
        if tracked is None:
            return
        import yaml

        if self._run.spec.is_file():
            spec = yaml.safe_load(self._run.spec.read_text(encoding="utf-8"))
            tracked.config.update({"spec": spec}, allow_val_change=True)
        if self._run.plan.is_file():
            tracked.save(str(self._run.plan), base_path=str(self._run.root), policy="now")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record each task's first, last and best values."""
        tracked = _tracked(state)
        rows = final_table(state.log_history, state.best_global_step)
        if tracked is None or not rows:
            return
        import wandb

        table = wandb.Table(columns=["task", "metric", "first", "last", "best checkpoint"])
        for row in rows:
            table.add_data(*row)
        tracked.log({"evaluation": table})


def _tracked(state: Any) -> Any:
    """The wandb run, in the first process alone."""
    if not state.is_world_process_zero:
        return None
    import wandb

    return wandb.run


def final_table(
    history: list[dict[str, Any]], best_step: int | None
) -> list[tuple[str, str, float, float, float | None]]:
    """Rows of task, metric, first value, last value, and value at the best checkpoint."""
    evaluations = [entry for entry in history if any(k.startswith("eval/") for k in entry)]
    if not evaluations:
        return []
    first, last = evaluations[0], evaluations[-1]
    best = next((e for e in evaluations if best_step and e["step"] == best_step), {})
    rows = []
    for key, value in last.items():
        _, _, name = key.partition("eval/")
        task, slash, metric = name.rpartition("/")
        if slash and metric != "rows":
            rows.append((task, metric, first.get(key, value), value, best.get(key)))
    return rows
