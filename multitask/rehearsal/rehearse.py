"""``rehearse``: the cluster's run in small, undisturbed and disturbed, and what that shows."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from multitask.checks import Check, CheckFailedError, Checklist
from multitask.cluster import Cluster, load_cluster
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.rehearsal.adapt import SAVE_STEPS, Change
from multitask.rehearsal.checks import (
    check_checkpoints,
    check_files,
    check_losses,
    check_model,
    check_probe,
    losses_by_step,
    probe_file,
    steps_lost,
)
from multitask.rehearsal.faults import Fault, Kind, parse_fault
from multitask.rehearsal.forkserver import Forkserver
from multitask.rehearsal.machines import HANG_SECONDS, Machines
from multitask.rehearsal.network import Network, loopback, namespaces
from multitask.rehearsal.node import OPTIONS
from multitask.rehearsal.stage import MODEL, stage_rehearsal
from multitask.run import Run, write_atomic
from multitask.runners.deepspeed import require_deepspeed
from multitask.spec import load_spec
from multitask.training.supervisor import Options

_MOST_RANKS = 64
_ALWAYS_UNPROVEN = ("NCCL and the cluster's network", "memory and speed of the GPUs")
_WIDTH, _HEIGHT, _EDGE = 640, 200, 30


@dataclass
class Rehearsal:
    """A rehearsal of a run: how it is asked for, and what it found.

    Attributes:
        run: The run that is rehearsed.
        nodes: Nodes.
        procs: Ranks of each.
        checks: The named checks.
        faults: What goes wrong in the disturbed run.
        changes: What the rehearsal has otherwise than the cluster.
        losses: Training losses by step of the ``undisturbed`` and the ``disturbed`` run.
        lost: Steps that were trained again after each restart.
        seconds: How long it took.
    """

    run: Run
    nodes: int
    procs: int
    checks: Checklist
    faults: Sequence[Fault] = ()
    changes: list[Change] = field(default_factory=list)
    losses: dict[str, dict[int, str]] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def unproven(self) -> list[str]:
        """What a rehearsal on a CPU cannot show, each once."""
        found = [change.unproven for change in self.changes if change.unproven]
        return list(dict.fromkeys([*_ALWAYS_UNPROVEN, *found]))

    def record(self) -> dict[str, Any]:
        """What rehearsal.json keeps."""
        return {
            "passed": self.checks.passed,
            "nodes": self.nodes,
            "procs": self.procs,
            "seconds": round(self.seconds, 1),
            "checks": [
                {
                    "name": check.question,
                    "passed": check.passed,
                    "detail": check.answer,
                    "seconds": round(check.seconds, 2),
                }
                for check in self.checks.checks
            ],
            "changes": [change.record() for change in self.changes],
            "not_proven": self.unproven,
            "faults": [fault.name for fault in self.faults],
            "steps_lost": self.lost,
            "losses": self.losses,
        }

    def write(self) -> Path:
        """Write ``RUN/rehearsal/rehearsal.json`` and ``.html``; the latter's path."""
        root, record = self.run.root / "rehearsal", self.record()
        write_atomic(root / "rehearsal.json", json.dumps(record, indent=2) + "\n")
        page = Environment(
            loader=PackageLoader("multitask.rehearsal", ""),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        ).get_template("page.html.j2")
        text = page.render(
            record=record,
            run=self.run.root.resolve().name,
            curves={name: curve(losses, self.losses) for name, losses in self.losses.items()},
            width=_WIDTH,
            height=_HEIGHT,
        )
        write_atomic(root / "rehearsal.html", text)
        return root / "rehearsal.html"


def curve(losses: Mapping[int, str], every: Mapping[str, Mapping[int, str]]) -> str:
    """Points of a line for an SVG, on axes that all curves share."""
    steps = [step for one in every.values() for step in one]
    values = [float(loss) for one in every.values() for loss in one.values()]
    if not losses or not values:
        return ""
    first, across = min(steps), max(1, max(steps) - min(steps)) / (_WIDTH - 2 * _EDGE)
    high, down = max(values), ((max(values) - min(values)) or 1.0) / (_HEIGHT - 2 * _EDGE)
    return " ".join(
        f"{_EDGE + (step - first) / across:.1f},{_EDGE + (high - float(loss)) / down:.1f}"
        for step, loss in losses.items()
    )


