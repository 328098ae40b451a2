"""``rehearse``: the cluster's run in small, undisturbed and disturbed, and what that shows."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import yaml

from multitask.cluster import Cluster, load_cluster
from multitask.errors import InputError
from multitask.rehearsal.adapt import Change, Sizes
from multitask.rehearsal.after import check_checkpoints, check_model, check_scores
from multitask.rehearsal.before import check_files
from multitask.rehearsal.checklist import Check, CheckFailedError, Checklist, fail
from multitask.rehearsal.faults import Fault
from multitask.rehearsal.machines import HANG_SECONDS, Machines
from multitask.rehearsal.network import Network, loopback, namespaces
from multitask.rehearsal.record import losses_by_step, steps_lost
from multitask.rehearsal.stage import MODEL, stage_rehearsal
from multitask.run import Run
from multitask.spec import load_spec

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a rehearsal.

    Attributes:
        nodes: Nodes; None for the cluster's.
        procs: Ranks of each; None for the cluster's GPUs.
        faults: What goes wrong in the disturbed run.
        undisturbed_only: Leave the disturbed run out.
        netns: Give every node a network namespace.
    """

    nodes: int | None = None
    procs: int | None = None
    faults: tuple[Fault, ...] = ()
    undisturbed_only: bool = False
    netns: bool = False


@dataclass
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        run: The run that was rehearsed.
        nodes: Nodes.
        procs: Ranks of each.
        checks: The named checks.
        changes: What the rehearsal had otherwise than the cluster.
        losses: Training losses by step of the ``undisturbed`` and the ``disturbed`` run.
        faults: Names of what went wrong on purpose.
        lost: Steps that were trained again after each restart.
        seconds: How long it took.
    """

    run: Run
    nodes: int
    procs: int
    checks: Checklist
    changes: list[Change] = field(default_factory=list)
    losses: dict[str, dict[int, str]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check went well."""
        return self.checks.passed

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        return {
            "passed": self.passed,
            "nodes": self.nodes,
            "procs": self.procs,
            "seconds": round(self.seconds, 1),
            "checks": [check.record() for check in self.checks.checks],
            "changes": [change.record() for change in self.changes],
            "not_proven": not_proven(self.changes),
            "faults": self.faults,
            "steps_lost": self.lost,
            "losses": self.losses,
        }


def not_proven(changes: Sequence[Change]) -> list[str]:
    """What a rehearsal on a CPU cannot show, each once."""
    always = ["NCCL and the cluster's network", "memory and speed of the GPUs"]
    return list(dict.fromkeys([*always, *(c.unproven for c in changes if c.unproven)]))


