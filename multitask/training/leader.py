"""Node 0's part: from which checkpoint an attempt starts, and what follows when it ended."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from multitask.checkpoints import choose_resume, newest_complete
from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from multitask.training import failure
from multitask.training.agreement import find_differences
from multitask.training.attempts import FINAL, Attempt, NodeReport, Ruling

if TYPE_CHECKING:
    from multitask.training.supervisor import Supervisor

Pause = Callable[[], None]
Say = Callable[[str], None]


class Leader:
    """Begins attempts and rules on them."""

    def __init__(self, of: Supervisor) -> None:
        """Lead the supervisors of all nodes, of which ``of`` is number 0."""
        self.run, self.options, self.say, self.attempts = of.run, of.options, of.say, of.attempts
        self._of = of
        self._last: NodeReport | None = None
        self._in_a_row = 0
        self._complete_step = -1

    def begin(self, pause: Pause) -> Attempt:
        """Begin the next attempt from the newest complete checkpoint, once all nodes are there.

        Args:
            pause: Called between two looks at the other nodes; raises to end the waiting.

        Raises:
            InputError: The run changed since the checkpoint, or a node differs from the others or
                from what the run needs.
            MultitaskError: A node does not come.
        """
        try:
            self._gather(pause)
            self._compare()
            point = choose_resume(
                self.run, self._of.world_size, accept_changes=self.options.accept_changes
            )
        except (MultitaskError, OSError) as error:
            self._abandon(error)
            raise
        for folder in point.set_aside:
            self.say(f"torn checkpoint set aside as {folder.name}")
        for change in point.changes:
            self.say(f"accepted change since {point.path and point.path.name}: {change}")
        if point.path is not None:
            self.say(f"going on from {point.path.name}")
        self._complete_step = point.step
        return self.attempts.begin(point.path, point.step)

    def restart(self, pause: Pause) -> Attempt:
        """Wait longer with every failure in a row, then begin the next attempt."""
        wait = min(
            self.options.backoff * 2 ** max(0, self._in_a_row - 1), self.options.longest_backoff
        )
        end = time.monotonic() + wait
        while time.monotonic() < end:
            pause()
        return self.begin(pause)

    def rule(self, attempt: Attempt, own: NodeReport, hurried: Callable[[], bool]) -> Ruling:
        """Wait until all nodes have ended an attempt, and say what follows.

        Args:
            attempt: The attempt.
            own: How it ended on this node.
            hurried: Called between two looks at the other nodes; passes a signal on, and is true
                once the user no longer wants to wait for them.
        """
        reports = [own, *self._others(attempt.number, hurried)]
        ruling = self._judge(attempt, reports)
        self.attempts.rule(attempt.number, ruling)
        return ruling

    def _abandon(self, error: Exception) -> None:
        """Tell nodes that wait for an attempt that none follows: one that is over as it begins."""
        if self._of.nodes > 1:
            attempt = self.attempts.begin(None, 0)
            self.attempts.rule(attempt.number, Ruling("give up", str(error)))

    def _gather(self, pause: Pause) -> None:
        deadline = time.monotonic() + self.options.patience
        told: list[int] = []
        while missing := self._of.pulses.missing():
            if missing != told:
                self.say(f"waiting for node {', '.join(map(str, missing))}")
                told = missing
            if time.monotonic() > deadline:
                raise MultitaskError(
                    f"node {missing[0]} did not come within {self.options.patience:.0f} s",
                    where=self.run.root,
                    fix="start `multitask train` on every node, with the same shared run directory",
                )
            pause()

    def _compare(self) -> None:
        """End it before GPUs are paid for where the nodes cannot train together."""
        # Whoever shows a sign of life has told its facts before.
        told = {node: self.attempts.facts_of(node) for node in range(self._of.nodes)}
        facts = {node: one for node, one in told.items() if one is not None}
        problems = find_differences(facts, self._of.needs)
        if problems:
            listed = "\n".join(f"- {check.answer}; {check.remedy}" for check in problems)
            raise InputError(f"the nodes cannot train together:\n{listed}")

    def _others(self, number: int, hurried: Callable[[], bool]) -> list[NodeReport]:
        reports = []
        for node in range(1, self._of.nodes):
            while True:
                report = self.attempts.report_of(number, node)
                if report is not None and report.state in FINAL:
                    break
                if node in self._of.pulses.dead():
                    report = NodeReport("failed", error=f"node {node} no longer answers")
                    break
                if hurried():
                    report = NodeReport("killed", error=f"node {node} was not waited for")
                    break
                time.sleep(self.options.poll)
            reports.append(report)
        return reports

    def _judge(self, attempt: Attempt, reports: list[NodeReport]) -> Ruling:
        states = {report.state for report in reports}
        step = max(report.step for report in reports)
        if states == {"done"}:
            return Ruling("done")
        failed = [report for report in reports if report.state == "failed"]
        failed = [r for r in failed if r.cause] or failed
        failed += [report for report in reports if report.state == "killed"]
        if self.attempts.stop_asked(attempt.number) or not failed:
            newest = newest_complete(self.run.model)
            saved = (
                "no checkpoint is complete" if newest is None else f"{newest.path.name} is saved"
            )
            more = f"; it failed while it stopped: {failed[0].error}" if failed else ""
            return Ruling("stopped", f"training was stopped at step {step}; {saved}{more}")
        return self._judge_failure(replace(failed[0], step=step), reports)

    def _judge_failure(self, report: NodeReport, reports: list[NodeReport]) -> Ruling:
        newest = newest_complete(self.run.model)
        progress = newest is not None and newest.step > self._complete_step
        self._in_a_row = 1 if progress else self._in_a_row + 1
        last, self._last = self._last, report
        stepped = any(r.stepped for r in reports)
        why = None
        if failure.is_full_disk(report):
            free = shutil.disk_usage(self.run.root).free
            why = f"the disk is full ({free / 1e6:.0f} MB free); make room, then add --resume"
        elif last is not None and failure.is_repeated(last, report):
            why = "it is the same failure at the same step as before: a bug, not a fault"
        elif not stepped and not failure.was_killed(report) and not failure.is_connection(report):
            why = "it failed before its first step, so another try would too"
        elif self._in_a_row > self.options.max_restarts:
            why = f"{self._in_a_row} failures in a row without a new complete checkpoint"
        what = f"step {report.step}: {report.error}"
        if why is None:
            self.say(f"attempt failed at {what}; restarting")
            return Ruling("restart", what)
        message = f"training failed at {what}\n  given up: {why}"
        if report.details:
            message += f"\n{report.details}"
        return Ruling("give up", f"{message}\n  log: {report.where}" if report.where else message)


def error_of(ruling: Ruling, run: Run) -> MultitaskError:
    """The error that ends a supervisor after a ruling to give up."""
    return MultitaskError(ruling.message, where=run.root)


def refuse_trained(run: Run) -> None:
    """Refuse to train a run anew.

    Raises:
        InputError: It was trained before.
    """
    if run.model.exists() and any(run.model.iterdir()):
        raise InputError(
            "the run has been trained before",
            where=run.model,
            fix="add --resume to go on from its newest checkpoint, or build another run",
        )
