"""What a command may raise, in words: whatever goes wrong ends in one message and an exit code."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from multitask.errors import InputError, MultitaskError, bounded
from multitask.formatting import one_line

DEBUG = "MULTITASK_DEBUG"
"""Where it is set, errors show where in the program they were raised."""

# Of the system's, these are no fault of what the user named.
_MACHINE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "free some space: the quota of this disk is used up",
    errno.EIO: "the disk fails: copy what is on it, and look at the system's log",
    errno.EROFS: "write to another place: this file system is mounted read-only",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "close other programs: the machine has no more open files to give",
    errno.ENOMEM: "use a machine with more memory",
    errno.ESTALE: "mount the network drive again",
}
_INPUT = {
    errno.ENOENT: "correct the path",
    errno.ENOTDIR: "correct the path: a part of it is a file, not a folder",
    errno.EISDIR: "give a file, not a folder",
    errno.EACCES: "ask for the right to read and write there, or choose another place",
    errno.EPERM: "ask for the right to read and write there, or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "the path is a symbolic link to itself: remove it",
    errno.EEXIST: "choose another name, or remove what is there",
    errno.ENOTEMPTY: "choose another name, or remove what is there",
}
_EXTRAS = {
    "train": (
        "accelerate", "axolotl", "deepspeed", "peft", "rouge_score", "sacrebleu", "safetensors",
        "tokenizers", "torch", "transformers", "wandb",
    ),
    "report": ("matplotlib",),
    "test": ("lm_eval",),
}  # fmt: skip


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that raises nothing but :class:`MultitaskError` and what typer itself raises."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            with _stoppable():
                return command(*args, **kwargs)
        except Exception as error:
            if _is_typers(error) or isinstance(error, MultitaskError):
                raise
            raise explain(error, [*args, *kwargs.values()]) from error

    return run


class _stoppable:  # noqa: N801 (a context manager, used like a function)
    """Lets SIGTERM unwind the stack, so that what is half written is removed."""

    def __enter__(self) -> None:
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._ours:
            signal.signal(signal.SIGTERM, _stop)

    def __exit__(self, *_: object) -> None:
        if self._ours and signal.getsignal(signal.SIGTERM) is _stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


_OWNER = os.getpid()


def _stop(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    if os.getpid() != _OWNER:
        # A process forked from this one has nothing of ours to tidy.
        os._exit(128 + number)
    print("stopped by SIGTERM", file=sys.stderr)  # noqa: T201
    raise SystemExit(128 + number)


def _is_typers(error: Exception) -> bool:
    """Whether an exception is how typer ends a command."""
    import click

    return isinstance(error, (click.ClickException, click.exceptions.Exit, click.Abort))


def explain(error: Exception, arguments: Sequence[object] = ()) -> MultitaskError:
    """The error of ours that says what an exception of Python's or a library's means.

    Args:
        error: What was raised.
        arguments: Those of the command; runs among them are searched for damage where the
            exception says too little.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, ModuleNotFoundError):
        found = _of_extra(error)
        if found is not None:
            return found
    if isinstance(error, MemoryError):
        return MultitaskError("out of memory", fix="use less data at once, or a larger machine")
    if isinstance(error, (ConnectionError, TimeoutError)):
        return MultitaskError(f"the network fails: {error}", fix="try again")
    for path in _runs(arguments):
        from multitask.digests import damage

        found = damage(path)
        if found is not None:
            return found
    if isinstance(error, RecursionError):
        return InputError("something that was read is nested too deeply", fix=_report())
    if isinstance(error, UnicodeError):
        return InputError(f"text that is not UTF-8: {error}", fix=_report())
    return MultitaskError(f"internal error: {_origin(error)}", fix=_report())


def _report() -> str:
    return (
        "this is a fault of multitask's: please report it with the command, what it read, and "
        f"what the same command prints with {DEBUG}=1"
    )


def _of_system(error: OSError) -> MultitaskError:
    number = error.errno or 0
    reason = bounded(error.strerror or str(error))
    where = error.filename2 or error.filename
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    if number in _INPUT:
        from multitask.files import remedy_for

        fix = (remedy_for(where) if isinstance(where, str) else None) or _INPUT[number]
        return InputError(reason[:1].lower() + reason[1:], where=where, fix=fix)
    return MultitaskError(reason[:1].lower() + reason[1:], where=where, fix=_MACHINE.get(number))


def _of_extra(error: ModuleNotFoundError) -> InputError | None:
    top = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if top in modules:
            return InputError(
                f"this command needs {top}, which is not installed",
                fix=f"pip install 'multitask[{extra}]' (see the README)",
            )
    return None


def _runs(arguments: Sequence[object]) -> Iterator[Path]:
    """The run directories among a command's arguments, or around a file among them."""
    for value in arguments:
        if isinstance(value, (list, tuple)):
            yield from _runs(value)
        elif isinstance(value, Path):
            for folder in (value, value.parent):
                if (folder / "spec.yaml").is_file():
                    yield folder
                    break


def _origin(error: Exception) -> str:
    """An exception, and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).parents[1])
    ours = [frame for frame in frames if frame.filename.startswith(package)]
    own = [frame for frame in ours if not frame.filename.endswith("guard.py")] or frames
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "?"
    text = one_line(error)
    return f"{type(error).__name__}: {text} ({place})"


def show(error: MultitaskError) -> None:
    """Print an error, without secrets; where it was raised too, if that was asked for."""
    from multitask.scrub import hide_patterns

    if os.environ.get(DEBUG):
        traceback.print_exception(error)
    text = hide_patterns(f"error: {error}")
    print(text.encode(errors="backslashreplace").decode(), file=sys.stderr)  # noqa: T201
