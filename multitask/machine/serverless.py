"""A RunPod serverless worker: a job is a spec; its progress is streamed, its failures are failures.

The SDK runs in an environment of its own, so that it cannot move the training's pins; the job's
commands run with the interpreter that ``MULTITASK_PYTHON`` names.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from multitask.errors import InputError, MultitaskError
from multitask.machine.child import Child
from multitask.machine.exchange import FOLDER
from multitask.machine.files import ensure_volume
from multitask.machine.job_spec import JobInput, read_input
from multitask.machine.journal import Journal, StateFile
from multitask.machine.limits import STOP_SECONDS
from multitask.machine.logs import Log
from multitask.machine.progress import Progress
from multitask.machine.settings import cache_variables
from multitask.run import Run, write_atomic

DEFAULT_VOLUME = "/runpod-volume"
ENV_PYTHON = "MULTITASK_PYTHON"

_POLL_SECONDS = 0.5
_MOST_PROGRESS = 200
_STREAMED = ("phase", "progress", "metrics", "checkpoint", "restart")

Update = dict[str, Any]


def start() -> int:
    """Take jobs until the platform ends the worker.

    Raises:
        InputError: The SDK is not installed, or there is no volume.
    """
    try:
        import runpod
    except ImportError:
        raise InputError(
            "RunPod's SDK is not installed", fix="pip install 'multitask[serverless]'"
        ) from None
    volume = volume_of(os.environ)
    try:
        ensure_volume(volume)
    except OSError as error:
        raise InputError(
            f"the volume cannot be written to: {error.strerror or error}",
            where=volume,
            fix="attach a network volume to the endpoint",
        ) from None

    async def handler(job: dict[str, Any]) -> AsyncIterator[Update]:
        async for update in run_job(job, volume, os.environ):
            yield update

    # Training leaves nothing behind in this process, so a worker may take another job.
    runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
    return 0


def volume_of(environ: Mapping[str, str]) -> Path:
    """Where the endpoint's network volume is mounted."""
    return Path(environ.get("MULTITASK_VOLUME") or DEFAULT_VOLUME)


async def run_job(
    job: Mapping[str, Any],
    volume: Path,
    environ: Mapping[str, str],
) -> AsyncIterator[Update]:
    """Do a job; the last update is its result, or ``{"error": ...}``, which the SDK reports.

    Cancelled, it lets the training save a checkpoint first; the same input goes on from there.

    Args:
        job: The platform's job, with ``input``.
        volume: The worker's volume.
        environ: This process's variables.
    """
    try:
        given = read_input(job.get("input"), volume)
        worker = _Worker(given, volume, environ)
        worker.check_spec()
        with _Termination() as termination:
            for phase, command in _steps(worker.run, given, environ):
                async for update in worker.do(phase, command, termination):
                    yield update
        yield worker.result()
    except MultitaskError as error:
        yield {"error": str(error)}
    except OSError as error:
        yield {"error": f"the volume: {error}"}