def rehearse(
    run: Run,
    *,
    nodes: int | None = None,
    procs: int | None = None,
    faults: Sequence[tuple[Kind, str]] = (),
    undisturbed_only: bool = False,
    netns: bool = False,
    say: Callable[[str], None] = lambda _message: None,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> Rehearsal:
    """Rehearse a run.

    Args:
        run: The run as it was built for its cluster.
        nodes: Nodes; None for the cluster's.
        procs: Ranks of each; None for the cluster's GPUs.
        faults: What goes wrong in the disturbed run, in the user's words; nothing: a rank is
            killed.
        undisturbed_only: Leave the disturbed run out.
        netns: Give every node a network namespace.
        say: Told what is being done.
        on_check: Told each check when it has ended.

    Raises:
        InputError: The run is not built, or the layout or a fault makes no sense for it.
    """
    start = time.monotonic()
    run.require(run.axolotl, f"multitask build-config {run.spec} --out {run.root}")
    config = read_mapping(run.axolotl)
    require_deepspeed(config)
    cluster = load_cluster(load_spec(run.spec).cluster)
    nodes, procs = nodes or cluster.nodes, procs or max(1, cluster.gpus_per_node)
    if nodes * procs > _MOST_RANKS:
        raise InputError(f"{nodes} x {procs} ranks are too many for one machine")
    asked = [parse_fault(kind, text, nodes=nodes, procs=procs) for kind, text in faults]
    if any(fault.kind == "partition" for fault in asked) and not netns:
        text = "nodes on loopback have no link that could be cut"
        raise InputError(text, where="--partition", fix="add --netns")
    root = run.root / "rehearsal"
    shutil.rmtree(root, ignore_errors=True)
    result = Rehearsal(run, nodes, procs, Checklist(on_check=on_check), asked)
    with Forkserver(root / "logs" / "forkserver.log") as forks:
        # One checkpoint more than are kept, so that one is rotated away.
        steps = SAVE_STEPS * (min(int(config.get("save_total_limit") or 2), 4) + 1)
        rehearsing = _Rehearsing(result, config, cluster, steps, Run(root / "undisturbed"), forks)
        with contextlib.suppress(CheckFailedError):  # it is in the list
            rehearsing.prepare()
            with namespaces(nodes) if netns else nullcontext(loopback(nodes)) as network:
                say(f"training on {nodes} x {procs} ranks, undisturbed")
                rehearsing.train_undisturbed(network)
                if not undisturbed_only:
                    named = ", ".join(fault.name for fault in asked) or "a rank killed"
                    say(f"training again, with {named}")
                    rehearsing.train_disturbed(network)
            check_model(result.checks, rehearsing.calm, config)
    result.seconds = time.monotonic() - start
    return result


@dataclass(frozen=True)
class _Rehearsing:
    """The steps of a rehearsal, with what they share."""

    result: Rehearsal
    config: dict[str, Any]
    cluster: Cluster
    steps: int
    calm: Run
    forks: Forkserver

    def prepare(self) -> None:
        """Stage the small run and check the files of the one that is rehearsed."""
        from transformers import AutoTokenizer

        result, checks = self.result, self.result.checks
        with checks.check("model and data in small", needed=True) as check:
            result.changes = stage_rehearsal(
                result.run,
                self.calm,
                self.config,
                self.cluster,
                nodes=result.nodes,
                procs=result.procs,
                steps=self.steps,
            )
            kinds = {fault.kind for fault in result.faults}
            if "partition" in kinds:
                why, now = "a lost connection is noticed by its timeout", f"{HANG_SECONDS:.0f} s"
                result.changes.append(Change("timeout of collectives", "1800 s", now, why))
            if "stall" in kinds:
                why = "steps are short, and a hang is noticed after ten of them at the earliest"
                was, now = f"{Options().stall:.0f} s", f"{OPTIONS.stall:.0f} s"
                result.changes.append(Change("time without a step", was, now, why))
            check.answer = str(next(c.now for c in result.changes if c.key == "model"))
        tokenizer = AutoTokenizer.from_pretrained(self.calm.root / MODEL, local_files_only=True)
        check_files(checks, result.run, self.config, self.cluster, tokenizer)
        with checks.check("Axolotl can be imported", needed=True):
            self.forks.wait()

    def _machines(self, run: Run, network: Network, **more: Any) -> Machines:
        nodes, procs = self.result.nodes, self.result.procs
        address = self.forks.address
        return Machines(run.root, network, nodes=nodes, procs=procs, forkserver=address, **more)

    def train_undisturbed(self, network: Network) -> None:
        """Train, and check what the training did and left."""
        result, checks = self.result, self.result.checks
        ranks = result.nodes * result.procs
        with self._machines(self.calm, network, probe=probe_file(self.calm)) as machines:
            with checks.check("all ranks meet, train and save", needed=True) as check:
                machines.run()
                check.answer = f"{ranks} ranks, {machines.seconds:.0f} s"
            with checks.check("no process is left") as check:
                if machines.left():
                    check.fail(f"still running: {machines.left()}")
        result.losses["undisturbed"] = losses_by_step(self.calm)
        check_losses(checks, result.losses["undisturbed"], self.steps)
        check_checkpoints(checks, self.calm, self.config, ranks=ranks, steps=self.steps)
        check_probe(checks, self.calm, ranks=ranks)

    def train_disturbed(self, network: Network) -> None:
        """Train again with faults, and compare the losses."""
        result = self.result
        rough = Run(result.run.root / "rehearsal" / "disturbed")
        kept = shutil.ignore_patterns("model", "logs", "attempts", "evaluation", "faults")
        shutil.copytree(self.calm.root, rough.root, ignore=kept)
        if not result.faults:
            # After the second checkpoint, one step on: that step is lost and trained again.
            last = result.nodes * result.procs - 1
            result.faults = [Fault("kill", "rank", last, 2 * SAVE_STEPS + 1)]
        machines = self._machines(rough, network, faults=result.faults)
        named = ", ".join(fault.name for fault in result.faults)
        with machines, result.checks.check(f"the run survives: {named}") as check:
            machines.run()
            result.lost = steps_lost(rough)
            check.answer = (
                f"{len(result.lost)} restart{'s' * (len(result.lost) != 1)}, "
                f"steps trained again: {sum(result.lost)}, {machines.seconds:.0f} s"
            )
            folder = rough.root / "faults"
            if missing := [fault.name for fault in result.faults if not fault.happened(folder)]:
                text = f"did not happen: {', '.join(missing)}; is the step within the rehearsal?"
                check.fail(text)
        same = "losses after the resume are those of the undisturbed run"
        with result.checks.check(same) as check:
            calm, losses = result.losses["undisturbed"], losses_by_step(rough)
            result.losses["disturbed"] = losses
            check.answer = f"{len(losses)} steps equal, digit by digit"
            other = [
                (step, x, losses.get(step)) for step, x in calm.items() if losses.get(step) != x
            ]
            if other or not losses:
                check.fail(f"they differ: {other}")
