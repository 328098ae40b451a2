"""Why a launch failed: the first failing process, its traceback, and what to think of it."""

from __future__ import annotations

import re
import signal
from pathlib import Path

from multitask.training.attempts import NodeReport

_TAIL_BYTES = 400_000
_LAST_LINES = 20
_ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):.*?rank\s*: (\d+) \(local_rank: (\d+)\)"
    r".*?exitcode\s*: (-?\d+)",
    re.DOTALL,
)
_DIED_WITH = re.compile(r"died with <Signals\.(SIG\w+): \d+>")
_PREFIX = re.compile(r"^\[\w+\]:", re.MULTILINE)
# What the launchers raise because a process of theirs failed.
_LAUNCHERS = ("subprocess.CalledProcessError", "torch.distributed.elastic.multiprocessing.errors")
_CONNECTION = re.compile(
    r"closed by peer|reset by peer|connection refused|connection closed|timed? ?out|NCCL|gloo"
    r"|DistNetworkError|DistBackendError|DistStoreError|EADDRINUSE|address already in use"
    r"|ConnectionError|broken pipe|recvValue",
    re.IGNORECASE,
)
# torch's writer does not say what the system said: only that a file is not as long as it should be.
_DISK = re.compile(
    r"no space left on device|disk quota exceeded|errno 28\b|os error 28\b|enospc"
    r"|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+",
    re.IGNORECASE,
)


def read_failure(log: Path, rank_logs: Path | None, code: int, step: int) -> NodeReport:
    """Find out why a launch failed.

    Args:
        log: What all its processes wrote.
        rank_logs: The folder of the single processes' logs, where there is one.
        code: The launch's exit code.
        step: The last step that was seen.

    Returns:
        The report, with the last line of the error and the traceback or the log's end.
    """
    text = _tail(log)
    who, own, where = "", text, log
    root = _ROOT_CAUSE.search(text)
    if root is not None:
        rank, local_rank, code = int(root[1]), root[2], int(root[3])
        who = f"rank {rank}: "
        logs = sorted(rank_logs.glob(f"*/attempt_0/{local_rank}/stderr.log")) if rank_logs else []
        if logs:
            own, where = _tail(logs[-1]), logs[-1]
    name = _signal_name(code, text)
    if name is not None:
        error, details = f"killed by {name}", _last_lines(own)
    else:
        details = last_traceback(own) or _last_lines(own)
        error = details.rstrip().rsplit("\n", 1)[-1].strip() or f"exit code {code}"
    return NodeReport(
        state="failed",
        step=step,
        error=f"{who}{error}",
        details=details,
        where=str(where),
        cause=not _CONNECTION.search(error),
    )


def last_traceback(text: str) -> str | None:
    """The last Python traceback in a log that is not a launcher's, at most its last 20 lines."""
    parts = _PREFIX.sub("", text).split("Traceback (most recent call last):\n")[1:]
    for part in reversed(parts):
        lines = part.splitlines()
        end = next((i for i, line in enumerate(lines) if line and not line[0].isspace()), None)
        if end is None or lines[end].startswith(_LAUNCHERS):
            continue
        frames = lines[: end + 1]
        if len(frames) > _LAST_LINES:
            frames = ["  ...", *frames[-_LAST_LINES:]]
        return "\n".join(["Traceback (most recent call last):", *frames])
    return None


def is_repeated(one: NodeReport, other: NodeReport) -> bool:
    """Whether two failures are the same one: at the same step, with the same words.

    Only the first process tells its step, and it may be one ahead of the one that fails.
    """
    return abs(one.step - other.step) <= 1 and _words(one.error) == _words(other.error)


def is_connection(report: NodeReport) -> bool:
    """Whether a failure is one of the network, which another try may not meet."""
    return _CONNECTION.search(report.error) is not None


def is_full_disk(report: NodeReport) -> bool:
    """Whether a failure is a full disk, which another try would meet again."""
    return _DISK.search(f"{report.error}\n{report.details}") is not None


def was_killed(report: NodeReport) -> bool:
    """Whether a process was ended by a signal rather than by an error of its own."""
    return "killed by SIG" in report.error


def _words(error: str) -> str:
    """An error without the addresses and numbers that differ each time."""
    return re.sub(r"0x[0-9a-f]+|\d+", "#", error)


def _signal_name(code: int, text: str) -> str | None:
    died = _DIED_WITH.findall(text)
    if died:
        return str(died[-1])
    # A shell's 128 + n, or Python's -n.
    number = -code if code < 0 else code - 128
    try:
        return signal.Signals(number).name if number > 0 else None
    except ValueError:
        return None


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_LAST_LINES:])
