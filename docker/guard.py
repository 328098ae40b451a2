"""Removes this RunPod pod after MULTITASK_MAX_HOURS, counted from its first start.

``guard.py check`` says whether it could; ``guard.py [PID]`` waits, asks the job's process to save a
checkpoint and stop some minutes before (SIGTERM), and then asks RunPod until the pod is gone. It
needs RUNPOD_POD_ID and RUNPOD_API_KEY, which RunPod sets in every pod. A single node of an Instant
Cluster cannot be removed: RunPod refuses, and the guard says so.

The request is that of dstack's client: core/backends/runpod/api_client.py, ``terminate_pod``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

API = "https://api.runpod.io/v2"
FIRST_WAIT, LONGEST_WAIT = 2.0, 300.0
MOST_GRACE = 600.0


def say(text: str) -> None:
    """Print a line to the container's log."""
    print(f"[guard] {text}", file=sys.stderr, flush=True)  # noqa: T201


def settings() -> tuple[float, str, str]:
    """The limit in seconds, the pod and its key; ends the program where one is missing."""
    text = os.environ.get("MULTITASK_MAX_HOURS", "")
    try:
        seconds = float(text) * 3600
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        say(f"error: MULTITASK_MAX_HOURS is {text!r}; give hours, such as 12 or 0.5")
        sys.exit(2)
    pod, key = os.environ.get("RUNPOD_POD_ID", ""), os.environ.get("RUNPOD_API_KEY", "")
    if not pod or not key:
        say("error: MULTITASK_MAX_HOURS cannot be kept without RUNPOD_POD_ID and RUNPOD_API_KEY")
        sys.exit(2)
    return seconds, pod, key


def first_start(pod: str) -> float:
    """When the pod was first started, in Unix seconds: a container that restarts gains no time."""
    folder = Path(os.environ.get("MULTITASK_VOLUME", "/workspace/data"))
    file = folder / f".guard-{pod}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(f"{time.time()}\n", encoding="ascii")
        return min(float(file.read_text(encoding="ascii")), time.time())
    except (OSError, ValueError) as error:
        say(f"the first start is not known ({error}); the hours count from now")
        return time.time()


def refusal(pod: str, key: str) -> str:
    """Ask for the removal; empty where the pod is gone already, else what RunPod said."""
    request = urllib.request.Request(  # noqa: S310
        f"{API}/pods/{pod}", method="DELETE", headers={"Authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return f"RunPod took the order ({answer.status})"
    except urllib.error.HTTPError as error:
        words = error.read(500).decode(errors="replace")
        return "" if error.code == 404 else f"RunPod REFUSES ({error.code}): {words}"
    except OSError as error:
        return f"RunPod DOES NOT ANSWER: {error}"


def main() -> None:
    """Wait, stop the job, remove the pod."""
    seconds, pod, key = settings()
    if sys.argv[1:] == ["check"]:
        return
    left = seconds - (time.time() - first_start(pod))
    grace = min(MOST_GRACE, seconds / 10)
    say(f"this pod is removed in {max(0.0, left) / 3600:.2f} hours")
    time.sleep(max(0.0, left - grace))
    if sys.argv[1:]:
        say("time is up: the job saves a checkpoint and stops")
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(sys.argv[1]), signal.SIGTERM)
    time.sleep(max(0.0, min(left, grace)))
    wait = FIRST_WAIT
    while answer := refusal(pod, key):
        say(f"{answer}. POD {pod} STILL BILLS; asking again in {wait:.0f} s")
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT)


if __name__ == "__main__":
    main()
