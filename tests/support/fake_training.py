"""A training without a model: real processes, events, checkpoints, barriers, and planned faults.

``python fake_training.py RUN NODE NODES CHECKPOINT`` makes 12 steps of 50 ms. As with a collective,
no node goes on to a step before all have come there, and a peer's failure is not told.
``RUN/faults.json`` says what goes wrong: ``{"ATTEMPT": {"NODE": [STEP, HOW]}}``; see ``fail``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from multitask.checkpoints import Inputs, Marker, fingerprint, step_of, write_marker
from multitask.run import Run
from multitask.training.attempts import ATTEMPT, announce_plugin, stop_requested
from multitask.training.progress import own_progress_file, show_stacks_on_signal, write_event

STEPS, EVERY = 12, 3


def main(root: str, node: str, nodes: str, checkpoint: str) -> None:
    run, number = Run(Path(root)), os.environ[ATTEMPT]
    faults = json.loads((run.root / "faults.json").read_text()).get(number, {})
    fault = faults.get(node)
    if not fault or fault[1] != "no plugin":
        announce_plugin(run)
    print("Starting trainer...", flush=True)
    if fault and fault[1] == "no plugin":
        time.sleep(30)
    step = step_of(Path(checkpoint)) or 0 if checkpoint else 0
    state = SimpleNamespace(is_world_process_zero=node == "0", global_step=step, max_steps=STEPS)
    if fault and fault[0] == 0:
        fail(fault[1], run)
    write_event(run.trainer_events, "start", state)
    show_stacks_on_signal()
    progress = own_progress_file()
    if progress is not None:
        progress.tell(step, "starting")
    while state.global_step < STEPS:
        # Before the barrier: else the others might save one more checkpoint, or not.
        if fault and state.global_step == fault[0]:
            fail(fault[1], run)
        meet(run, f"{number}-{state.global_step}", node, int(nodes))
        time.sleep(0.05)
        state.global_step += 1
        write_event(run.trainer_events, "step", state)
        if progress is not None:
            progress.tell(state.global_step, "training")
        stop = stop_requested(run) if node == "0" else False
        if node == "0" and (stop or state.global_step % EVERY == 0):
            save(run, state.global_step, int(nodes))
        if stop:
            (run.root / f"stopped-{number}").touch()
        meet(run, f"{number}-{state.global_step}-end", node, int(nodes))
        if (run.root / f"stopped-{number}").exists():
            write_event(run.trainer_events, "stopped", state)
            return
    if fault and fault[0] == STEPS:
        fail(fault[1], run)


def meet(run: Run, name: str, node: str, nodes: int) -> None:
    folder = run.root / "sync"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}-of-{node}").touch()
    while not all((folder / f"{name}-of-{other}").exists() for other in range(nodes)):
        time.sleep(0.01)


def save(run: Run, step: int, nodes: int) -> None:
    folder = run.model / f"checkpoint-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    files = {"trainer_state.json": fingerprint(folder / "trainer_state.json")}
    write_marker(folder, Marker(step, time.time(), "plain", Inputs.of(run, nodes), files))


def fail(how: str, run: Run) -> None:
    if how == "until asked to stop":
        while not stop_requested(run):
            time.sleep(0.01)
        return
    if how == "exit":
        sys.exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "disk":
        raise OSError(28, "No space left on device")
    if how == "hang":
        time.sleep(600)
    raise RuntimeError(f"bad tensor at 0x{time.time_ns():x}")


if __name__ == "__main__":
    main(*sys.argv[1:])
