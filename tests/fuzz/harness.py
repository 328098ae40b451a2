"""Runs a command in this process and judges how it ended."""

from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

CPU_SECONDS = 5.0
MEMORY = 4 * 2**30

Make = Callable[[Random, Path], list[str]]


class Hang(BaseException):
    """The command has used its time."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        sort: ``done``, ``refused``, ``failed``, ``traceback``, ``hang``, ``partial`` or ``mute``.
        what: The message, or where the exception came from.
    """

    sort: str
    what: str = ""

    @property
    def good(self) -> bool:
        return self.sort in ("done", "refused", "failed")


def run_case(kind: str, number: int, make: Make) -> Outcome:
    """Make a case in a folder of its own, run its command there, and judge."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
    here = Path.cwd()
    os.chdir(folder)
    try:
        arguments = make(Random(f"{kind}-{number}"), folder)
        before = files_of(folder)
        outcome = run_command(arguments)
        if outcome.good:
            wrong = half_written(before, files_of(folder), arguments, outcome)
            if wrong:
                return Outcome("partial", wrong)
        return outcome
    finally:
        os.chdir(here)
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def half_written(before: set[str], after: set[str], arguments: list[str], end: Outcome) -> str:
    """What a command left that it should not have."""
    new = after - before
    torn = sorted(
        name for name in new if re.search(r"(^|/)\.[^/]*(\.partial|\.[a-z0-9_]{8})$", name)
    )
    if torn:
        return f"left {torn[0]}"
    if "--out" in arguments:
        out = arguments[arguments.index("--out") + 1]
        if end.sort != "done" and any(name == out or name.startswith(f"{out}/") for name in new):
            return f"refused, and {out} is there"
        outside = sorted(n for n in new if n != out and not n.startswith(f"{out}/"))
        if outside:
            return f"wrote {outside[0]} outside {out}"
    return ""


def run_command(arguments: list[str]) -> Outcome:
    """Call ``multitask`` in this process."""
    from multitask.cli import main

    out, err = io.StringIO(), io.StringIO()
    saved = sys.argv
    sys.argv = ["multitask", *arguments]
    code: object = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), limited():
            main()
    except SystemExit as end:
        code = end.code
    except Hang:
        return Outcome("hang", " ".join(arguments))
    except BaseException as error:  # noqa: BLE001
        return Outcome("traceback", origin(error))
    finally:
        sys.argv = saved
    return judge(code, err.getvalue())


def judge(code: object, err: str) -> Outcome:
    if code in (0, None):
        return Outcome("done")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    last = lines[-1] if lines else err.strip()[-300:]
    if "Traceback (most recent call last)" in err or "internal error" in last:
        return Outcome("traceback", last)
    if code not in (1, 2) or not last:
        return Outcome("mute", f"exit code {code}: {last}")
    return Outcome("refused" if code == 2 else "failed", last)


def origin(error: BaseException) -> str:
    """An exception and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/multitask/" in f.filename and "/tests/" not in f.filename]
    frame = (ours or frames)[-1]
    name = "/".join(Path(frame.filename).parts[-2:])
    text = " ".join(str(error).split())[:90]
    return f"{type(error).__name__} at {name}:{frame.lineno}: {text}"


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Bound the processor time of a block; a busy machine does not make it a hang."""

    def ring(number: int, frame: object) -> None:
        raise Hang

    previous = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


def limit_memory() -> None:
    """Have a bomb end in MemoryError instead of taking the machine's memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def warm_up() -> None:
    """Import what commands import, so that no case pays for it, or is stopped in the middle."""
    import typer.main

    import multitask.build
    import multitask.data.prepare
    import multitask.planning.compare
    import multitask.reports.write

    # Most of a case's time would be typer's, which makes all commands anew for each.
    typer.main.get_command = cache(typer.main.get_command)
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
        from transformers import AutoTokenizer, LlamaForCausalLM  # noqa: F401

        import multitask.evaluation.evaluate
        import multitask.hub.push  # noqa: F401
