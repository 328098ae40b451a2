"""Node 0's job: from the upload to the pushed model, within its limits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

from multitask.errors import InputError, MultitaskError
from multitask.machine.agent import Agent
from multitask.machine.checks import find_problems, is_settled
from multitask.machine.child import Child
from multitask.machine.commands import Commands
from multitask.machine.exchange import FOLDER, Exchange, Order
from multitask.machine.files import Files
from multitask.machine.journal import Journal, StateFile
from multitask.machine.limits import STOP_SECONDS, Action, View, decide
from multitask.machine.logs import Log
from multitask.machine.progress import Progress
from multitask.machine.protocol import Phase, Status
from multitask.machine.settings import Settings
from multitask.run import Run

CHECK_SECONDS = 900.0
"""How long nodes may take to come up and to hash their files."""

_STOPPED = 130
_AFTER: tuple[Phase, ...] = ("evaluating", "reporting", "pushing")


class Job:
    """A job on node 0; :meth:`tick` is called again and again and never waits.

    Attributes:
        settings: The job.
        files: The run's files.
        journal: Its events.
        state: Where it stands.
        log: Its log.
        released_at: When the client said that it has all it needs.
    """

    def __init__(
        self,
        settings: Settings,
        commands: Commands,
        log: Log,
        environ: Mapping[str, str],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        """Begin a job, or go on with the one that is in the run directory.

        Raises:
            InputError: The directory holds the job of another bundle.
        """
        root = settings.run_root
        self.settings, self.log = settings, log
        self.files = Files(root, settings.bundle)
        self.journal = Journal(root / FOLDER / "events.jsonl")
        self.state = StateFile(root / FOLDER / "state.json", settings.bundle)
        self.released_at: float | None = None
        if self.state.now.bundle != settings.bundle:
            raise InputError(
                "the run directory holds the job of another bundle",
                where=root,
                fix="create the job under another run id",
            )
        self._take_over()
        self._exchange = Exchange(root)
        self._commands, self._environ, self._check_seconds = commands, environ, check_seconds
        self._agent = Agent(self._exchange, settings.place, commands, log, environ)
        self._progress = Progress(Run(root), self.journal, self.state)
        self._last_client = time.time()
        self._start_asked = self._files_came = False
        self._stop_why: str | None = None
        self._stopping_since = 0.0
        self._order: Order | None = None
        self._check_until = 0.0
        self._child: Child | None = None
        self._go_on()

    # --- what the control server calls, from its own threads ---------------------------------

    @property
    def takes_files(self) -> bool:
        """Whether files may still be uploaded."""
        return self.state.now.phase in ("waiting", "uploading") and not self._start_asked

    def client_seen(self) -> None:
        """Note a request of the client's."""
        self._last_client = time.time()

    def uploading(self) -> None:
        """Note that files come in."""
        self._files_came = True

    def ask_to_start(self) -> None:
        """Start when it is not started yet."""
        self._start_asked = True

    def ask_to_stop(self, why: str) -> None:
        """Stop gracefully, unless the job is over."""
        if not self.state.now.final:
            self._stop_why = self._stop_why or why

    def status(self) -> Status:
        """The answer to ``GET /status``."""
        now, limits = self.state.now, self.settings.limits
        end = limits.end()
        return {
            "phase": now.phase,
            "run_id": self.settings.run_id,
            "bundle_sha256": now.bundle,
            "nodes_ready": len(self._exchange.greetings(self.settings.place.nodes)),
            "nodes": self.settings.place.nodes,
            "step": now.step,
            "steps": now.steps,
            "epoch": now.epoch,
            "loss": now.loss,
            "tasks": now.tasks or {},
            "attempt": now.attempt,
            "restarts": max(0, now.attempt - 1),
            "error": now.error,
            "exit_code": now.exit_code,
            "deadline": None if end is None else end[0],
            "cost_so_far": limits.cost(time.time()),
            "events": len(self.journal),
        }

    # --- the loop ----------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what there is to do.

        Raises:
            OSError: The volume cannot be read or written just now.
        """
        self._agent.tick()
        try:
            self._advance()
        except MultitaskError as error:
            self._fail(str(error), error.exit_code)

    def obey_limits(self) -> Action:
        """What the limits want of the machine now; a wish to stop is noted for the next tick."""
        now = self.state.now
        action = decide(
            self.settings.limits,
            View(
                now=time.time(),
                phase=now.phase,
                last_client=self._last_client,
                ended_at=now.ended_at,
                released=self.released_at is not None,
            ),
        )
        if action.kind == "stop":
            self.ask_to_stop(action.why)
        return action

    def interrupt(self) -> None:
        """Let the commands save, without ending the job: the container is being restarted."""
        for child in (self._agent.training, self._child):
            if child is not None:
                child.stop()

    def running(self) -> bool:
        """Whether a command of the job still runs."""
        children = (self._agent.training, self._child)
        return any(child is not None and child.poll() is None for child in children)

    def kill(self) -> None:
        """End all commands at once."""
        for child in (self._agent.training, self._child):
            if child is not None:
                child.kill()

    def dismiss(self) -> None:
        """Tell the other nodes that the machines go."""
        if self.settings.place.nodes > 1:
            self._exchange.give("end")

    def _take_over(self) -> None:
        """On a volume may lie a job that ended on machines rented before: it can go on here.

        One that was stopped or failed waits for its client again; the results of one that is done
        wait for it a grace's time from now.
        """
        rental = hashlib.sha256(self.settings.token.encode()).hexdigest()[:16]
        now = self.state.now
        if now.final and now.rental != rental:
            self.log.say(f"the job was {now.phase} on machines rented before")
            if now.phase == "done":
                self.state.set(rental=rental, phase="done", ended_at=time.time())
            else:
                again: Phase = "waiting"
                self.state.set(
                    rental=rental, phase=again, ended_at=None, error=None, exit_code=None
                )
        self.state.set(rental=rental)

    def _go_on(self) -> None:
        """After a restart of the container: what was being done is done again."""
        phase = self.state.now.phase
        if phase in ("checking", "training"):
            self.log.say(f"this machine was started again while {phase}; going on")
            self._begin_check()
        elif phase == "stopping":
            self._end("stopped", self.state.now.error, None)
        elif phase in _AFTER:
            self.log.say(f"this machine was started again while {phase}; going on")

    def _advance(self) -> None:
        phase = self.state.now.phase
        if self.state.now.final:
            return
        if phase == "stopping":
            self._finish_stop()
        elif self._stop_why is not None:
            self._begin_stop()
        elif phase in ("waiting", "uploading"):
            if self._start_asked:
                self._commands.check_place(self.settings.place)
                self._begin_check()
            elif self._files_came and phase == "waiting":
                self._phase("uploading")
        elif phase == "checking":
            self._watch_check()
        elif phase == "training":
            self._watch_training()
        else:
            self._watch_step(phase)

    def _begin_check(self) -> None:
        self._order = self._exchange.give("check")
        self._check_until = time.monotonic() + self._check_seconds
        self._phase("checking")

    def _watch_check(self) -> None:
        assert self._order is not None
        nodes = self.settings.place.nodes
        answers = {n: self._exchange.answer_of(n, self._order.number) for n in range(nodes)}
        nonces = self._exchange.greetings(nodes)
        if not is_settled(nonces, answers) and time.monotonic() < self._check_until:
            if all(facts is not None for facts in answers.values()):
                self._order = self._exchange.give("check")
            return
        problems = find_problems(self._commands.wanted(self.settings.bundle), nonces, answers)
        if problems:
            self._fail("the machines are not fit to train: " + "; ".join(problems), 1)
            return
        self.log.say(f"all {nodes} node(s) see the same volume, bundle and versions")
        self._order = self._exchange.give("train")
        self._phase("training")

    def _watch_training(self) -> None:
        self._progress.poll()
        assert self._order is not None
        code = self._exchange.end_of(self.settings.place.node, self._order.number)
        if code is None:
            return
        self._progress.poll()
        error = self._agent.error
        if code == 0:
            self._phase(self._commands.after("training"))
        elif code == _STOPPED:
            self._end("stopped", error or "the training was stopped", None)
        else:
            self._fail(error or f"the training ended with exit code {code}", code)

    def _watch_step(self, phase: Phase) -> None:
        if self._child is None:
            gpus = self._commands.wanted(self.settings.bundle).gpus
            command = self._commands.of(phase, gpus)
            self._child = Child(phase, command, self.log, self._environ)
            return
        code = self._child.poll()
        if code is None:
            return
        child, self._child = self._child, None
        if code != 0:
            self._fail(f"{phase}: {child.error() or f'exit code {code}'}", code)
            return
        following = self._commands.after(phase)
        if following == "done":
            self._end("done", None, 0)
        else:
            self._phase(following)

    def _begin_stop(self) -> None:
        self._stopping_since = time.monotonic()
        self.log.say(f"stopping: {self._stop_why}")
        self.interrupt()  # before anything is written: the volume may be full
        self.state.set(error=self._stop_why)
        self._phase("stopping")

    def _finish_stop(self) -> None:
        self._progress.poll()
        if self.running():
            if time.monotonic() - self._stopping_since > STOP_SECONDS:
                self.log.say("the commands do not stop; ending them")
                self.kill()
            return
        self._end("stopped", self.state.now.error, None)

    def _fail(self, error: str, code: int) -> None:
        self.log.say(f"error: {error}")
        self.journal.add("error", message=error)
        self._end("failed", error, code if code > 0 else 1)

    def _end(self, phase: Phase, error: str | None, code: int | None) -> None:
        self.state.set(error=error, exit_code=code, ended_at=time.time())
        self._phase(phase)

    def _phase(self, phase: Phase) -> None:
        self.state.set(phase=phase)
        self.log.say(f"phase: {phase}")
        self.journal.add("phase", phase=phase)
