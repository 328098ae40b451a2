"""Follow a job on rented machines until it ends, one way or another."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from multitask.machine import protocol
from multitask.runpod import api
from multitask.runpod.client import RunPod
from multitask.runpod.control import Control, UnreachableError
from multitask.runpod.machines import StoppedBySignalError, nodes_of
from multitask.runpod.offers import RESERVE_SECONDS
from multitask.runpod.options import Timing
from multitask.runpod.problems import ServiceError
from multitask.runpod.record import Record
from multitask.runpod.signals import Signals

_LAST_EVENTS = 20
_SURELY_GONE = 2


class Display(Protocol):
    """What is told how the job goes."""

    def status(self, status: protocol.Status) -> None:
        """The job's state, every few seconds."""

    def event(self, event: protocol.Event) -> None:
        """One thing that happened."""

    def say(self, message: str) -> None:
        """A line for people."""


@dataclass(frozen=True)
class Ending:
    """How it ended.

    Attributes:
        phase: ``done``, ``failed``, ``stopped``, or ``dead`` where the machines are lost.
        why: What was wrong; empty when nothing was.
        silence: Seconds since the machine had last been heard.
    """

    phase: str
    why: str = ""
    silence: float = 0.0


class Follower:
    """Watches one job through its control server, and its machines through the platform."""

    def __init__(
        self,
        control: Control,
        service: RunPod,
        record: Record,
        signals: Signals,
        timing: Timing,
        display: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch the machines of ``record``."""
        self._control, self._service, self._record = control, service, record
        self._signals, self._timing, self._display, self._clock = signals, timing, display, clock
        self._heard = self._clock()
        self._looked = float("-inf")
        self._unhealthy: float | None = None
        self._mute: float | None = None
        self._gone = 0
        self._restarted: set[str] = set()
        self._silent_said = False
        self._stopping: float | None = None
        self._told = False
        self._next: int | None = None

    def run(self) -> Ending:
        """Follow until the job has ended.

        Raises:
            StoppedBySignalError: A second signal asked for an end at once.
            RefusedError: The machine does not accept us.
        """
        while True:
            found = self._obey() or self._listen() or self._look()
            if found is not None:
                return found
            if time.time() > self._record.deadline + RESERVE_SECONDS:
                return self._dead("the machine outlived its deadline")

    def _obey(self) -> Ending | None:
        """The first signal asks the machine for a checkpoint, the second ends everything."""
        asked = self._signals.count
        if asked >= 2:
            raise StoppedBySignalError("interrupted twice: no checkpoint was waited for")
        if asked == 1 and self._stopping is None:
            self._stopping = self._clock()
            self._display.say(
                "stopping: the machine saves a checkpoint, then results are fetched and it is "
                "removed; Ctrl-C again removes it at once"
            )
        if self._stopping is not None and not self._told:
            try:
                self._control.stop("interrupted by the user")
                self._told = True
            except UnreachableError as error:
                self._silent(str(error))
        if self._stopping is not None and self._clock() - self._stopping > self._timing.stop:
            return Ending("stopped", "the machine did not stop in time")
        return None

    def _listen(self) -> Ending | None:
        try:
            status = self._control.status()
            if self._next is None:
                self._next = max(0, status.get("events", 0) - _LAST_EVENTS)
            page = self._control.events(self._next, self._timing.events)
        except UnreachableError as error:
            self._silent(str(error))
            return None
        self._heard, self._mute, self._silent_said = self._clock(), None, False
        for event in page["events"]:
            self._display.event(event)
        self._next = page["next"]
        self._display.status(status)
        if status["phase"] in protocol.FINAL_PHASES:
            return Ending(status["phase"], status.get("error") or "")
        return None

    def _silent(self, why: str) -> None:
        if not self._silent_said:
            self._silent_said = True
            self._display.say(f"no answer: {why.splitlines()[0]}; trying again")
        self._signals.pause(self._timing.poll)

    def _look(self) -> Ending | None:
        """Ask the platform how the machines are, now and then and when there is silence."""
        now = self._clock()
        silent = now - self._heard > 2 * self._timing.poll
        if now - self._looked < (self._timing.poll if silent else self._timing.platform):
            return None
        self._looked = now
        try:
            pods = nodes_of(self._service, self._record)
        except ServiceError as error:
            if error.status in (401, 403):
                raise
            # The network is gone here; the machine has its own timers. Silence is counted from
            # where it is back.
            self._mute = None
            return None
        problem = self._problem(pods)
        if problem is None:
            self._unhealthy = None
            return self._muteness(now)
        if self._unhealthy is None:
            self._unhealthy = now
            self._display.say(problem)
        self._gone = 0 if pods else self._gone + 1
        lasts = now - self._unhealthy > self._timing.silence
        if self._gone >= _SURELY_GONE or lasts or (pods and self._record.kind == "pod"):
            return self._dead(problem)
        return None

    def _muteness(self, now: float) -> Ending | None:
        """Machines that run while their control server says nothing."""
        if now - self._heard <= 2 * self._timing.poll:
            return None
        if self._mute is None:
            self._mute = now
        if now - self._mute > self._timing.silence:
            return self._dead("the control server is silent")
        return None

    def _dead(self, why: str) -> Ending:
        return Ending("dead", why, self._clock() - self._heard)

    def _problem(self, pods: list[api.Pod]) -> str | None:
        """What is wrong with the machines; a pod that may be started again is."""
        if not pods:
            return f"{self._record.name} is gone"
        for pod in pods:
            if pod.status in api.DEAD:
                self._start_again(pod)
                return f"pod {pod.id} (node {pod.rank or 0}) is {pod.status}"
        if len(pods) < self._record.nodes:
            return f"{len(pods)} of {self._record.nodes} nodes are left"
        return None

    def _start_again(self, pod: api.Pod) -> None:
        """Ask once; RunPod may refuse it for members of a cluster."""
        if pod.id in self._restarted or "start" not in pod.actions or pod.cluster is None:
            return
        self._restarted.add(pod.id)
        try:
            self._service.act(pod.id, "start")
            self._display.say(f"pod {pod.id} is {pod.status}: started again")
        except ServiceError as error:
            self._display.say(f"pod {pod.id} cannot be started again: {error.detail}")
