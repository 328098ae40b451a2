"""A node's supervisor: starts the launch of each attempt, follows it, and restarts it.

Every node runs one. Node 0 leads (:mod:`multitask.training.leader`); the others join what it
begins, end their launch when another node's failed, and wait for its word.
"""

from __future__ import annotations

import errno
import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from multitask.errors import InputError, MultitaskError
from multitask.run import Run
from multitask.training.agreement import Needs, gather_facts
from multitask.training.attempts import (
    Attempt,
    Attempts,
    Heartbeat,
    NodeReport,
    Pulses,
    Ruling,
)
from multitask.training.command import launch_environment
from multitask.training.failure import read_failure
from multitask.training.leader import Leader, Say, error_of, refuse_trained
from multitask.training.process import (
    RUN_VARIABLE,
    Interrupts,
    Launch,
    LogWatcher,
    end_processes,
    remove_stale_locks,
)
from multitask.training.progress import VARIABLE as PROGRESS_VARIABLE
from multitask.training.progress import Event, EventFollower, Watchdog

Command = Callable[[Path | None, Path], Sequence[str]]

# Axolotl logs that it cannot import a plugin, and trains on without it.
_IMPORT_FAILED = "Failed to load plugin: multitask"
_ABOUT_TO_TRAIN = "Starting trainer..."


@dataclass(frozen=True)
class Options:
    """Limits and times of a supervisor; all times are in seconds.

    Attributes:
        max_restarts: Failures in a row, without a new complete checkpoint between them, after
            which it gives up.
        accept_changes: Resume although the run changed since the checkpoint.
        backoff: Wait before the first restart; doubled for each further one in a row.
        longest_backoff: Upper bound of that wait.
        poll: Time between two looks at processes and files.
        beat: Time between two signs of life.
        dead: A node without a sign of life for so long counts as dead.
        patience: How long nodes wait for one that is dead or has not come yet.
        stop: How long a save may take after a request to stop, before processes are killed.
        stall: Time without a step, at least, after which a training counts as hung.
        pause: How long an evaluation or a save may take before it does.
    """

    max_restarts: int = 3
    accept_changes: bool = False
    backoff: float = 5.0
    longest_backoff: float = 300.0
    poll: float = 0.2
    beat: float = 5.0
    dead: float = 60.0
    patience: float = 1800.0
    stop: float = 900.0
    stall: float = 180.0
    pause: float = 900.0


class TrainingStopped(MultitaskError):  # noqa: N818  # it is no error of ours
    """Training was asked to stop and did; exit code 130, as after any interrupt."""

    exit_code = 130