def _steps(run: Run, given: JobInput, environ: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """A job's commands with their phases."""
    from multitask.cluster import load_cluster

    python = environ.get(ENV_PYTHON) or "python"
    root = str(run.root)
    gpus = load_cluster(given.spec["cluster"]).gpus_per_node
    several = ["--processes", str(gpus)] if gpus > 1 else []
    arguments = [
        ("building", ["build-config", str(_spec_file(run)), "--out", root]),
        ("training", ["train", root, "--resume"]),
        ("evaluating", ["evaluate", root, *several]),
        ("reporting", ["report", root]),
    ]
    if given.spec.get("hub"):
        arguments.append(("pushing", ["push", root, given.spec["hub"]["repo"]]))
    return [(phase, [python, "-m", "multitask", *words]) for phase, words in arguments]


def _spec_file(run: Run) -> Path:
    return run.root.parent / f"{run.root.name}.yaml"


class _Worker:
    """A job on this worker's volume."""

    def __init__(self, given: JobInput, volume: Path, environ: Mapping[str, str]) -> None:
        self._given, self._environ = given, {**environ, **cache_variables(volume, environ)}
        self.run = Run(volume / "runs" / given.run_id)
        # Beside the run, which does not exist until it is built.
        state = self.run.root.parent / f"{given.run_id}.{FOLDER}"
        state.mkdir(parents=True, exist_ok=True)
        self._log = Log(state / "log.txt", environ)
        self._journal = Journal(state / "events.jsonl")
        self._state = StateFile(state / "state.json", given.run_id)
        self._read = len(self._journal)
        hours = given.max_hours
        self._until = float("inf") if hours is None else time.monotonic() + hours * 3600.0
        self._shown = 0

    def check_spec(self) -> None:
        """Check the spec as a whole, and that the worker has the GPUs of its cluster."""
        import yaml

        from multitask.cluster import load_cluster
        from multitask.machine.checks import count_gpus
        from multitask.spec import load_spec

        path = _spec_file(self.run)
        write_atomic(path, yaml.safe_dump(self._given.spec, sort_keys=False))
        try:
            spec = load_spec(path)
            cluster = load_cluster(spec.cluster)
        except InputError as error:
            raise InputError(str(error).replace(f"{path}: ", "spec: ")) from None
        if cluster.nodes != 1 or cluster.gpus_per_node != count_gpus():
            raise InputError(
                f"the cluster {spec.cluster!r} has {cluster.nodes} node(s) with "
                f"{cluster.gpus_per_node} GPUs, and this worker {count_gpus()} GPUs",
                where="key 'cluster'",
                fix="name a cluster of one node with as many GPUs as the endpoint's workers have",
            )

    async def do(
        self, phase: str, command: list[str], termination: _Termination
    ) -> AsyncIterator[Update]:
        """Run a command to its end, and pass on what it tells meanwhile.

        Raises:
            MultitaskError: It failed, or was stopped.
        """
        yield {"phase": phase, "run": str(self.run.root)}
        progress = Progress(self.run, self._journal, self._state) if phase == "training" else None
        child = Child(phase, command, self._log, self._environ)
        why: str | None = None
        try:
            while (code := child.poll()) is None:
                if progress is not None:
                    progress.poll()
                for update in self._updates():
                    yield update
                if why is None and (why := self._reason_to_stop(termination)) is not None:
                    child.stop()
                await asyncio.sleep(_POLL_SECONDS)
        except (asyncio.CancelledError, GeneratorExit):
            await self._save_and_end(child)
            raise
        if progress is not None:
            progress.poll()
        for update in self._updates():
            yield update
        if why is not None:
            raise MultitaskError(
                f"stopped while {phase}: {why}", fix="send the input again to go on"
            )
        if code != 0:
            raise MultitaskError(f"{phase} failed with exit code {code}: {child.error()}")

    def result(self) -> Update:
        """What came of the job: every evaluation, and where the model is."""
        evaluations = {
            path.parent.name: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(self.run.evaluations.glob("*/results.json"))
        }
        hub = self._given.spec.get("hub")
        return {
            "phase": "done",
            "run": str(self.run.root),
            "model": str(self.run.model),
            "hub": f"https://huggingface.co/{hub['repo']}" if hub else None,
            "evaluations": evaluations,
        }

    def _reason_to_stop(self, termination: _Termination) -> str | None:
        if termination.asked:
            return "the platform ends this worker; a checkpoint was saved"
        if time.monotonic() > self._until:
            return f"the limit of {self._given.max_hours} hours is reached; a checkpoint was saved"
        return None

    async def _save_and_end(self, child: Child) -> None:
        """Let a cancelled job's training save its checkpoint."""
        self._log.say("the job was cancelled")
        child.stop()
        until = time.monotonic() + STOP_SECONDS
        try:
            while child.poll() is None and time.monotonic() < until:
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            child.kill()

    def _updates(self) -> list[Update]:
        found = self._journal.read(self._read)
        self._read += len(found)
        return [dict(event) for event in found if self._is_shown(dict(event))]

    def _is_shown(self, event: Update) -> bool:
        """Whether an event is streamed: of the steps' losses not more than a few hundred."""
        kind: str = event["kind"]
        if kind != "progress":
            return kind in _STREAMED
        every = max(1, event["steps"] // _MOST_PROGRESS)
        shown: int = event["step"] // every
        is_new, self._shown = shown != self._shown, shown
        return is_new


class _Termination:
    """Notes SIGTERM and hands it on to the SDK, whose handler would end the worker unsaved."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> _Termination:
        try:
            self._before = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread: the SDK's own server, which has no jobs to save
            self._before = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        if callable(self._before):
            self._before(number, frame)
