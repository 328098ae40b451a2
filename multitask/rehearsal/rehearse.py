"""``rehearse``: the cluster's run in small, undisturbed and disturbed, and what that shows."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multitask.checks import Check, CheckFailedError, Checklist
from multitask.cluster import Cluster, load_cluster
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.rehearsal.adapt import Change, Sizes
from multitask.rehearsal.after import (
    check_checkpoints,
    check_model,
    check_probe,
    check_scores,
    probe_file,
)
from multitask.rehearsal.before import check_files
from multitask.rehearsal.faults import Fault
from multitask.rehearsal.forkserver import Forkserver
from multitask.rehearsal.layout import follow_layout, layout
from multitask.rehearsal.machines import HANG_SECONDS, Machines
from multitask.rehearsal.network import Network, loopback, namespaces
from multitask.rehearsal.node import OPTIONS
from multitask.rehearsal.record import losses_by_step, steps_lost
from multitask.rehearsal.result import Rehearsal, Wishes
from multitask.rehearsal.stage import MODEL, stage_rehearsal
from multitask.run import Run
from multitask.runners.deepspeed import require_deepspeed
from multitask.spec import load_spec
from multitask.training.supervisor import Options

Say = Callable[[str], None]


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
    config = read_mapping(run.axolotl)
    require_deepspeed(config)
    cluster = load_cluster(load_spec(run.spec).cluster)
    nodes, procs = layout(wishes, cluster)
    _require_links(wishes)
    root = run.root / "rehearsal"
    shutil.rmtree(root, ignore_errors=True)
    result = Rehearsal(run, nodes, procs, Checklist(on_check=on_check))
    result.faults = [fault.name for fault in wishes.faults]
    # One checkpoint more than are kept, so that one is rotated away.
    keep = int(config.get("save_total_limit") or 2)
    sizes = Sizes(steps=2 * (min(keep, 4) + 1))
    with Forkserver(root / "logs" / "forkserver.log") as forks:
        steps = _Rehearsing(
            result, config, cluster, wishes, sizes, Run(root / "undisturbed"), forks, say
        )
        with contextlib.suppress(CheckFailedError):  # it is in the list
            steps.all()
    result.seconds = time.monotonic() - start
    return result


def _require_links(wishes: Wishes) -> None:
    if any(fault.kind == "partition" for fault in wishes.faults) and not wishes.netns:
        raise InputError(
            "nodes on loopback have no link that could be cut", where="--partition",
            fix="add --netns",
        )  # fmt: skip


@dataclass(frozen=True)
class _Rehearsing:
    """The steps of a rehearsal, with what they share."""

    result: Rehearsal
    config: dict[str, Any]
    cluster: Cluster
    wishes: Wishes
    sizes: Sizes
    calm: Run
    forks: Forkserver
    say: Say

    def all(self) -> None:
        """Stage, check the files, train undisturbed and disturbed, check what is left."""
        checks, calm = self.result.checks, self.calm
        self._stage()
        self._files()
        with self._network() as network:
            self.say(f"training on {self.result.nodes} x {self.result.procs} ranks, undisturbed")
            self._undisturbed(network)
            if not self.wishes.undisturbed_only:
                named = ", ".join(self.result.faults) or "a rank killed"
                self.say(f"training again, with {named}")
                self._disturbed(network)
        check_model(checks, calm, self.config)
        check_scores(checks, calm)

    def _stage(self) -> None:
        result = self.result
        with result.checks.check("model and data in small", needed=True) as check:
            result.changes = stage_rehearsal(result.run, self.calm.root, self.sizes)
            result.changes += follow_layout(
                self.calm, self.cluster, nodes=result.nodes, procs=result.procs
            )
            faults = {fault.kind for fault in self.wishes.faults}
            if "partition" in faults:
                why = "a lost connection is noticed by its timeout"
                result.changes.append(
                    Change("timeout of collectives", "1800 s", f"{HANG_SECONDS:.0f} s", why)
                )
            if "stall" in faults:
                why = "steps are short, and a hang is noticed after ten of them at the earliest"
                now = f"{OPTIONS.stall:.0f} s"
                result.changes.append(
                    Change("time without a step", f"{Options().stall:.0f} s", now, why)
                )
            check.answer = str(next(c.now for c in result.changes if c.key == "model"))

    def _files(self) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.calm.root / MODEL, local_files_only=True)
        check_files(self.result.checks, self.result.run, self.config, self.cluster, tokenizer)
        with self.result.checks.check("Axolotl can be imported", needed=True):
            self.forks.wait()

    def _network(self) -> AbstractContextManager[Network]:
        nodes = self.result.nodes
        return namespaces(nodes) if self.wishes.netns else nullcontext(loopback(nodes))

    def _machines(
        self,
        run: Run,
        network: Network,
        faults: tuple[Fault, ...] = (),
        probe: Path | None = None,
    ) -> Machines:
        return Machines(
            run.root,
            network,
            nodes=self.result.nodes,
            procs=self.result.procs,
            forkserver=self.forks.address,
            faults=faults,
            probe=probe,
        )

    def _undisturbed(self, network: Network) -> None:
        result = self.result
        ranks = result.nodes * result.procs
        with self._machines(self.calm, network, probe=probe_file(self.calm)) as machines:
            with result.checks.check("all ranks meet, train and save", needed=True) as check:
                machines.run()
                check.answer = f"{ranks} ranks, {machines.seconds:.0f} s"
            with result.checks.check("no process is left") as check:
                if machines.left():
                    check.fail(f"still running: {machines.left()}")
        with result.checks.check("every step has a finite loss") as check:
            losses = losses_by_step(self.calm)
            result.losses["undisturbed"] = losses
            values = [float(loss) for loss in losses.values()]
            if values:
                check.answer = f"{len(values)} steps, from {values[0]:.4f} to {values[-1]:.4f}"
            missing = [step for step in range(1, self.sizes.steps + 1) if step not in losses]
            if missing or not all(map(math.isfinite, values)):
                check.fail(f"steps without a finite loss: {missing or losses}")
        check_checkpoints(result.checks, self.calm, self.config, ranks=ranks, sizes=self.sizes)
        check_probe(result.checks, self.calm, ranks=ranks)

    def _disturbed(self, network: Network) -> None:
        result = self.result
        root = result.run.root / "rehearsal" / "disturbed"
        kept = shutil.ignore_patterns("model", "logs", "attempts", "evaluation", "faults")
        shutil.copytree(self.calm.root, root, ignore=kept)
        rough = Run(root)
        faults = self.wishes.faults
        if not faults:
            # After the second checkpoint, one step on: that step is lost and trained again.
            last = result.nodes * result.procs - 1
            faults = (Fault("kill", "rank", last, 2 * self.sizes.save_steps + 1),)
            result.faults = [fault.name for fault in faults]
        machines = self._machines(rough, network, faults)
        named = ", ".join(result.faults)
        with machines, result.checks.check(f"the run survives: {named}") as check:
            machines.run()
            result.lost = steps_lost(rough)
            check.answer = (
                f"{len(result.lost)} restart{'s' * (len(result.lost) != 1)}, "
                f"steps trained again: {sum(result.lost)}, {machines.seconds:.0f} s"
            )
            missing = [fault.name for fault in faults if not fault.happened(root / "faults")]
            if missing:
                check.fail(
                    f"did not happen: {', '.join(missing)}; is the step within the rehearsal?",
                )
        with result.checks.check("losses after the resume are those of the undisturbed run") as c:
            losses = losses_by_step(rough)
            calm = result.losses["undisturbed"]
            result.losses["disturbed"] = losses
            other = [step for step, loss in calm.items() if losses.get(step) != loss]
            c.answer = f"{len(losses)} steps equal, digit by digit"
            if other or not losses:
                c.fail(f"they differ: {[(step, calm[step], losses.get(step)) for step in other]}")