class Supervisor:
    """Trains a run on this node through failures.

    Attributes:
        run: The run.
        node: This node's rank.
    """

    def __init__(
        self,
        run: Run,
        command: Command,
        *,
        nodes: int = 1,
        node: int = 0,
        world_size: int = 1,
        needs: Needs | None = None,
        options: Options | None = None,
        on_event: Callable[[Event], None] = lambda _event: None,
        say: Say = lambda _message: None,
    ) -> None:
        """Supervise node number ``node``.

        Args:
            run: A built run, in a directory that all nodes share.
            command: Gives the launch of an attempt, from the checkpoint to resume from and the
                folder for logs of single processes.
            nodes: How many nodes train together.
            node: Which of them this is.
            world_size: How many processes train together on all nodes.
            needs: What the run needs of every node, beside what all must agree on.
            options: Limits and times.
            on_event: Called with each event of the training as it is written.
            say: Called with what a user should know.
        """
        self.run, self.node, self.nodes = run, node, nodes
        self.options = options or Options()
        self.attempts = Attempts(run)
        self._command, self._on_event, self.say = command, on_event, say
        self.world_size, self.needs = world_size, needs or Needs()
        self._signals = Interrupts()
        self._log = run.logs

    def supervise(self, *, resume: bool = False) -> Path:
        """Train until done.

        Args:
            resume: Go on from the newest complete checkpoint; without it, a run that was trained
                before is refused.

        Returns:
            The log of the last launch on this node.

        Raises:
            InputError: The run was trained before, changed since its checkpoint, or is being
                trained by another process.
            TrainingStopped: It was asked to stop.
            MultitaskError: It failed for good.
        """
        try:
            with self._alone(), self._signals:
                if self.node == 0 and not resume:
                    refuse_trained(self.run)
                self.attempts.tell_facts(self.node, gather_facts(self.run))
                with Heartbeat(self.attempts, self.node, self.options.beat):
                    return self._supervise()
        except OSError as error:
            raise MultitaskError(
                f"the run directory cannot be used: {error}",
                where=self.run.root,
                fix="see that the disk is there, writable and not full, then add --resume",
            ) from error

    def _supervise(self) -> Path:
        others = [node for node in range(self.nodes) if node != self.node]
        self.pulses = Pulses(self.attempts, others, self.options.dead)
        leader = None
        if self.node == 0:
            leader = Leader(self)
        newest = self.attempts.newest()
        past = newest.number if newest and self.attempts.ruling(newest.number) else 0
        attempt = leader.begin(self._pause) if leader else self._join(past)
        while True:
            ruling = self._one_attempt(attempt, leader)
            if ruling.verdict == "done":
                return self._log
            if ruling.verdict == "stopped":
                raise TrainingStopped(
                    ruling.message, fix=f"`multitask train {self.run.root} --resume` goes on"
                )
            if ruling.verdict == "give up":
                raise error_of(ruling, self.run)
            attempt = leader.restart(self._pause) if leader else self._join(attempt.number)

    def _one_attempt(self, attempt: Attempt, leader: Leader | None) -> Ruling:
        self.attempts.report(attempt.number, self.node, NodeReport("running"))
        report = self._follow(attempt)
        self.attempts.report(attempt.number, self.node, report)
        if leader:
            return leader.rule(attempt, report, lambda: self._hurried(attempt.number))
        return self._await_ruling(attempt.number)

    def _follow(self, attempt: Attempt) -> NodeReport:
        """Launch an attempt on this node and follow it to its end."""
        name = f"train-attempt-{attempt.number}"
        self._log = self.run.logs / f"{name}{f'-node-{self.node}' * (self.nodes > 1)}.log"
        rank_logs = self.run.logs / f"attempt-{attempt.number}" / f"node-{self.node}"
        resume = None if attempt.resume is None else self.run.model / attempt.resume
        processes = max(1, self.world_size // self.nodes)
        environment = launch_environment(self.run, attempt, self.node, self.nodes, processes)
        environment[RUN_VARIABLE] = self._name
        follower = EventFollower(self.run.trainer_events, self._on_event)
        watcher = LogWatcher(self._log, (_IMPORT_FAILED, _ABOUT_TO_TRAIN))
        command = self._command(resume, rank_logs)
        for lock in remove_stale_locks(environment):
            self.say(f"removed {lock}, which a killed compilation had left: all would wait for it")
        report = None
        with tempfile.TemporaryDirectory(prefix="multitask-") as folder:
            progress = Path(folder) / "progress"
            environment[PROGRESS_VARIABLE] = str(progress)
            launch = Launch(command, environment, self._log, self.run.root)
            watchdog = Watchdog(progress, self.options)
            watch = _Watch(self, attempt, follower, watcher, watchdog)
            try:
                while (code := launch.poll()) is None:
                    follower.poll()
                    if (report := watch.reason_to_end()) is not None:
                        break
                    time.sleep(self.options.poll)
                if report is not None and report.stalled:
                    shown = launch.show_stacks()
                    place = rank_logs if rank_logs.is_dir() else self._log
                    self.say(
                        f"{report.error}: ending the attempt; stacks of {len(shown)} processes "
                        f"are in {place}"
                    )
            finally:
                for stuck in launch.end():
                    self.say(f"warning: {stuck}")
            follower.poll()
            watchdog.look()
        if code is not None:
            report = self._ended(attempt, code, watch, rank_logs)
        assert report is not None
        return report

    def _ended(self, attempt: Attempt, code: int, watch: _Watch, rank_logs: Path) -> NodeReport:
        step, stepped = watch.step, watch.stepped
        if code != 0:
            report = read_failure(self._log, rank_logs, code, step)
            return replace(report, stepped=stepped)
        if self.attempts.stop_asked(attempt.number) and step < watch.max_steps:
            return NodeReport("stopped", step, stepped)
        if not self.attempts.plugin_loaded(attempt.number, self.node):
            return self.without_plugin()
        return NodeReport("done", step, stepped)

    def without_plugin(self) -> NodeReport:
        """The failure of a launch that Axolotl ran without the plugin."""
        error = "Axolotl started without multitask's plugin, so nothing of ours would be in it"
        details = "  fix: install multitask in the environment that runs the training"
        return NodeReport("failed", error=error, details=details, where=str(self._log))

    def _join(self, after: int) -> Attempt:
        """Wait for an attempt of node 0's that this node can take part in."""
        told = False
        while True:
            attempt = self.attempts.newest()
            if attempt is not None and attempt.number > after:
                ruling = self.attempts.ruling(attempt.number)
                if ruling is not None and ruling.verdict == "give up":
                    raise error_of(ruling, self.run)
                if ruling is None and self._is_open(attempt.number):
                    return attempt
            if not told:
                self.say("waiting for node 0")
                told = True
            self._leave_without_leader()
            self._pause()

    def _is_open(self, number: int) -> bool:
        own = self.attempts.report_of(number, self.node)
        if own is not None and own.state == "running":
            error = f"the supervisor of node {self.node} was started again"
            self.attempts.report(number, self.node, NodeReport("failed", error=error))
        return own is None

    def _await_ruling(self, number: int) -> Ruling:
        while True:
            if (ruling := self.attempts.ruling(number)) is not None:
                return ruling
            newest = self.attempts.newest()
            if newest is not None and newest.number > number:
                return Ruling("restart", "node 0 began another attempt")
            self._leave_without_leader()
            if self._hurried(number):
                raise TrainingStopped(f"{self._signals.name} twice; node 0 was not waited for")
            time.sleep(self.options.poll)

    def _hurried(self, number: int) -> bool:
        """Pass a signal on to an attempt that has ended here; whether another one came."""
        if self._signals.count and not self.attempts.stop_asked(number):
            self.attempts.ask_to_stop(number, self._signals.name)
            self.say(f"{self._signals.name}: the other nodes save and stop; once more stops at "
                      "once")  # fmt: skip
        return self._signals.count >= 2

    def _leave_without_leader(self) -> None:
        if self.pulses.silent(0) > self.options.patience:
            raise MultitaskError(
                f"node 0 gave no sign of life for {self.options.patience:.0f} s",
                where=self.run.root,
                fix="start `multitask train --resume` on node 0, with the same shared run "
                "directory, then here",
            )

    def _pause(self) -> None:
        if self._signals.count:
            raise TrainingStopped(f"{self._signals.name} while no training ran")
        time.sleep(self.options.poll)

    @property
    def _name(self) -> str:
        return f"{self.run.root.resolve()}:{self.node}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the node's lock on the run, and end what a killed supervisor left running."""
        self.attempts.folder.mkdir(parents=True, exist_ok=True)
        with (self.attempts.folder / f"node-{self.node}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise InputError(
                        "another `multitask train` is training this run on this node",
                        where=self.run.root,
                        fix="wait for it, or stop it with Ctrl-C or SIGTERM",
                    ) from None
                self.say(f"the run's disk has no locks ({error.strerror}); train it only once")
            left, stuck = end_processes(RUN_VARIABLE, self._name)
            if left:
                ended = len(left) - len(stuck)
                self.say(f"ended {ended} processes that a killed supervisor had left")
            for process in stuck:
                self.say(f"warning: {process}")
            yield


class _Watch:
    """Looks for a reason to end a launch that runs."""

    def __init__(
        self,
        supervisor: Supervisor,
        attempt: Attempt,
        follower: EventFollower,
        watcher: LogWatcher,
        watchdog: Watchdog,
    ) -> None:
        self._of, self._number, self._first = supervisor, attempt.number, attempt.step
        self._follower, self._watcher, self._watchdog = follower, watcher, watchdog
        self._deadline: float | None = None
        self._plugin = False

    @property
    def step(self) -> int:
        """The last step that is known of: events come seldom, and from node 0 alone."""
        told = self._watchdog.progress
        return max(self._follower.step, 0 if told is None else told.step)

    @property
    def stepped(self) -> bool:
        """Whether the attempt made any step itself."""
        return "step" in self._follower.seen or self.step > self._first

    @property
    def max_steps(self) -> int:
        """Steps in all; 0 before training starts."""
        return self._follower.max_steps

    def reason_to_end(self) -> NodeReport | None:
        """How the attempt ends on this node by our hand; None to let it run."""
        return self._plugin_missing() or self._peers() or self._stop() or self._stalled()

    def _stalled(self) -> NodeReport | None:
        why = self._watchdog.look()
        if why is None:
            return None
        where = str(self._of._log)
        return NodeReport("failed", self.step, self.stepped, error=why, where=where, stalled=True)

    def _plugin_missing(self) -> NodeReport | None:
        if self._plugin:
            return None
        # The log first: the plugin tells of itself before the words that the log is read for.
        self._watcher.poll()
        self._plugin = self._of.attempts.plugin_loaded(self._number, self._of.node)
        if _IMPORT_FAILED in self._watcher.found or (
            _ABOUT_TO_TRAIN in self._watcher.found and not self._plugin
        ):
            return self._of.without_plugin()
        return None

    def _peers(self) -> NodeReport | None:
        of = self._of
        if of.nodes == 1:
            return None
        for node in range(of.nodes):
            report = None if node == of.node else of.attempts.report_of(self._number, node)
            if report is not None and report.state in ("failed", "killed"):
                return self._killed(f"node {node} failed", stalled=report.stalled)
        newest = of.attempts.newest()
        if newest is not None and newest.number > self._number:
            return self._killed("node 0 began another attempt")
        dead = of.pulses.dead()
        if dead and (of.node == 0 or 0 in dead):
            return self._killed(f"node {dead[0]} no longer answers")
        return None

    def _killed(self, why: str, *, stalled: bool = False) -> NodeReport:
        return NodeReport("killed", self.step, self.stepped, error=why, stalled=stalled)

    def _stop(self) -> NodeReport | None:
        of = self._of
        stopped = NodeReport("stopped", self.step)
        if of._signals.count >= 2:
            return stopped
        if of._signals.count == 1 and not of.attempts.stop_asked(self._number):
            of.attempts.ask_to_stop(self._number, of._signals.name)
            of.say(f"{of._signals.name}: saving at the end of this step, then stopping; "
                    "once more stops at once")  # fmt: skip
        if not of.attempts.stop_asked(self._number):
            return None
        if "start" not in self._follower.seen:
            return stopped  # nothing to save yet
        if self._deadline is None:
            self._deadline = time.monotonic() + of.options.stop
        return stopped if time.monotonic() > self._deadline else None
