"""Whether what is installed can be imported, found in fresh processes and never in this one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import multitask
from multitask.doctor.bounded import NoAnswerError, Pending, run_program
from multitask.doctor.check import Check, ok, problem, warning
from multitask.doctor.packages import GROUP, installed
from multitask.doctor.subject import Subject
from multitask.errors import InputError
from multitask.files import read_mapping
from multitask.quiet import set_library_variables

_PLUGIN = "multitask.plugin.MultitaskPlugin"
# A tenth of a second where all is well.
_FIND_SECONDS = 20.0
# A cold disk on a fresh node takes minutes to give torch and what it needs.
_IMPORT_SECONDS = 300.0

# Packages with compiled parts that are built for one torch: (package, what is imported).
_COMPILED = (("flash-attn", "flash_attn_2_cuda"), ("bitsandbytes", "bitsandbytes"),
             ("deepspeed", "deepspeed"))  # fmt: skip

_FIND = """
import json
from importlib.util import find_spec
found = {}
for name in ("multitask.plugin", "axolotl"):
    try:
        spec = find_spec(name)
    except ModuleNotFoundError:
        spec = None
    found[name] = spec.origin if spec else None
print(json.dumps(found))
"""
_LOAD = """
import importlib, sys
for name in sys.argv[1:]:
    module, _, attribute = name.rpartition(".")
    getattr(importlib.import_module(module), attribute)
"""
_TORCH = """
import torch
cuda = torch.cuda.is_available()
words = [torch.__version__]
if cuda:
    for i in range(torch.cuda.device_count()):
        x = torch.ones(256, 256, device=f"cuda:{i}", dtype=torch.bfloat16)
        assert float((x @ x)[0, 0]) == 256, f"GPU {i} computes wrong results"
    words.append(f"{torch.cuda.device_count()} GPUs, and they compute")
print(", ".join(words))
"""


def find_plugin(subject: Subject) -> Pending[Check]:
    """Begin to look whether a training's process would find our plugin; nothing is imported."""
    return Pending(lambda: _find(subject), _FIND_SECONDS + 1)


def plugin_check(pending: Pending[Check]) -> Check:
    """What was found."""
    try:
        return pending.get()
    except NoAnswerError as error:
        return warning(GROUP, "plugin", f"a fresh Python gives {error}", "see what slows it down")


def _find(subject: Subject) -> Check:
    name, folder = "plugin", _folder(subject)
    done = run_program(
        [sys.executable, "-c", _FIND], _FIND_SECONDS, folder=folder, environment=_environment()
    )
    if done.code:
        return problem(GROUP, name, f"a fresh Python ends with: {done.last_words}", "mend it")
    found = json.loads(done.out.splitlines()[-1])
    where = found["multitask.plugin"]
    if where is None:
        text = f"a Python started in {folder} finds no multitask: Axolotl would train without it"
        fix = "pip install multitask; a relative PYTHONPATH is lost"
        return problem(GROUP, name, text, fix)
    own = Path(multitask.__file__).parent.resolve()
    if Path(where).resolve().parent != own:
        text = f"a training would take {where}, and this is {own}"
        return problem(GROUP, name, text, "remove one of the two from the environment")
    if found["axolotl"] is None:
        return ok(GROUP, name, "can be found; Axolotl is not installed")
    return ok(GROUP, name, "can be found from the training's folder; --imports loads it")


def import_checks(subject: Subject) -> Callable[[], list[Check]]:
    """Begin to import torch, compiled packages and the plugins; what is called waits for them.

    Args:
        subject: A run's own list of plugins is taken, where it has one.
    """
    asked = []
    if installed("torch") is not None:
        asked.append(("import torch", _start(subject, _TORCH)))
        for package, module in _COMPILED:
            if installed(package) is not None:
                asked.append((f"import {package}", _start(subject, f"import {module}")))
    if installed("axolotl") is not None:
        plugins = _plugins(subject)
        asked.append(("load plugins", _start(subject, _LOAD, *plugins)))
    return lambda: [_imported(name, pending) for name, pending in asked]


def _start(subject: Subject, code: str, *arguments: str) -> Pending[Check | str]:
    def work() -> Check | str:
        done = run_program(
            [sys.executable, "-c", code, *arguments],
            _IMPORT_SECONDS,
            folder=_folder(subject),
            environment=_environment(),
        )
        if done.code == 0:
            # Libraries print at import; torch's own line is the one that was asked for.
            lines = done.out.strip().splitlines() if code == _TORCH else []
            return lines[-1] if lines else "can be imported"
        words = done.err.strip().splitlines() or [f"exit code {done.code}"]
        return problem(GROUP, "", words[-1], "")

    return Pending(work, _IMPORT_SECONDS + 2)


def _imported(name: str, pending: Pending[Check | str]) -> Check:
    try:
        result = pending.get()
    except NoAnswerError as error:
        return warning(GROUP, name, str(error), "try again: a cold disk is slow the first time")
    if isinstance(result, str):
        return ok(GROUP, name, result)
    fix = "install it anew, built for the installed torch"
    if name == "load plugins":
        fix = "mend what it says: Axolotl only logs it, and trains without the plugin"
    return problem(GROUP, name, result.found, fix)


def _plugins(subject: Subject) -> list[str]:
    if subject.run is None or not subject.run.axolotl.is_file():
        return [_PLUGIN]
    try:
        config = read_mapping(subject.run.axolotl)
        return [str(plugin) for plugin in config.get("plugins") or []] or [_PLUGIN]
    except (InputError, TypeError):
        return [_PLUGIN]  # told by the checks of the run


def _folder(subject: Subject) -> Path:
    """Where a training is started: the run directory, not the user's own folder."""
    return subject.run.root if subject.run is not None else Path("/")


def _environment() -> dict[str, str]:
    from multitask.runners.validate import without_launcher

    environment = without_launcher(os.environ)
    set_library_variables(environment)
    return environment
