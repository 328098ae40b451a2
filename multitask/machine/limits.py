"""When a machine must end: pure rules over a clock that the caller reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multitask.machine.protocol import DEFAULT_GRACE_SECONDS, FINAL_PHASES, Phase

MOST_MARGIN = 900.0
"""Seconds kept at most before the end to save a checkpoint and fetch results."""
MARGIN_SHARE = 0.1
"""The same as a share of the whole time, for short jobs."""
UNSTARTED_SECONDS = 1800.0
"""A job that nobody has started cannot be detached: seconds without a client until it ends."""
STOP_SECONDS = 1200.0
"""How long a graceful stop may take before processes are killed; a supervisor takes 900."""
LATE_SECONDS = 300.0
"""How long after the end a machine's guard removes it, whatever its other processes do."""
LEADERLESS_SECONDS = 3600.0
"""Silence of node 0, in a job that needs a client, after which another node removes itself."""

_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """What a job may take.

    Attributes:
        started: Unix time at which the bill began.
        deadline: Unix time of its end.
        price_per_hour: USD an hour of all its machines together.
        max_cost: USD that it may cost.
        lost_client: Seconds without its client until it is stopped; None: it needs none.
        grace: Seconds after its end in which results are fetched.
    """

    started: float
    deadline: float | None = None
    price_per_hour: float | None = None
    max_cost: float | None = None
    lost_client: float | None = None
    grace: float = DEFAULT_GRACE_SECONDS

    def end(self) -> tuple[float, str] | None:
        """Unix time at which the machine must be gone, and why; None without a limit."""
        ends = []
        if self.deadline is not None:
            ends.append((self.deadline, "the time limit is reached"))
        if self.max_cost is not None and self.price_per_hour:
            seconds = self.max_cost / self.price_per_hour * _HOUR
            why = f"the cost limit of {self.max_cost:.2f} USD is reached"
            ends.append((self.started + seconds, why))
        return min(ends) if ends else None

    def stop_at(self) -> float | None:
        """Unix time at which a graceful stop begins, so that it is over before the end."""
        end = self.end()
        if end is None:
            return None
        return end[0] - min(MOST_MARGIN, MARGIN_SHARE * max(0.0, end[0] - self.started))

    def cost(self, now: float) -> float | None:
        """USD since the bill began; None when the price is not known."""
        if self.price_per_hour is None:
            return None
        return max(0.0, now - self.started) / _HOUR * self.price_per_hour


@dataclass(frozen=True)
class View:
    """What the rules look at.

    Attributes:
        now: Unix time.
        phase: Where the job stands.
        last_client: Unix time of the client's last request, or of the machine's start.
        ended_at: Unix time at which a final phase began; None before.
        released: Whether the client has said that it has all it needs.
    """

    now: float
    phase: Phase
    last_client: float
    ended_at: float | None = None
    released: bool = False


@dataclass(frozen=True)
class Action:
    """What the rules want: nothing, a graceful stop, or that the machine is removed."""

    kind: Literal["none", "stop", "remove"]
    why: str = ""


NOTHING = Action("none")


def decide(limits: Limits, view: View) -> Action:
    """Say what a job's machine must do now.

    The end is hard: a machine is removed at its deadline although results were not fetched.
    Before that a graceful stop saves a checkpoint.
    """
    final = view.phase in FINAL_PHASES
    end, stop_at = limits.end(), limits.stop_at()
    if end is not None and view.now >= end[0]:
        return Action("remove", end[1])
    if final:
        return _after_the_job(limits, view)
    if view.phase == "stopping":
        return NOTHING
    if view.released:
        return Action("stop", "the client has released the machine")
    if end is not None and stop_at is not None and view.now >= stop_at:
        return Action("stop", f"{end[1]} in {end[0] - view.now:.0f} s")
    return _without_client(limits, view)


def _after_the_job(limits: Limits, view: View) -> Action:
    if view.released:
        return Action("remove", "the client has released the machine")
    since = view.now - (view.now if view.ended_at is None else view.ended_at)
    if since >= limits.grace:
        return Action("remove", f"the job ended {since:.0f} s ago")
    return NOTHING


def _without_client(limits: Limits, view: View) -> Action:
    silent = view.now - view.last_client
    longest = limits.lost_client
    if view.phase in ("waiting", "uploading"):
        longest = min(longest or UNSTARTED_SECONDS, UNSTARTED_SECONDS)
    if longest is not None and silent >= longest:
        return Action("stop", f"no request from the client for {silent:.0f} s")
    return NOTHING


def decide_follower(limits: Limits, *, now: float, leader_silent: float, ended: bool) -> Action:
    """Say what a node other than node 0 must do now; it removes itself alone.

    Args:
        limits: What the job may take.
        now: Unix time.
        leader_silent: Seconds since node 0's last sign of life on the volume.
        ended: Whether node 0 has said that the machines go.
    """
    end = limits.end()
    if end is not None and now >= end[0] + LATE_SECONDS and leader_silent >= LATE_SECONDS:
        return Action("remove", f"{end[1]}, and node 0 is silent for {leader_silent:.0f} s")
    if ended and leader_silent >= LATE_SECONDS:
        return Action("remove", "the job has ended, and node 0 is gone")
    needs_client = limits.lost_client is not None
    if needs_client and leader_silent >= max(LEADERLESS_SECONDS, limits.lost_client or 0.0):
        return Action("remove", f"node 0 is silent for {leader_silent:.0f} s")
    return NOTHING
