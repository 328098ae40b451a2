"""Trackers: where each keeps what it is told, and one run of theirs through all restarts.

Weights & Biases stays offline without a login, and gets plan and table.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, MutableMapping
from inspect import signature
from typing import Any

from transformers import TrainerCallback

from multitask.callbacks.login import logged_in
from multitask.files import read_mapping
from multitask.run import Run, write_atomic

_MLFLOW_RUN = "mlflow-id"


def prepare_trackers(
    settings: Mapping[str, Any], run: Run, environment: MutableMapping[str, str]
) -> None:
    """Decide where trackers write: into the run, whose folder outlives the rented machine.

    Called before any of them is imported. What the user has set stays.

    Args:
        settings: ``use_tensorboard``, ``use_mlflow``, ``mlflow_tracking_uri``, ``use_trackio``
            and those of :func:`prepare_wandb`.
        run: The run.
        environment: The process's environment; changed in place.
    """
    prepare_wandb(settings, run, environment)
    if settings.get("use_tensorboard"):
        environment.setdefault("TENSORBOARD_LOGGING_DIR", str(run.logs / "tensorboard"))
    if settings.get("use_trackio"):
        environment.setdefault("TRACKIO_DIR", str(run.logs / "trackio"))
        _fit_trackio()
    if settings.get("use_mlflow"):
        if not settings.get("mlflow_tracking_uri"):
            folder = run.logs / "mlflow"
            environment.setdefault("MLFLOW_TRACKING_URI", folder.resolve().as_uri())
            # Its newer versions take a folder only where they are told to.
            environment.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        known = run.logs / _MLFLOW_RUN
        if known.is_file():
            environment.setdefault("MLFLOW_RUN_ID", known.read_text(encoding="ascii").strip())


def _fit_trackio() -> None:
    """Let transformers start the Trackio that Axolotl pins (0.19).

    ``transformers/integrations/integration_utils.py`` (``TrackioCallback.setup``) hands it a
    bucket, which it has since 0.20; None is no bucket.
    """
    import trackio

    start = trackio.init
    if "bucket_id" not in signature(start).parameters:
        trackio.init = lambda *, bucket_id=None, **keys: start(**keys)  # noqa: ARG005, PLW0108


def prepare_wandb(
    settings: Mapping[str, Any], run: Run, environment: MutableMapping[str, str]
) -> None:
    """Decide where wandb writes, under which id, and whether it goes online.

    Called before wandb starts. What the user has set stays.

    Args:
        settings: ``wandb_project``, ``wandb_run_id``, ``wandb_mode``; nothing is done without a
            project.
        run: The run; the id is kept in ``logs/wandb-id``.
        environment: The process's environment; changed in place.
    """
    if not settings.get("wandb_project"):
        return
    run.logs.mkdir(parents=True, exist_ok=True)
    environment.setdefault("WANDB_DIR", str(run.logs))
    if not settings.get("wandb_run_id") and "WANDB_RUN_ID" not in environment:
        path = run.logs / "wandb-id"
        try:  # the first process to ask makes it
            with path.open("x", encoding="ascii") as file:
                file.write(secrets.token_hex(4) + "\n")
        except FileExistsError:
            pass
        environment["WANDB_RUN_ID"] = path.read_text(encoding="ascii").strip()
    environment.setdefault("WANDB_RESUME", "allow")
    if not settings.get("wandb_mode") and not logged_in(environment):
        environment.setdefault("WANDB_MODE", "offline")


class MlflowCallback(TrainerCallback):
    """Keeps the id of the run that the trainer has started, so that a resumed one goes on in it."""

    def __init__(self, run: Run) -> None:
        """Speak of ``run``."""
        self._run = run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Write it down."""
        if state.is_world_process_zero:
            import mlflow

            active = mlflow.active_run()
            if active is not None:
                write_atomic(self._run.logs / _MLFLOW_RUN, f"{active.info.run_id}\n")


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
        if self._run.spec.is_file():
            spec = read_mapping(self._run.spec)
            tracked.config.update({"spec": spec}, allow_val_change=True)
        if self._run.plan.is_file():
            tracked.save(str(self._run.plan), base_path=str(self._run.root), policy="now")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Record each task's first, last and best values."""
        tracked = _tracked(state)
        rows = final_table(state.log_history, state.best_global_step)
        if tracked is not None and rows:
            import wandb

            columns: Any = ["task", "metric", "first", "last", "best checkpoint"]
            tracked.log({"evaluation": wandb.Table(columns=columns, data=rows)})


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