def rehearse(
    run: Run,
    wishes: Wishes | None = None,
    *,
    say: Say = lambda _message: None,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> Rehearsal:
    """Rehearse a run.

    Args:
        run: The run as it was built for its cluster.
        wishes: How.
        say: Told what is being done.
        on_check: Told each check when it has ended.

    Raises:
        InputError: The run is not built, or the layout makes no sense for it.
    """
    start = time.monotonic()
    wishes = wishes or Wishes()
    run.require(run.axolotl, f"multitask build-config {run.spec} --out {run.root}")
    config: dict[str, Any] = yaml.safe_load(run.axolotl.read_text(encoding="utf-8"))
    cluster = load_cluster(load_spec(run.spec).cluster)
    nodes, procs = _layout(wishes, cluster, config)
    _require_links(wishes)
    root = run.root / "rehearsal"
    shutil.rmtree(root, ignore_errors=True)
    result = Rehearsal(run, nodes, procs, Checklist(on_check=on_check))
    result.faults = [fault.name for fault in wishes.faults]
    hangs = [fault for fault in wishes.faults if fault.kind in ("stall", "partition")]
    calm = Run(root / "undisturbed")
    # One checkpoint more than are kept, so that one is rotated away.
    keep = int(config.get("save_total_limit") or 2)
    sizes = Sizes(steps=2 * (min(keep, 4) + 1))
    try:
        with result.checks.check("model and data in small", needed=True) as check:
            result.changes = stage_rehearsal(run, calm.root, sizes)
            follow_layout(calm, result, cluster)
            if hangs:
                why = "a hang is noticed by its timeout"
                result.changes.append(
                    Change("timeout of collectives", "1800 s", f"{HANG_SECONDS:.0f} s", why)
                )
            check.detail = str(next(c.now for c in result.changes if c.key == "model"))
        _before(result, config, cluster, calm)
        with _network(wishes, nodes) as network:
            say(f"training on {nodes} x {procs} ranks, undisturbed")
            _undisturbed(result, calm, network, config, sizes)
            if not wishes.undisturbed_only:
                say("training again, with " + (", ".join(result.faults) or "a rank killed"))
                _disturbed(result, calm, network, wishes, sizes)
        check_model(result.checks, calm, config)
        check_scores(result.checks, calm)
    except CheckFailedError:
        pass  # it is in the list
    result.seconds = time.monotonic() - start
    return result


def _layout(wishes: Wishes, cluster: Cluster, config: dict[str, Any]) -> tuple[int, int]:
    nodes = wishes.nodes or cluster.nodes
    procs = wishes.procs or max(1, cluster.gpus_per_node)
    if config.get("deepspeed"):
        raise InputError(
            "DeepSpeed runs cannot be rehearsed: its CPU accelerator does not load a model under "
            "Axolotl 0.19 (the device map names a bare index, and there is no accelerator to name)",
            where="key 'deepspeed'",
            fix="rehearse the same spec with `sharding: fsdp`, which shares all but the engine",
        )
    if nodes * procs > 64:
        raise InputError(f"{nodes} x {procs} ranks are too many for one machine")
    return nodes, procs


def follow_layout(calm: Run, result: Rehearsal, cluster: Cluster) -> None:
    """Fit the mesh and the batch to fewer ranks than the cluster has, and say so."""
    if (result.nodes, result.procs) == (cluster.nodes, max(1, cluster.gpus_per_node)):
        return
    config: dict[str, Any] = yaml.safe_load(calm.axolotl.read_text(encoding="utf-8"))
    why = f"{result.nodes} x {result.procs} ranks were asked for"
    was_layout = f"{cluster.nodes} x {cluster.gpus_per_node}"
    now_layout = f"{result.nodes} x {result.procs}"
    changes = [Change("ranks", was_layout, now_layout, why, "the cluster's number of ranks")]
    if "dp_shard_size" in config:
        was = {key: config.pop(key) for key in ("dp_shard_size", "dp_replicate_size")}
        if result.nodes > 1 and result.procs > 1:
            config |= {"dp_shard_size": result.procs, "dp_replicate_size": result.nodes}
        for key, value in was.items():
            changes.append(Change(key, value, config.get(key), why))
    if result.nodes * result.procs == 1:
        found = [key for key in ("fsdp_version", "fsdp_config") if key in config]
        changes += [Change(key, config.pop(key), None, why, "sharding") for key in found]
    calm.axolotl.write_text(
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    result.changes += changes


def _require_links(wishes: Wishes) -> None:
    if any(fault.kind == "partition" for fault in wishes.faults) and not wishes.netns:
        raise InputError(
            "nodes on loopback have no link that could be cut", where="--partition",
            fix="add --netns",
        )  # fmt: skip


def _network(wishes: Wishes, nodes: int) -> AbstractContextManager[Network]:
    return namespaces(nodes) if wishes.netns else nullcontext(loopback(nodes))


def _before(result: Rehearsal, config: dict[str, Any], cluster: Cluster, calm: Run) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(calm.root / MODEL, local_files_only=True)
    check_files(result.checks, result.run, config, cluster, tokenizer)


def _undisturbed(
    result: Rehearsal, calm: Run, network: Network, config: dict[str, Any], sizes: Sizes
) -> None:
    ranks = result.nodes * result.procs
    with Machines(calm.root, network, nodes=result.nodes, procs=result.procs) as machines:
        with result.checks.check("all ranks meet, train and save", needed=True) as check:
            machines.run()
            check.detail = f"{ranks} ranks, {machines.seconds:.0f} s"
        with result.checks.check("no process is left") as check:
            if machines.left():
                fail(check, f"still running: {machines.left()}")
    with result.checks.check("every step has a finite loss") as check:
        losses = losses_by_step(calm)
        result.losses["undisturbed"] = losses
        values = [float(loss) for loss in losses.values()]
        if values:
            check.detail = f"{len(values)} steps, from {values[0]:.4f} to {values[-1]:.4f}"
        missing = [step for step in range(1, sizes.steps + 1) if step not in losses]
        if missing or not all(map(math.isfinite, values)):
            fail(check, f"steps without a finite loss: {missing or losses}")
    check_checkpoints(result.checks, calm, config, ranks=ranks, sizes=sizes)


def _disturbed(
    result: Rehearsal, calm: Run, network: Network, wishes: Wishes, sizes: Sizes
) -> None:
    root = result.run.root / "rehearsal" / "disturbed"
    kept = shutil.ignore_patterns("model", "logs", "attempts", "evaluation", "faults")
    shutil.copytree(calm.root, root, ignore=kept)
    rough = Run(root)
    ranks = result.nodes * result.procs
    faults = wishes.faults
    if not faults:
        # After the second checkpoint, one step on: that step is lost and trained again.
        faults = (Fault("kill", "rank", ranks - 1, 2 * sizes.save_steps + 1),)
        result.faults = [fault.name for fault in faults]
    machines = Machines(root, network, nodes=result.nodes, procs=result.procs, faults=faults)
    with machines, result.checks.check("the run survives: " + ", ".join(result.faults)) as check:
        machines.run()
        result.lost = steps_lost(rough)
        check.detail = (
            f"{len(result.lost)} restart{'s' * (len(result.lost) != 1)}, "
            f"{sum(result.lost)} steps trained again, {machines.seconds:.0f} s"
        )
        missing = [fault.name for fault in faults if not fault.happened(root / "faults")]
        if missing:
            fail(check, f"did not happen: {', '.join(missing)}; is the step within the rehearsal?")
    with result.checks.check("losses after the resume are those of the undisturbed run") as check:
        losses = losses_by_step(rough)
        result.losses["disturbed"] = losses
        other = [step for step, loss in result.losses["undisturbed"].items()
                 if losses.get(step) != loss]  # fmt: skip
        check.detail = f"{len(losses)} steps equal, digit by digit"
        if other or not losses:
            pairs = [(step, result.losses["undisturbed"][step], losses.get(step)) for step in other]
            fail(check, f"they differ: {pairs}")
