"""Train a run: its supervisor on this node, with the launch that the run describes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from multitask.cluster import Cluster, load_cluster
from multitask.errors import InputError
from multitask.evaluation.models import store_digests
from multitask.files import read_mapping
from multitask.run import Run
from multitask.runners.axolotl.file import PLUGIN
from multitask.runners.deepspeed import require_deepspeed
from multitask.spec import Spec, load_spec
from multitask.terminal import ProgressBar, progress_bar
from multitask.training.agreement import Needs
from multitask.training.command import launch_command
from multitask.training.leader import Say
from multitask.training.nodes import node_environment, nodes_for
from multitask.training.progress import Event
from multitask.training.supervisor import Options, Supervisor


def train(
    run: Run,
    *,
    resume: bool = False,
    options: Options | None = None,
    on_event: Callable[[Event], None],
    say: Say,
) -> Path:
    """Train a run on this node until it is done, through restarts.

    Args:
        run: A built run.
        resume: Go on from the newest complete checkpoint; without it, a run that was trained
            before is refused.
        options: Limits and times.
        on_event: Called with each event of the plugin as it is written.
        say: Called with what a user should know.

    Returns:
        The log of the last launch.

    Raises:
        InputError: The run is not built, has been trained already, or changed since.
        TrainingStopped: It was asked to stop.
        MultitaskError: The training failed for good.
    """
    for path in (run.axolotl, run.accelerate, run.split("train")):
        run.require(path, f"multitask build-config {run.spec} --out {run.root}")
    _require_axolotl()
    config = require_plugin(run)
    require_deepspeed(config)
    spec = load_spec(run.spec)
    cluster = load_cluster(spec.cluster)
    place = nodes_for(cluster, node_environment())

    def command(checkpoint: Path | None, rank_logs: Path) -> list[str]:
        return launch_command(run, cluster, place, resume=checkpoint, rank_logs=rank_logs)

    supervisor = Supervisor(
        run,
        command,
        nodes=cluster.nodes,
        node=place.rank or 0,
        world_size=cluster.world_size,
        needs=_needs(run, spec, cluster),
        options=options,
        on_event=on_event,
        say=say,
    )
    log = supervisor.supervise(resume=resume)
    if not place.rank:
        store_digests(run.model)
    return log


def _needs(run: Run, spec: Spec, cluster: Cluster) -> Needs:
    """What the run needs of every node. Nothing of a CPU, whose runs are small."""
    if cluster.on_cpu:
        return Needs()
    from multitask.data.tokens import workload_of
    from multitask.models import model_info
    from multitask.planning.decide import decide

    model = model_info(spec.model, run.root)
    quote = decide(spec, model, workload_of(run), refuse=False).estimate
    return Needs(cluster.gpus_per_node, None if quote is None else quote.checkpoint_gb)


def _require_axolotl() -> None:
    from multitask.runners.axolotl.validate import axolotl_installed

    if not axolotl_installed():
        raise InputError(
            "Axolotl is not installed", fix="pip install 'multitask[train]' (see the README)"
        )


def require_plugin(run: Run) -> dict[str, Any]:
    """Check that the run's ``axolotl.yaml`` names our plugin.

    Returns:
        What the file says.

    Raises:
        InputError: It does not, or cannot be read.
    """
    config = read_mapping(run.axolotl)
    plugins = config.get("plugins") or []
    if PLUGIN not in plugins:
        raise InputError(
            "Axolotl would train without multitask's plugin, so nothing of ours would be in it",
            where=f"{run.axolotl}: key 'plugins'",
            fix=f"add {PLUGIN} to it",
        )
    return config


def train_with_display(run: Run, *, resume: bool = False, options: Options | None = None) -> Path:
    """Train a run and show steps, time left and the latest loss; see :func:`train`."""
    with progress_bar() as bar:
        bar.update("training", 0, None, "starting Axolotl, about 30 s")
        show = event_display(bar)
        return train(run, resume=resume, options=options, on_event=show, say=bar.say)


def event_display(bar: ProgressBar) -> Callable[[Event], None]:
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
