"""A machine's main loop, and its guard: a process of its own that ends the bill at all events."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

from multitask.errors import MultitaskError
from multitask.machine.agent import Agent
from multitask.machine.commands import Commands
from multitask.machine.exchange import FOLDER, Exchange, Silence
from multitask.machine.files import ensure_volume
from multitask.machine.job import CHECK_SECONDS, Job
from multitask.machine.limits import LATE_SECONDS, Limits, decide_follower
from multitask.machine.logs import Log
from multitask.machine.protocol import ENV_PORT
from multitask.machine.removal import Remover
from multitask.machine.settings import Settings, cache_variables, network_variables
from multitask.training.interrupts import Interrupts

POLL_SECONDS = 0.5
SAVE_SECONDS = 600.0
"""How long a machine waits for its commands to save when its container is stopped."""

_VOLUME_SECONDS = 5.0

MakeCommands = Callable[..., Commands]


def run_machine(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    commands: MakeCommands = Commands,
    check_seconds: float = CHECK_SECONDS,
    host: str = "0.0.0.0",  # noqa: S104  # the platform's proxy comes from outside
) -> int:
    """Do a machine's part of a job until the machine is removed.

    Args:
        settings: The job.
        environ: This process's variables.
        commands: Makes the job's commands from the run directory.
        check_seconds: How long the nodes may take to be checked.
        host: Address of the control server.

    Returns:
        The exit code: 0 when the machine may go, 143 when its container is being stopped.

    Raises:
        MultitaskError: The machine cannot do its part.
    """
    try:
        ensure_volume(settings.volume)
    except OSError as error:
        raise MultitaskError(
            f"the volume cannot be written to: {error.strerror or error}",
            where=settings.volume,
            fix="mount a volume there, or set MULTITASK_VOLUME to where it is",
        ) from None
    place = settings.place
    root = settings.run_root
    full = {
        **environ,
        **network_variables(place, environ),
        **cache_variables(settings.volume, environ),
    }
    log = Log(root / FOLDER / ("log.txt" if place.node == 0 else f"log-{place.node}.txt"), full)
    log.say(f"node {place.node} of {place.nodes}, run {settings.run_id}")
    made = commands(root)
    with Interrupts() as interrupts:
        if place.node == 0:
            job = Job(settings, made, log, full, check_seconds=check_seconds)
            return _lead(job, host, interrupts)
        agent = Agent(Exchange(root), place, made, log, full)
        return _follow(agent, settings, log, interrupts)


def _lead(job: Job, host: str, interrupts: Interrupts) -> int:
    from multitask.machine.server import serve

    try:
        end_server = serve(job, host, job.settings.port)
    except OSError as error:
        raise MultitaskError(
            f"the control server cannot listen: {error.strerror or error}",
            where=f"port {job.settings.port}",
            fix=f"set {ENV_PORT} to a free port",
        ) from None
    job.log.say(f"the control server listens on port {job.settings.port}")
    try:
        while True:
            try:
                job.tick()
            except OSError as error:  # the timers go on while a volume fails
                job.log.say(f"the volume: {error}")
                time.sleep(_VOLUME_SECONDS)
            action = job.obey_limits()
            if interrupts.count:
                job.log.say(f"{interrupts.name}: the container is being stopped")
                job.interrupt()
                _wait_for(job.running, job.kill, interrupts)
                return 143
            if action.kind == "remove":
                job.log.say(f"removing the machine: {action.why}")
                try:
                    job.dismiss()
                except OSError as error:  # the others notice by our silence
                    job.log.say(f"the other nodes cannot be told: {error}")
                job.kill()
                return _remove(job.settings, job.log)
            time.sleep(POLL_SECONDS)
    finally:
        job.kill()
        end_server()


def _follow(agent: Agent, settings: Settings, log: Log, interrupts: Interrupts) -> int:
    silence = Silence(agent.exchange, 0)
    order, silent = None, 0.0
    try:
        while True:
            try:
                order = agent.tick()
                silent = silence.seconds()
            except OSError as error:
                log.say(f"the volume: {error}")
                time.sleep(_VOLUME_SECONDS)
            ended = order is not None and order.action == "end"
            action = decide_follower(
                settings.limits, now=time.time(), leader_silent=silent, ended=ended
            )
            if interrupts.count:
                log.say(f"{interrupts.name}: the container is being stopped")
                if agent.training is not None:
                    agent.training.stop()
                    _wait_for(lambda: _runs(agent), agent.training.kill, interrupts)
                return 143
            if ended and not Remover(settings, log.say).possible and not _runs(agent):
                return 0  # nobody bills a machine that is not the platform's
            if action.kind == "remove":
                log.say(f"removing this machine: {action.why}")
                return _remove(settings, log)
            time.sleep(POLL_SECONDS)
    finally:
        if agent.training is not None:
            agent.training.kill()


def guard(settings: Settings, environ: Mapping[str, str]) -> int:
    """Remove this machine some minutes after its end, whatever its other processes do.

    It looks at a clock alone: a hanging volume or a full memory does not stop it.
    """
    end = settings.limits.end()
    if end is None:
        return 0
    log = _stderr(environ)
    wait_until(end[0] + LATE_SECONDS)
    log(f"guard: {end[1]}, and the machine is still there")
    Remover(settings, log).remove()
    return 0


def remove_later(settings: Settings, environ: Mapping[str, str]) -> int:
    """Remove a machine that cannot work, after the time in which somebody may look at it."""
    limits = settings.limits
    say = _stderr(environ)
    say(f"this machine cannot work; it is removed in {limits.grace:.0f} s")
    wait_until(min(time.time() + limits.grace, _end_or_never(limits)))
    Remover(settings, say).remove()
    return 1


def wait_until(moment: float) -> None:
    """Sleep to a Unix time, in short naps: a suspended machine's clock jumps."""
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, 30.0))


def _end_or_never(limits: Limits) -> float:
    end = limits.end()
    return float("inf") if end is None else end[0]


def _remove(settings: Settings, log: Log) -> int:
    remover = Remover(settings, log.say)
    if not remover.possible:
        log.say("this machine is not the platform's, or has no key: it is not removed")
        return 0
    remover.remove()
    return 0


def _runs(agent: Agent) -> bool:
    return agent.training is not None and agent.training.poll() is None


def _wait_for(
    running: Callable[[], bool], kill: Callable[[], None], interrupts: Interrupts
) -> None:
    """Wait until nothing runs; a second signal, or too long a wait, ends it."""
    until = time.monotonic() + SAVE_SECONDS
    while running() and time.monotonic() < until and interrupts.count < 2:
        time.sleep(POLL_SECONDS)
    kill()


def _stderr(environ: Mapping[str, str]) -> Callable[[str], None]:
    hidden = [environ[name] for name in ("RUNPOD_API_KEY", "MULTITASK_TOKEN") if environ.get(name)]

    def say(message: str) -> None:
        for secret in hidden:
            message = message.replace(secret, "***")
        print(message, file=sys.stderr, flush=True)  # noqa: T201

    return say


def leave_on_term() -> None:
    """Let SIGTERM end a process that only waits."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
